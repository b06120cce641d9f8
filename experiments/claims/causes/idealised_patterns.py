"""Is where a head looks all there is to it? Exact patterns put in place of the heads' own.

    python -m experiments idealised_patterns

The previous-token head attends to the token before and to nothing else; the induction heads, alone and together,
to what followed each earlier occurrence and to BOS where there is none. Each keeps its values. How much of what
mean ablation costs does that give back? Patterns that are exactly wrong are the control. Writes to figures/:
idealised_patterns.csv, idealised_patterns.json (verdicts), idealised_patterns.png. About 1 minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import begin, show_files
from experiments.judging import Effect, judge
from experiments.subjects.induction_models import PREVIOUS, Subject, arguments, subjects
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import ablation_sweep

GIVEN_BACK, INDUCTION = 0.9, 0.5  # of the cost of ablation that must be given back
LEAST = 0.1  # nats that ablation must cost, or there is nothing to give back
METHODS = {
    "mean": "mean ablation",
    "ideal_previous_token": "exact previous token",
    "ideal_induction": "ideal induction",
}
KINDS = {
    "previous": (
        "ideal_previous_token",
        GIVEN_BACK,
        "With an exact pattern for its own, a previous-token head does",
    ),
    "induction": ("ideal_induction", INDUCTION, "With ideal patterns for their own, induction heads do"),
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    found, left_out = subjects(args.models, seeds=args.seeds, n_prompts=args.prompts)
    table = pd.concat([substituted(one) for one in found.values()], ignore_index=True)
    table.round(5).to_csv(args.out / "idealised_patterns.csv", index=False)
    verdicts = [verdict(found, table, left_out, group) for group in KINDS]
    written = [args.out / "idealised_patterns.csv", save_verdicts(verdicts, args.out / "idealised_patterns.json")]
    written.append(args.out / "idealised_patterns.png")
    draw(table).savefig(written[-1], dpi=110)
    show_files(written)


def substituted(one: Subject) -> pd.DataFrame:
    """Both kinds of heads under every substitute."""
    groups = {"previous": [one.previous], "induction": one.induction}
    groups |= {str(head): [head] for head in one.induction}
    tables = []
    for method in METHODS:
        how = {"method": method, "reference": one.reference, "progress": sys.stderr.isatty()}
        swept = ablation_sweep(one.model, one.prompts, heads=groups, **how)
        tables.append(swept.table.assign(method=method))
    table: Any = pd.concat(tables, ignore_index=True)
    costs = table[table["method"] == "mean"].set_index("label")["effect"]
    return table.assign(given_back=1 - table["effect"] / table["label"].map(costs))


def verdict(found: dict[str, Subject], table: Any, left_out: dict[str, str], group: str) -> Verdict:
    method, needed, what = KINDS[group]
    numbers, effects, controls = {}, {}, []
    which = f". {PREVIOUS}" if group == "previous" else ""
    wrong = "ideal_induction" if method == "ideal_previous_token" else "ideal_previous_token"
    for name, one in found.items():
        rows = table[(table["model"] == name) & (table["label"] == group)].set_index("method")
        cost, row = rows.loc["mean"], rows.loc[method]
        heads = str(one.previous) if group == "previous" else f"{len(one.induction)} heads"
        text = (
            f"{heads}: ablated {cost['effect']:+.2f}, idealised {row['effect']:+.3f} ± {row['standard_error']:.3f} nats"
        )
        if cost["effect"] < LEAST:
            numbers[name] = f"{text}: ablation costs too little to tell"
            continue
        effects[name] = Effect(row["given_back"], row["standard_error"] / cost["effect"], len(one.prompts))
        numbers[name] = f"{text}, {row['given_back']:.0%} given back"
        controls.append(f"{name} {rows.loc[wrong, 'given_back']:.0%}")
    return Verdict(
        claim=f"{what} at least {needed:.0%} of what ablation takes away",
        source="Redwood Research's comment in Olsson et al. 2022",
        criterion=f"at least {needed:.0%} of the rise of the second copy's loss under mean ablation is given back; "
        f"where that rise is below {LEAST} nats nothing is concluded{which}",
        numbers=numbers | left_out,
        control="the other ideal pattern in the same heads gives back " + (", ".join(controls) or "–"),
        **judge(effects, needed, unit="of the cost given back"),
    )


def draw(table: Any) -> Figure:
    """Loss on the second copy, intact, ablated and with each pattern."""
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.6), layout="constrained")
    colours = {"intact": "#8d99ae", "mean": "#d1495b", "ideal_previous_token": "#2a6f97", "ideal_induction": "#e09f3e"}
    for ax, group in zip(axes, ("previous", "induction"), strict=True):
        own = table[table["label"] == group]
        for offset, (method, colour) in enumerate(colours.items()):
            rows = own[own["method"] == ("mean" if method == "intact" else method)].set_index("model").loc[models]
            values = rows["clean"] if method == "intact" else rows["changed"]
            x = [place + (offset - 1.5) * 0.2 for place in range(len(models))]
            ax.bar(x, values, 0.19, color=colour, label=METHODS.get(method, method))
        names = [re.sub(r"-\d+-seed", " ", name) for name in models]
        ax.set_xticks(range(len(models)), names, rotation=25, ha="right", fontsize=7.5)
        title = "previous-token head" if group == "previous" else "induction heads together"
        ax.set(title=title, ylabel="loss on the second copy, nats")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
