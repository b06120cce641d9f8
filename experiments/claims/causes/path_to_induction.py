"""Who tells the induction heads where to look, and through what?

    python -m experiments path_to_induction

Path patching: each earlier head's, MLP's and the embedding's direct path to the queries, keys or values of the
induction heads is cut, everything else left as it is. Grouped-query models are patched per query head. Writes to
figures/: path_to_induction.csv (every sender), path_to_induction.json (verdict), path_to_induction_MODEL.png (senders
by component), path_to_induction_shares.png (what the key of the best induction head is made of). About 8 minutes on 2
CPU cores, most of it SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import begin, show_files
from experiments.judging import Effect, judge
from experiments.panels import panels
from experiments.subjects.induction_models import PREVIOUS, Subject, arguments, subjects
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import Effects, Head, input_shares, patch_paths
from induction_lab.interventions.senders import Component

COMPONENTS: dict[Component, str] = {"k": "#d1495b", "q": "#2a6f97", "v": "#8d99ae"}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    found, left_out = subjects(args.models, seeds=args.seeds)
    paths, shares = {}, {}
    for name, one in found.items():
        few = one.prompts[: args.prompts] if name in args.models else one.prompts
        heads = receivers(one)
        how = {"reference": one.reference, "progress": sys.stderr.isatty()}
        paths[name] = {part: patch_paths(one.model, few, heads, part, **how) for part in COMPONENTS}
        shares[name] = input_shares(one.model, few, one.induction[0], "k", reference=one.reference)
    tables = [effects.table for by_component in paths.values() for effects in by_component.values()]
    pd.concat(tables, ignore_index=True).round(5).to_csv(args.out / "path_to_induction.csv", index=False)
    written = [args.out / "path_to_induction.csv"]
    found_verdict = verdict(found, paths, shares, left_out)
    written.append(save_verdicts([found_verdict], args.out / "path_to_induction.json"))
    figures = {name: draw_senders(found[name], paths[name]) for name in args.models if name in paths}
    figures["shares"] = draw_shares(found, shares)
    for name, figure in figures.items():
        written.append(args.out / f"path_to_induction_{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def receivers(one: Subject) -> list[Head]:
    """The induction heads of the first two layers that have any."""
    layers = sorted({head.layer for head in one.induction})[:2]
    return [head for head in one.induction if head.layer in layers]


def verdict(
    found: dict[str, Subject],
    paths: dict[str, dict[Component, Effects]],
    shares: dict[str, pd.DataFrame],
    left_out: dict[str, str],
) -> Verdict:
    numbers, effects, controls = {}, {}, []
    for name, one in found.items():
        rows = {component: effects.of(str(one.previous)) for component, effects in paths[name].items()}
        keys = rows["k"]
        heads: Any = paths[name]["k"].table
        heads = heads[heads["n_heads"] == 1].sort_values("effect", ascending=False)
        rank = heads["label"].tolist().index(str(one.previous)) + 1
        said = ", ".join(f"{c} {row['effect']:+.3f} ± {row['standard_error']:.3f}" for c, row in rows.items())
        to = " ".join(map(str, receivers(one)))
        numbers[name] = f"{one.previous} → {to}: {said}; to keys rank {rank} of {len(heads)} heads"
        second = heads[heads["label"] != str(one.previous)].iloc[0]
        most = max(rows["q"], rows["v"], second, key=lambda row: row["effect"])
        error = float(np.hypot(keys["standard_error"], most["standard_error"]))
        effects[name] = Effect(keys["effect"] - most["effect"], error, keys["n_prompts"])
        share = shares[name].set_index("sender")["share"]
        controls.append(
            f"{name}: next head to keys {second['label']} {second['effect']:+.3f}, {one.previous} is "
            f"{share[str(one.previous)]:.0%} of the change of {one.induction[0]}'s keys"
        )
    return Verdict(
        claim="A previous-token head tells the induction heads' keys, not their queries or values, and no other head "
        "tells them as much",
        source="Elhage et al. 2021; for SmolLM2's L16H0 a prediction made before it was looked at",
        criterion="cutting the direct path from the previous-token head to the induction heads' keys (those of their "
        "first two layers) raises the second copy's loss more than cutting that to queries, that to values, or that "
        f"from any other head to the keys: by how much more than the greatest of these. {PREVIOUS}",
        numbers=numbers | left_out,
        control="; ".join(controls),
        **judge(effects, 0.0, unit="nats"),
    )


def draw_senders(one: Subject, effects: dict[Component, Effects], most: int = 10) -> Figure:
    """The strongest senders through keys, queries and values."""
    tables = {component: found.table.set_index("label") for component, found in effects.items()}
    strongest = pd.concat([table["effect"].abs() for table in tables.values()], axis=1).max(axis=1)
    shown = strongest.sort_values(ascending=False).index[:most]
    figure, ax = plt.subplots(figsize=(7.5, 3.4), layout="constrained")
    for offset, (component, colour) in enumerate(COMPONENTS.items()):
        rows = tables[component].loc[shown]
        x = np.arange(len(shown)) + (offset - 1) * 0.27
        ax.bar(x, rows["effect"], 0.25, yerr=rows["standard_error"], color=colour, label=f"→ {component.upper()}")
    ax.axhline(0, color="#222222", lw=0.8)
    ax.set_xticks(range(len(shown)), list(shown), fontsize=8)
    to = " ".join(map(str, receivers(one)))
    ax.set(ylabel="rise of the second copy's loss, nats", title=f"{one.model.name}: direct path to {to} cut")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_shares(found: dict[str, Subject], shares: dict[str, pd.DataFrame], most: int = 6) -> Figure:
    """Of what the key of each model's best induction head is made; shares add up to 1."""
    figure, axes = panels(len(shares), size=(2.2, 2.1))
    for ax, (name, table) in zip(axes, shares.items(), strict=True):
        top = table.head(most)
        values, labels = [*top["share"], table["share"][most:].sum()], [*top["sender"], "all others"]
        ax.barh(labels[::-1], values[::-1], color=["#8d99ae", *["#2a6f97"] * len(top)])
        ax.axvline(0, color="#222222", lw=0.8)
        ax.set_title(f"{name}\nkey of {found[name].induction[0]}", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("share of the key's change when all that it reads is replaced by its mean", fontsize=8)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=4, help="of the models given; the small ones have 16")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
