"""Do induction heads read previous-token heads through their keys, and through nothing else?

    python -m experiments composition

For small models trained here (three kinds of data, five seeds each), the bundled model, SmolLM2 and Gemma 3 270M:
K-, Q- and V-composition of every pair of heads against Gaussian matrices of the same shapes. Writes to figures/:
composition.csv (every pair that is read), composition.json (verdict), composition_small.png (all pairs of one small
model), composition_pairs.png (the previous-token head and the induction heads, every model), and for the others
composition_circuit_MODEL.png. About 1 minute on 2 CPU cores, and 15 more to train the small models once.
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import begin, common_arguments, show_files
from experiments.judging import Effect, effect, judge
from experiments.subjects.induction_models import NAMED
from experiments.subjects.small_models import SEEDS, small_models
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import (
    HeadScores,
    HookedModel,
    composition_baseline,
    composition_scores,
    find_circuit,
    load_model,
    plot_circuit,
    plot_composition,
    repeated_tokens,
    score_heads,
)
from induction_lab.results.heads import Head

INDUCTION = 0.4  # prefix matching from which a head counts as an induction head
SPREADS = 2.0  # standard deviations of one random pair within which a score counts as "at the baseline"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    small = small_models(args.seeds)
    named = [load_model(name) for name in args.models]
    models = {model.name: model for model in (*small, *named)}
    looked = {name: looks(model) for name, model in models.items()}
    if not any(scores.above("prefix_matching", INDUCTION) for scores in looked.values()):
        raise SystemExit("None of these models has an induction head, so there is no pair to read: add --models.")
    table = pd.concat([read_pairs(model, looked[name]) for name, model in models.items()], ignore_index=True)
    table.round(5).to_csv(args.out / "composition.csv", index=False)
    without = {name: looked[name] for name in models if name not in set(table["model"])}
    found = verdict(table, without)
    written = [args.out / "composition.csv", save_verdicts([found], args.out / "composition.json")]
    figures: dict[str, Any] = {"small": draw_all_pairs([*small, *named][0]), "pairs": draw_pairs(table)}
    for model in named:
        figures[f"circuit_{model.name}"] = plot_circuit(find_circuit(model)).figure
    for name, figure in figures.items():
        written.append(args.out / f"composition_{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def looks(model: HookedModel) -> HeadScores:
    prompts = repeated_tokens(model, period=20 if (model.n_ctx or 0) < 101 else 50)
    return score_heads(model, prompts, scores=["previous_token", "prefix_matching"])


def read_pairs(model: HookedModel, scores: HeadScores) -> pd.DataFrame:
    """K, Q and V of the best previous-token head of an earlier layer and each induction head, and what others score."""
    composition = {kind: composition_scores(model, kind) for kind in "KQV"}
    mean, error = composition_baseline(model.d_model, model.d_head)
    rows = []
    for head in scores.above("prefix_matching", INDUCTION):
        earlier = scores["previous_token"][: head.layer]
        if not len(earlier):
            continue
        previous = Head(*divmod(int(earlier.argmax()), model.n_heads))
        facts = {"model": model.name, "previous": str(previous), "induction": str(head)}
        facts |= {"previous_token": float(earlier[previous]), "prefix_matching": float(scores["prefix_matching"][head])}
        for kind, all_pairs in composition.items():
            read = all_pairs[: head.layer, :, head.layer, head.head]
            facts |= {kind: float(read[previous]), f"{kind}_rank": 1 + int((read > read[previous]).sum())}
            facts[f"{kind}_median"] = float(read.median())
        rows.append(facts | {"baseline": mean, "spread": error * 64**0.5, "n_earlier": earlier.numel()})
    return pd.DataFrame(rows)


def verdict(table: pd.DataFrame, without: dict[str, HeadScores]) -> Verdict:
    """K-composition only; models in which no induction head formed say nothing about it, and are named."""
    numbers, effects = {}, {}
    for name, rows in table.groupby("model", sort=False):
        spread = rows["spread"].iloc[0]
        effects[str(name)] = effect(((rows["K"] - rows[["Q", "V"]].max(axis=1)) / spread).tolist())
        spans = ", ".join(f"{kind} {rows[kind].min():+.3f} … {rows[kind].max():+.3f}" for kind in "KQV")
        ranks = f"K rank 1 of {rows['n_earlier'].iloc[0]} earlier heads in {(rows['K_rank'] == 1).sum()} of {len(rows)}"
        text = f"{rows['previous'].iloc[0]} → {len(rows)} induction heads: {spans} (a random pair ±{spread:.3f})"
        numbers[str(name)] = f"{text}; {ranks}"
    for name, scores in without.items():
        best, loss = scores.top("prefix_matching", 1)[0][1], scores.loss_by_copy[1]
        facts = f"best prefix_matching {best:.2f}, loss on the second copy {loss:.2f}"
        numbers[name] = f"no induction head ({facts}): not read"
    medians = ", ".join(f"{kind} {table[f'{kind}_median'].mean():+.3f}" for kind in "KQV")
    return Verdict(
        claim="An induction head composes with the previous-token head through its keys, not its queries or values",
        source="Elhage et al. 2021",
        criterion="of the best earlier previous-token head and every head with prefix_matching above "
        f"{INDUCTION}: K exceeds the greater of Q and V, in the mean over heads, by more than {SPREADS:.0f} standard "
        "deviations of a random pair",
        numbers=numbers,
        control=f"the median over all earlier heads that the same induction heads could read: {medians}",
        **judge(effects, SPREADS, unit="standard deviations of a random pair"),
        caveat=_another(effects),
    )


def _another(effects: dict[str, Effect]) -> str:
    """Where it fails, what else may be the reason."""
    failing = [name for name, found in effects.items() if found.value <= SPREADS]
    if not failing:
        return ""
    return (
        f"In {', '.join(failing)} these keys do not read the head with the best previous-token score; they may read "
        "another previous-token head, as the figure of its circuit shows where there is one, or several that share the "
        "work, which one pair cannot tell."
    )


def draw_all_pairs(model: HookedModel) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    scores = {kind: composition_scores(model, kind) for kind in "KQV"}
    limit = max(float(all_pairs.abs().max()) for all_pairs in scores.values())
    for ax, (kind, all_pairs) in zip(axes, scores.items(), strict=True):
        plot_composition(all_pairs, title=f"{kind}-composition", limit=limit, ax=ax)
    figure.suptitle(model.name)
    return figure


def draw_pairs(table: pd.DataFrame) -> Figure:
    """Every pair a dot: composition minus baseline by kind, models side by side."""
    figure, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
    models = list(dict.fromkeys(table["model"]))
    for offset, (kind, colour) in enumerate({"K": "#d1495b", "Q": "#2a6f97", "V": "#8d99ae"}.items()):
        x = [models.index(name) + (offset - 1) * 0.22 for name in table["model"]]
        ax.plot(x, table[kind], "o", ms=4.5, color=colour, alpha=0.8, label=f"{kind}-composition")
    for place, name in enumerate(models):
        limit = SPREADS * table.loc[table["model"] == name, "spread"].iloc[0]
        ax.fill_between([place - 0.4, place + 0.4], -limit, limit, color="#222222", alpha=0.12, lw=0)
    ax.axhline(0, color="#222222", lw=0.8)
    ax.set_xticks(range(len(models)), models, rotation=20, ha="right")
    ax.set(ylabel="less Gaussian baseline", title="previous-token head → induction heads (grey: random pairs, ±2 sd)")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=NAMED, help="besides the small ones")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="small models of each kind")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
