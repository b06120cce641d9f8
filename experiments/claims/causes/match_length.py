"""How many tokens must match before an induction head looks for what followed them?

    python -m experiments match_length

[A][B] … [A] → [B]: one token that occurred before is to be enough. Attention to what followed the only earlier
occurrence of the last m tokens, m = 1 … 6, where nothing was repeated before and where another fragment was, for every
head of SmolLM2, Gemma 3 270M and the small models trained here. Writes to figures/: match_length.csv, match_length.json
(verdicts), match_length.png (every head that looks back at any length). About 5 minutes on one CPU core, and 10 more
to train the small models once.
"""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.harness import begin, common_arguments, show_files
from experiments.judging import LANGUAGE, Effect, effect, judge
from experiments.subjects.induction_models import NAMED
from experiments.subjects.small_models import SEEDS, small_models
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.kinds.match_length import LENGTHS, MATCH_LENGTHS

INDUCTION = 0.4  # prefix matching from which a head counts as an induction head
SHOWN, MOST = 0.3, 24  # attention at some length from which a head is shown; heads of a model
# The criteria, written before anything was run: the maintainers had been told that SmolLM2's heads want about three.
ENOUGH = 0.5  # of what a head attends after six tokens
RAISED = 0.05  # of attention


def main(argv: list[str] | None = None) -> None:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=NAMED, help="names, Hugging Face ids or folders")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="small models of each kind; 0: none")
    args = parser.parse_args(argv)
    try:
        models = [*small_models(args.seeds), *map(load_model, args.models)]
    except ValueError as error:
        parser.error(str(error))
    begin(args.out)
    found = []
    with progress_bar(len(models), "scoring", shown=sys.stderr.isatty()) as tick:
        for model in models:
            found.append(measured(model))
            tick(1)
    table = pd.concat(found, ignore_index=True)
    table.round(5).to_csv(args.out / "match_length.csv", index=False)
    draw(table).savefig(args.out / "match_length.png", dpi=110)
    written = save_verdicts([one_is_enough(table), sooner(table)], args.out / "match_length.json")
    show_files([args.out / "match_length.csv", written, args.out / "match_length.png"])


def measured(model: HookedModel) -> pd.DataFrame:
    """Every head at every length, in both modes, beside its prefix matching."""
    period = 20 if (model.n_ctx or 101) < 101 else 50
    prefix = score_heads(model, repeated_tokens(model, period=period), scores=["prefix_matching"], loss=False)
    scores = score_heads(model, scores=list(MATCH_LENGTHS), loss=False)
    layer, head = torch.meshgrid(torch.arange(scores.n_layers), torch.arange(scores.n_heads), indexing="ij")
    columns = {score.name: scores[score.name] for score in MATCH_LENGTHS}
    columns = {"layer": layer, "head": head, "prefix_matching": prefix["prefix_matching"]} | columns
    flat = {name: values.flatten().cpu().numpy() for name, values in columns.items()}
    return pd.DataFrame({"model": model.name, **flat})


def one_is_enough(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model, heads in induction_heads(table):
        effects[model] = effect((heads["match_1"] / heads["match_6"]).tolist())
        numbers[model] = f"{told(effects[model])} of it; {by_length(heads)}; {len(heads)} heads"
        others = table[(table["model"] == model) & (table["prefix_matching"] <= INDUCTION)]
        control.append(f"{model} {others['match_6'].mean():.3f} after six")
    return Verdict(
        claim="One token that occurred before is enough: an induction head attends to what followed it",
        source="Olsson et al. 2022",
        measured=f"heads with prefix_matching > {INDUCTION}: attention from the last of m tokens, which occurred once "
        "before, to what followed them, where nothing was repeated before; mean of heads after one token over that "
        "after six",
        criterion=f"after one token more than {ENOUGH:.0%} of what it is after six",
        numbers=numbers | _missing(table),
        control="heads that are no induction heads: " + "; ".join(control),
        beforehand=True,
        **judge(effects, ENOUGH, unit="of that after six"),
    )


def sooner(table: Any) -> Verdict:
    effects, numbers = {}, {}
    for model, heads in induction_heads(table):
        effects[model] = effect((heads["match_2_in_repeats"] - heads["match_2"]).tolist())
        numbers[model] = f"{told(effects[model])}; {by_length(heads, '_in_repeats')} in repeats"
    return Verdict(
        claim="Where another fragment was repeated just before, a shorter match is enough",
        source="Edelman et al. 2024, Akyürek et al. 2024",
        measured="the same after two tokens, with seven tokens of another fragment of the block and a new one before "
        "them, less that with eight new tokens before them",
        criterion=f"higher by more than {RAISED:g} of attention",
        numbers=numbers | _missing(table),
        control="the same positions and tokens at the end of the prompt; what is repeated before is another fragment, "
        "so that no longer match is to be had; models trained on nothing but repeats have no other mode",
        beforehand=True,
        **judge(effects, RAISED, unit="of attention"),
    )


def induction_heads(table: Any) -> list[tuple[str, Any]]:
    """By model, its induction heads; models without one left out."""
    heads = table[table["prefix_matching"] > INDUCTION]
    return [(model, heads[heads["model"] == model]) for model in dict.fromkeys(map(str, heads["model"]))]


def by_length(heads: Any, mode: str = "") -> str:
    means = [f"{heads[f'match_{m}{mode}'].mean():.2f}" for m in LENGTHS]
    return f"attention after 1 to {LENGTHS[-1]} tokens {', '.join(means)}"


def told(found: Effect) -> str:
    return f"{found.value:+.2f}" + (f" ± {found.error:.2f}" if found.error is not None else "")


def _missing(table: Any) -> dict[str, str]:
    there = dict(induction_heads(table))
    best = table.groupby("model", sort=False)["prefix_matching"].max()
    return {
        str(model): f"no induction head (best prefix_matching {value:.2f}): not read"
        for model, value in best.items()
        if model not in there
    }


def draw(table: Any) -> Figure:
    """Heads that look back at some length, the best first, by m: a panel a model, the mean of small models first."""
    columns = [[f"match_{m}{mode}" for m in LENGTHS] for mode in ("", "_in_repeats")]
    large = [model for model in dict.fromkeys(map(str, table["model"])) if model.startswith(LANGUAGE)]
    small = table[~table["model"].isin(large)].query(f"prefix_matching > {INDUCTION}")
    shown: dict[str, Any] = {}
    if len(small):
        own = small.groupby("model", sort=False)[sum(columns, ["prefix_matching"])].mean().reset_index()
        shown["small models, mean of their induction heads"] = own.assign(label=own["model"])
    for model in large:
        own = table[(table["model"] == model) & (table[sum(columns, [])].max(axis=1) > SHOWN)]
        own = own.sort_values("prefix_matching", ascending=False).head(MOST)
        labels = [f"L{a}H{b}" for a, b in zip(own["layer"], own["head"], strict=True)]
        shown[model] = own.assign(label=labels)
    rows = max(map(len, shown.values()))
    figure, axes = plt.subplots(
        1, 2 * len(shown), figsize=(1.2 + 3.6 * len(shown), 1.2 + 0.2 * rows), layout="constrained", squeeze=False
    )
    image: Any = None
    for panel, (name, own) in enumerate(shown.items()):
        for mode in (0, 1):
            ax = axes[0][2 * panel + mode]
            image = ax.imshow(own[columns[mode]].to_numpy(float), aspect="auto", cmap="viridis", vmin=0, vmax=1)
            ax.set_xticks(range(len(LENGTHS)), LENGTHS)
            ax.set_yticks(range(len(own)), own["label"] if not mode else [""] * len(own), fontsize=7)
            ax.set_title(("nothing repeated", "after repeats")[mode], fontsize=8)
            ax.set_xlabel("tokens that match", fontsize=8)
        axes[0][2 * panel].set_ylabel(name, fontsize=9)
    figure.colorbar(image, ax=list(axes[0]), label="attention to what followed", pad=0.01)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
