"""Do heads that read what heads wrote matter, or only where they look?

    python -m experiments term_importance

With all attention patterns held, the loss with paths through at most 0, 1, 2, … heads; and pattern-preserving ablation
of whole layers. Both leave K- and Q-composition as it is and take V-composition (virtual heads) away. Writes to
figures/: term_importance.csv, term_importance.json (verdicts), term_importance.png. About 1 minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.harness import begin, show_files
from experiments.judging import Effect, judge
from experiments.subjects.induction_models import Subject, arguments, subjects
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import Head, ablation_sweep, plot_term_importance, term_importance

INTACT, DESTROYED = 0.05, 2.0  # nats: without layer 0's outputs at most, without layer 1's at least
DEEPEST = 6  # orders of a deep model that are summed one by one


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    found, left_out = subjects(args.models, seeds=args.seeds)
    tables, kept = {}, {}
    for name, one in found.items():
        few = one.prompts[: args.prompts]
        orders = min(one.model.n_layers, DEEPEST)
        tables[name] = {
            frozen: term_importance(one.model, few, orders=orders, freeze_norms=frozen, progress=sys.stderr.isatty())
            for frozen in (True, False)
        }
        kept[name] = layers_removed(one, few) if one.model.n_layers == 2 else None
    rows = [table.assign(norms="held" if frozen else "run") for own in tables.values() for frozen, table in own.items()]
    pd.concat(rows, ignore_index=True).round(5).to_csv(args.out / "term_importance.csv", index=False)
    found_verdict = verdict(tables, kept, left_out)
    written = [args.out / "term_importance.csv", save_verdicts([found_verdict], args.out / "term_importance.json")]
    written.append(args.out / "term_importance.png")
    draw(tables).savefig(written[-1], dpi=110)
    show_files(written)


def layers_removed(one: Subject, prompts) -> dict[int, dict]:
    """Pattern-preserving ablation of each whole layer."""
    groups = {
        str(layer): [Head(layer, head) for head in range(one.model.n_heads)] for layer in range(one.model.n_layers)
    }
    swept = ablation_sweep(one.model, prompts, heads=groups, method="pattern_preserving")
    return {layer: swept.of(str(layer)) for layer in range(one.model.n_layers)}


def verdict(tables: dict, kept: dict, left_out: dict[str, str]) -> Verdict:
    numbers, effects, weak, controls = {}, {}, [], []
    for name, by_norm in tables.items():
        values = {frozen: table.set_index("order")["value"] for frozen, table in by_norm.items()}
        terms = ", ".join(f"{order}: {value:.2f}" for order, value in values[True].items())
        if kept[name] is None:
            numbers[name] = f"loss with paths through at most n heads, {terms}: not a two-layer model, listed only"
            continue
        first, second = kept[name][0], kept[name][1]
        effects[name] = Effect(abs(first["effect"]), first["standard_error"])
        weak += [] if second["effect"] >= DESTROYED else [name]
        numbers[name] = (
            f"patterns preserved, without layer 0 {first['effect']:+.3f} ± {first['standard_error']:.3f}, without "
            f"layer 1 {second['effect']:+.2f}; loss with paths through at most n heads, {terms}"
        )
        own = ", ".join(f"{order}: {value:.2f}" for order, value in values[False].items())
        controls.append(f"{name} {own}")
    return Verdict(
        claim="Virtual heads are negligible: in a two-layer model nothing is lost with what layer 0 writes, as long as "
        "layer 1 looks where it looked",
        source="Elhage et al. 2021, term importance; Olsson et al. 2022, pattern-preserving ablation",
        criterion=f"pattern-preserving ablation of all heads of layer 0 moves the second copy's loss by at most "
        f"{INTACT} nats, of layer 1 raises it by at least {DESTROYED}",
        numbers=numbers | left_out,
        control="the same sums with norms run on each pass's own stream, which scale up a stream that lacks a part: "
        + ("; ".join(controls) or "–"),
        **judge(effects, INTACT, at_most=True, unit="nats", undecided=control_failed(weak)),
    )


def control_failed(weak: list[str]) -> str:
    return f"Without layer 1 too little is lost in {', '.join(weak)} to tell." if weak else ""


def draw(tables: dict) -> Figure:
    """Two-layer models with norms held and run, deeper ones beside them."""
    said = {True: "norms held", False: "norms run on what is there"}
    shallow = {name: own for name, own in tables.items() if len(own[True]) <= 3}
    deep = {f"{name}, {said[held]}": own[held] for name, own in tables.items() if name not in shallow for held in said}
    figure, axes = plt.subplots(1, 3 if deep else 2, figsize=(14 if deep else 9, 3.4), layout="constrained")
    for ax, held in zip(axes, said, strict=False):
        plot_term_importance({name: own[held] for name, own in shallow.items()}, ax=ax)
        by_kind(ax)
        ax.set_title(f"two layers, {said[held]}", fontsize=9)
    if deep:
        plot_term_importance(deep, ax=axes[2])
    return figure


def by_kind(ax: Axes) -> None:
    """A colour, and one line of the legend, for all seeds of a kind of data."""
    lines: dict[str, Any] = {}
    for drawn in ax.containers:
        kind = str(drawn.get_label()).rsplit("-seed", 1)[0]
        colour = f"C{list(dict.fromkeys([*lines, kind])).index(kind)}"
        for part in (drawn.lines[0], *drawn.lines[2]):  # type: ignore[attr-defined]
            part.set(color=colour, alpha=0.7)
        lines.setdefault(kind, drawn)
    ax.legend(lines.values(), lines.keys(), frameon=False, fontsize=8)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
