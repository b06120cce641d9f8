"""What figures of training share: axes of steps and of measurements in words, lines of heads, names at their ends.

Steps are drawn on a logarithmic scale that begins at 0, linear up to the power of ten below the root of the last step:
what happens late has its room.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter

from induction_lab.development.phase_change import Rise
from induction_lab.plots.style import LINES, QUIET, apart, bare
from induction_lab.results.heads import Head
from induction_lab.scores.score import ScoreWords

SMALL = 8  # points


def axis_label(about: ScoreWords, index: int | None = None) -> str:
    """A metric in words, with its unit."""
    words = about.in_text() + ("" if index is None else f" {index}")
    return f"{words}, {about.unit}" if about.unit else words


def step_axis(ax: Axes, steps: Any) -> None:
    """Make x an axis of steps, logarithmic but linear near 0; powers of ten and the last step are named."""
    there = sorted({int(step) for step in steps})
    last = max(there[-1], 1)
    first = max(next((step for step in there if step > 0), 1), 10 ** (len(str(math.isqrt(last))) - 1))
    ax.set_xscale("symlog", linthresh=first, linscale=0.5)
    decades = range(len(str(last)))
    tens = [10**power for power in decades if first <= 10**power <= last]
    if len(tens) < 2:
        tens = sorted({first, *(few * 10**power for power in decades for few in (1, 2, 5) if few * 10**power >= first)})
    apart = 1.8 if ax.get_window_extent().width > 3 * ax.figure.dpi else 7.0  # or the labels would touch
    shown = {min(there[0], last), last, *(ten for ten in tens if apart * ten < last)}
    ax.xaxis.set_major_locator(FixedLocator(sorted(shown)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _step(float(step))))
    minor = [few * 10**power for power in decades for few in range(2, 10)]
    ax.xaxis.set_minor_locator(FixedLocator([step for step in minor if first < step < last]))
    ax.set(xlim=(min(there[0], last - 1), last), xlabel="training step")
    bare(ax)


def value_axis(ax: Axes, about: ScoreWords, values: np.ndarray) -> None:
    """Give y the metric's own range, if it has one and all values lie within it."""
    low, high = about.low, about.high
    if low is not None and high is not None and np.nanmin(values) >= low - 0.02 and np.nanmax(values) <= high + 0.02:
        ax.set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))


def shade(ax: Axes, band: Rise | None) -> None:
    """A grey band over the steps where something rises."""
    if band is not None:
        ax.axvspan(band.start, band.end, color=QUIET, alpha=0.22, lw=0, zorder=0)


def draw_heads(ax: Axes, lines: pd.DataFrame, *, mark: int) -> None:
    """A line a head (columns: layer, head) by step, coloured by layer, a key above; ends furthest from 0 named."""
    n_layers = 1 + max(int(layer) for layer, _ in lines.columns)
    few = n_layers <= 4
    ramp = plt.get_cmap("viridis")
    colours = [LINES[i] if few else ramp(0.9 * i / (n_layers - 1)) for i in range(n_layers)]
    final = lines.ffill().iloc[-1]
    for column in lines.columns:
        known = lines[column].dropna()
        ax.plot(known.index, known, color=colours[column[0]], lw=1.1, alpha=0.85)
    low, high = ax.get_ylim()
    named = final.dropna().sort_values(key=lambda values: values.abs(), ascending=False).head(mark)
    named = {Head(*map(int, head)): value for head, value in named.items() if abs(value) > 0.2 * (high - low)}
    label_ends(ax, {str(head): (value, colours[head.layer]) for head, value in named.items()})
    if few:
        for layer in range(n_layers):
            ax.plot([], [], color=colours[layer], lw=1.8, label=f"layer {layer}")
        key = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "ncols": n_layers, "borderaxespad": 0.2}
        ax.legend(frameon=False, fontsize=SMALL, handlelength=1.2, columnspacing=1.0, **key)
        return
    key_ax = ax.inset_axes((0.68, 1.035, 0.24, 0.03))
    key_ax.imshow([[0.9 * i / (n_layers - 1) for i in range(n_layers)]], cmap=ramp, vmin=0, vmax=1, aspect="auto")
    key_ax.set(yticks=[], xticks=[])
    for x, side, text in ((0, "right", "layer 0 "), (1, "left", f" {n_layers - 1}")):
        key_ax.text(x, 0.5, text, transform=key_ax.transAxes, ha=side, va="center", fontsize=SMALL)


def label_ends(ax: Axes, labels: Mapping[str, tuple[float, Any]]) -> None:
    """Names right of the axes at the heights where lines end, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    height = ax.get_figure().get_size_inches()[1] * ax.get_position().height * 72  # type: ignore[union-attr]
    gap = 10.5 / height * (high - low)
    order = sorted(labels, key=lambda name: -labels[name][0])
    heights = apart([labels[name][0] for name in order], gap)
    if heights and heights[-1] < low:
        heights = [-y for y in apart([-max(y, low) for y in reversed(heights)], gap)][::-1]
    right = ax.get_xlim()[1]
    for name, y in zip(order, heights, strict=True):
        value, colour = labels[name]
        ax.annotate(
            name, (right, value), xytext=(1.03, y), textcoords=("axes fraction", "data"), fontsize=SMALL, color=colour,
            va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "lw": 0.6, "color": colour, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def _step(step: float) -> str:
    return f"{step / 1000:g}k" if step >= 10_000 else f"{step:,.0f}"
