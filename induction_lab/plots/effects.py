"""Pictures of what interventions did: effects of all heads, a circuit found from behaviour down, term importance."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from induction_lab.circuits.explanation import Explanation
from induction_lab.circuits.verdicts import CIRCUIT, LEAST_WRITTEN
from induction_lab.interventions.effects import Effects
from induction_lab.plots.style import (
    ACCENT,
    ARROW,
    EMPTY,
    INDUCTION,
    INK,
    PREVIOUS,
    QUIET,
    bare,
    broken,
    new_axes,
    subplots,
)
from induction_lab.results.heads import parse_head

_VERDICT_COLOURS = {
    "previous-token": PREVIOUS,
    "induction": INDUCTION,
    "copy": "#e09f3e",
    "carrier": "#6a4c93",
    "suppressor": "#3a7d44",
    "bystander": "#d9dee7",
}


def plot_effects(
    effects: Effects, n_layers: int, n_heads: int, *, ax: Axes | None = None, mark: int = 5, unit: str = "nats"
) -> Axes:
    """Heatmap of single heads' effects, heads across and layers down; red: the metric rises without the head.

    The `mark` largest effects are framed and named. Colours go up to the largest, on a square-root scale, so that one
    large effect does not hide the rest; heads that were not swept are grey.
    """
    values = effects.matrix(n_layers, n_heads).numpy()
    size = (1.9 + 0.32 * max(n_heads, 5), 1.5 + 0.17 * max(n_layers, 8))
    ax = ax or new_axes(figsize=size, layout="constrained")
    limit = float(np.nanmax(np.abs(values))) or 1.0
    shown = np.sign(values) * np.sqrt(np.abs(values) / limit)
    colours = plt.get_cmap("RdBu_r").with_extremes(bad=EMPTY)
    image = ax.imshow(shown, vmin=-1, vmax=1, cmap=colours, aspect="auto", interpolation="nearest")
    order = np.argsort(-np.nan_to_num(np.abs(values)).ravel())[:mark]
    for layer, head in zip(*np.unravel_index(order, values.shape), strict=True):
        ax.add_patch(Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, ec=INK, lw=1.0))
        ink = "white" if abs(shown[layer, head]) > 0.65 else INK
        ax.text(head, layer, f"{values[layer, head]:+.2g}", ha="center", va="center", fontsize=6, color=ink)
    first = effects.table.iloc[0]
    ax.set(xlabel="head", ylabel="layer")
    said = f"{first['model']}: {first['intervention']}\nchange of {first['metric']}"
    ax.set_title(broken(said, ax, 9), fontsize=9)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(12, integer=True))
    ticks = np.array([-1, -0.5, 0, 0.5, 1])
    bar = ax.figure.colorbar(image, ax=ax, ticks=ticks)
    bar.ax.set_yticklabels([f"{np.sign(t) * t * t * limit:+.2g}" if t else "0" for t in ticks])
    bar.set_label(unit)
    return ax


def plot_explanation(explanation: Explanation) -> Figure:
    """The circuit: paths into keys, and heads that write the right token; beside it how much the circuit explains."""
    height = 3.0 + min(4.0, 0.19 * explanation.n_layers)
    figure, (left, right) = subplots(1, 2, figsize=(10.5, height), layout="constrained", width_ratios=(2.4, 1))
    _draw_circuit(explanation, left)
    _draw_tests(explanation, right)
    found = set(explanation.heads["verdict"])
    for verdict in (verdict for verdict in _VERDICT_COLOURS if verdict in found):
        left.plot([], [], "o", color=_VERDICT_COLOURS[verdict], label=verdict)
    figure.legend(frameon=False, fontsize=8, ncols=6, loc="outside lower left", handletextpad=0)
    return figure


def plot_term_importance(tables: dict[str, pd.DataFrame], *, ax: Axes | None = None) -> Axes:
    """The metric with paths through at most n heads, one line a model; bars are standard errors of what n adds."""
    ax = ax or new_axes(figsize=(5.5, 3.4), layout="constrained")
    for name, table in tables.items():
        errors = table["standard_error"].fillna(0.0)
        ax.errorbar(table["order"], table["value"], errors, fmt="o-", ms=4, lw=1.2, label=name)
    first = next(iter(tables.values()))
    ax.set(xlabel="paths through at most so many heads", ylabel=f"{first['metric'].iloc[0]}, nats")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=7)
    bare(ax)
    return ax


def _draw_circuit(explanation: Explanation, ax: Axes) -> None:
    n_layers, n_heads = explanation.n_layers, explanation.n_heads
    top = n_layers - 1 + max(0.8, 0.06 * n_layers)
    rows: Any = explanation.heads.to_dict("records")
    edges: Any = explanation.edges.loc[explanation.edges["effect"] > 0].to_dict("records")
    widest = max((edge["effect"] for edge in edges), default=1.0)
    for edge in edges:
        start, end = parse_head(edge["sender"]), parse_head(edge["receiver"])
        if edge["effect"] >= 0.02 * widest:
            _arrow(ax, (start.head, start.layer), (end.head, end.layer), edge["effect"] / widest, ARROW)
    most = max((row["logit_attribution"] for row in rows if row["logit_attribution"] > 0), default=1.0)
    largest = max((abs(row["effect"]) for row in rows), default=1.0) or 1.0
    for row in rows:
        at, colour = (row["head"], row["layer"]), _VERDICT_COLOURS[row["verdict"]]
        if row["verdict"] in CIRCUIT and row["logit_attribution"] >= LEAST_WRITTEN * most:
            _arrow(ax, at, (at[0], top), row["logit_attribution"] / most, _VERDICT_COLOURS["copy"])
        named = row["verdict"] != "bystander"
        size = 3 + (9 * (abs(row["effect"]) / largest) ** 0.5 if named else 0)
        ax.plot(*at, "o", ms=size, color=colour, zorder=3 if named else 1)
        if named:
            ax.annotate(
                row["label"], at, xytext=(0, -4 - size / 2), textcoords="offset points", ha="center", va="top",
                fontsize=6, color=colour, zorder=4, path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    ax.axhline(top, color=QUIET, lw=0.8)
    ax.text(n_heads - 0.4, top, "logits", ha="right", va="bottom", fontsize=7, color=QUIET)
    step = max(1, n_layers // 10)
    ax.set(xlabel="head", ylabel="layer", xlim=(-0.8, n_heads - 0.2), ylim=(-0.06 * top - 0.4, 1.06 * top))
    ax.set_yticks(range(0, n_layers, step))
    ax.set_title(
        f"{explanation.model}: dots by effect of ablation; grey arrows: told to keys\n"
        f"(widest {widest:.2f} nats), yellow: written for the right token (widest {most:.2f} logits)",
        fontsize=9,
    )
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    bare(ax)


def _draw_tests(explanation: Explanation, ax: Axes) -> None:
    tests: Any = explanation.tests
    if tests.empty:
        ax.text(0.5, 0.5, "no circuit", ha="center", va="center", transform=ax.transAxes, color=QUIET)
        ax.set_axis_off()
        return
    own, others = tests[tests["heads"] == "circuit"], tests[tests["heads"] != "circuit"]
    n_heads = int(own["n_heads"].iloc[0])
    for place, name in enumerate(("faithfulness", "necessity")):
        value = float(own[name].iloc[0])
        ax.bar(place, value, width=0.55, color=ACCENT, alpha=0.85, zorder=1)
        ax.text(place, value, f"{value:.2f}", ha="center", va="bottom", fontsize=8, color=INK)
        aside = np.linspace(-0.16, 0.16, max(len(others), 1))[: len(others)]
        ax.plot(place + aside, others[name], "o", ms=3.5, color=INK, alpha=0.7, zorder=2)
    ax.axhline(0, color=INK, lw=0.8)
    ax.axhline(1, color=QUIET, lw=0.8, ls="--")
    ax.set_xticks([0, 1], ["circuit alone:\nfaithfulness", "circuit removed:\nnecessity"], fontsize=8)
    ax.set_ylabel("share of the behaviour")
    dots = f"; dots: {len(others)} random sets" if len(others) else ""
    ax.set_title(f"{n_heads} heads{dots}", fontsize=9)
    bare(ax)


def _arrow(ax: Axes, start: tuple[int, int], end: tuple[int, int | float], share: float, colour: str) -> None:
    style = {"arrowstyle": "-|>", "lw": 0.3 + 2.2 * share, "color": colour, "alpha": 0.35 + 0.6 * share}
    ax.annotate("", end, start, arrowprops={**style, "shrinkA": 4, "shrinkB": 4}, zorder=2)
