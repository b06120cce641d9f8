"""Kinds of heads: the map of heads, coloured by what kind each is, and when kinds appear over training."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from induction_lab.circuits.kinds import BY_NAME, HeadKinds
from induction_lab.development.kinds import kinds_over_training, order_of_kinds
from induction_lab.development.trajectory import Trajectory
from induction_lab.plots.style import ACCENT, INK, PREVIOUS, QUIET, broken, new_axes, subplots
from induction_lab.plots.training_axes import SMALL, step_axis

NOTHING = "#eeeeee"


def plot_head_kinds(kinds: HeadKinds, *, ax: Axes | None = None) -> Axes:
    """Heads across and layers down, layer 0 on top, a colour a kind; a head of several kinds has a stripe of each."""
    names = [kind for kind in kinds.kinds if kinds.of(kind)]
    palette = plt.get_cmap("tab20" if len(names) > 10 else "tab10")
    colours = {name: palette(i) for i, name in enumerate(names)}
    layers, heads = sorted(kinds.table["layer"].unique()), sorted(kinds.table["head"].unique())
    size = (max(4.5, 0.42 * len(heads) + 3.0), max(2.4, 0.24 * len(layers) + 1.2))
    ax = ax or new_axes(figsize=size, layout="constrained")
    for layer, head in kinds.table[["layer", "head"]].drop_duplicates().itertuples(index=False):
        of = kinds.kinds_of((int(layer), int(head)))
        for i, colour in enumerate([colours[kind] for kind in of] or [NOTHING]):
            width = 0.9 / max(1, len(of))
            ax.add_patch(Rectangle((head - 0.45 + i * width, layer - 0.42), width, 0.84, color=colour, lw=0))
    ax.set(
        xlim=(heads[0] - 0.6, heads[-1] + 0.6),
        ylim=(layers[-1] + 0.6, layers[0] - 0.6),
        xlabel="head",
        ylabel="layer",
        title=broken(f"{kinds.model}: kinds of heads", ax),
    )
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    legend = [Patch(color=colours[name], label=f"{name} ({len(kinds.of(name))})") for name in names]
    if legend:
        ax.legend(
            handles=legend, frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
    return ax


def plot_kinds_over_training(trajectory: Trajectory) -> Figure:
    """The highest head of each kind at every checkpoint, in the order in which kinds appear.

    A panel a kind: the value with its standard error as a band; dashed, chance; dotted, from which value on people call
    a head so, where one is published. A dot where the kind has heads at that checkpoint; a red line where it appears,
    as `order_of_kinds` says.

    Raises:
        ValueError: If kinds were not measured, or there are several runs.
    """
    order = order_of_kinds(trajectory)
    every: Any = kinds_over_training(trajectory)
    columns = min(3, len(order))
    rows = math.ceil(len(order) / columns)
    width, height = 3.2 * columns + 0.4, 2.3 * rows + 0.5
    figure, axes = subplots(rows, columns, figsize=(width, height), squeeze=False)
    edges = {"left": 0.5 / width, "right": 1 - 0.2 / width, "bottom": 0.5 / height, "top": 1 - 0.9 / height}
    figure.subplots_adjust(**edges, hspace=0.75, wspace=0.25)
    for ax in axes.flat[len(order) :]:
        ax.set_visible(False)
    for ax, row in zip(axes.flat, order.to_dict("records"), strict=False):
        _draw_kind(ax, every[every["kind"] == row["kind"]], row, trajectory.steps)
    for ax in list(axes.flat)[: max(0, len(order) - columns)]:  # there is one below
        ax.set_xlabel("")
    title = f"{trajectory.runs[0]}: the highest head of each kind"
    figure.suptitle(title, x=edges["left"], y=1 - 0.1 / height, va="top", ha="left", fontsize=10, color=INK)
    return figure


def _draw_kind(ax: Axes, rows: Any, appears: dict[Any, Any], steps: list[int]) -> None:
    step_axis(ax, steps)
    at, value, error = rows["step"], rows["value"], rows["standard_error"].fillna(0.0)
    ax.plot(at, value, color=PREVIOUS, lw=1.2)
    ax.fill_between(at, value - error, value + error, color=PREVIOUS, alpha=0.25, lw=0)
    ax.plot(at, rows["chance"], color=QUIET, lw=0.9, ls="--")
    least = BY_NAME[appears["kind"]].least
    if least is not None:
        ax.axhline(least, color=QUIET, lw=0.9, ls=":")
    there = rows[rows["n_heads"] > 0]
    ax.plot(there["step"], there["value"], "o", color=PREVIOUS, ms=3.5, clip_on=False)
    ax.set_ylim(bottom=min(0.0, float((value - error).min())))
    said, place = "does not appear", ""
    if not pd.isna(appears["step"]):
        ax.axvline(appears["step"], color=ACCENT, lw=1.0)
        after = "at the first checkpoint" if pd.isna(appears["after"]) else f"after {appears['after']:,}"
        said, place = f"{after}, by {appears['step']:,}: {appears['head']}", f"{appears['order']}. "
    most = rows["n_heads"].max()
    heads = f"{most} head at most" if most == 1 else f"{most} heads at most"
    ax.set_title(f"{place}{appears['kind']}, {heads}\n{said}", fontsize=SMALL, loc="left", color=INK)
