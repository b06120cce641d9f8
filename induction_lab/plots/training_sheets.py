"""Sheets of training: all that was measured of a run, as Olsson et al. (2022) lay it out; many runs side by side.

Source of the six panels: the model analysis table of https://arxiv.org/abs/2209.11895.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from induction_lab.development.loss_space import loss_paths
from induction_lab.development.phase_change import rise
from induction_lab.development.trajectory import Trajectory
from induction_lab.plots.style import ARROW, INK, LINES, QUIET, bare, subplots
from induction_lab.plots.training import (
    one_run,
    plot_heads_over_training,
    plot_loss_derivative,
    plot_loss_paths,
    split_runs,
    values_over_training,
)
from induction_lab.plots.training_axes import (
    SMALL,
    axis_label,
    draw_heads,
    label_ends,
    shade,
    step_axis,
    value_axis,
)
from induction_lab.results.heads import parse_head

_HEADS, _DERIVATIVE, _PATH = "each head", "loss derivative", "path of losses"  # panels of their own kinds
_EFFECTS = {  # what a sweep measured, in words
    "copy_loss": "rise of the loss without it, nats",
    "loss": "rise of the loss without it, nats",
    "before_and_after": "before-and-after attribution, nats",
}
_LOSSES = (  # metric, index, name of the line, colour
    ("mean_loss", None, "mean, texts", INK),
    ("loss_by_copy", 1, "1st copy", LINES[0]),
    ("loss_by_copy", 2, "2nd copy", LINES[1]),
)


def plot_model_analysis(
    trajectory: Trajectory,
    *,
    metric: str = "prefix_matching",
    paths: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
) -> Figure:
    """Six panels of one run: losses, in-context learning, heads, loss derivative, ablations, path in loss space.

    The grey band of all panels over steps is where the best head of `metric` rises (`phase_change.rise`). What was not
    measured has no panel: in-context learning and the loss derivative want `follow_training(…, texts=…)`, the path that
    and three checkpoints, the ablations `effects`.

    Args:
        trajectory: One run.
        metric: Of the panel of heads.
        paths: `loss_paths` of this run and others; by default of this run alone.
        effects: Columns `step`, `label` (of a head) and `effect` (nats): a sweep of ablations at each checkpoint.

    Raises:
        ValueError: If there is not one run, `metric` is not measured for its heads, or `paths` leave it out.
    """
    name = one_run(trajectory).runs[0]
    band, panels = rise(trajectory.best(metric)), _panels(trajectory, metric, paths, effects)
    rows, columns = -(-len(panels) // 2), min(2, len(panels))
    figure, axes = subplots(rows, columns, figsize=(5.35 * columns, 3.2 * rows), layout="constrained", squeeze=False)
    drawn = dict(zip(panels, axes.T.flat, strict=False))
    over_steps = {title: ax for title, ax in drawn.items() if title != _PATH}
    first, *others = over_steps.values()
    for ax in others:
        ax.sharex(first)
    for letter, (title, ax) in zip("abcdef", drawn.items(), strict=False):
        panels[title](ax)
        ax.set_title(rf"$\bf{{{letter}}}$  {title}", fontsize=10, loc="left")
    for title, ax in over_steps.items():
        step_axis(ax, trajectory.steps)
        if title == _DERIVATIVE:
            for step in band or ():
                ax.axvline(step, color=INK, lw=0.8, ls=":")
        elif title != _HEADS:  # which have theirs
            shade(ax, band)
    for column in axes.T:
        shown = [ax for ax in column if ax in over_steps.values()]
        for ax in shown[:-1]:
            ax.tick_params(labelbottom=False)
            ax.set_xlabel("")
    for ax in list(axes.T.flat)[len(panels) :]:
        ax.set_visible(False)
    what = axis_label(trajectory.about(metric))
    told = f"ends at {trajectory.best(metric).iloc[-1]:.2f}"
    if band is not None:
        told = f"rises in steps {band.start:,} … {band.end:,} (grey band)"
    figure.align_ylabels(axes[:, 0])
    figure.suptitle(f"{name}: {what} of the best head {told}", fontsize=11, wrap=True)
    return figure


def _panels(
    trajectory: Trajectory, metric: str, paths: pd.DataFrame | None, effects: pd.DataFrame | None
) -> dict[str, Callable[[Axes], Any]]:
    """What draws each panel of `plot_model_analysis`, by title; those that were measured."""
    there = trajectory.metrics
    if paths is None and "token_loss" in there and len(trajectory.steps) > 2:
        paths = loss_paths(trajectory)
    panels: dict[str, Callable[[Axes], Any]] = {}
    if {name for name, *_ in _LOSSES} & set(there):
        panels["loss"] = lambda ax: _draw_losses(ax, trajectory)
    if "icl_score" in there:
        panels["in-context learning"] = lambda ax: _draw_score(ax, trajectory)
    panels[_HEADS] = lambda ax: plot_heads_over_training(trajectory, metric, ax=ax)
    if "loss_derivative" in there:
        panels[_DERIVATIVE] = lambda ax: plot_loss_derivative(trajectory, ax=ax)
    if effects is not None:
        panels["ablations"] = lambda ax: _draw_ablations(ax, trajectory, effects)
    if paths is not None:
        panels[_PATH] = lambda ax: _draw_paths(ax, trajectory, paths)
    return panels


def plot_small_multiples(
    groups: Mapping[tuple[str, str], Sequence[Trajectory]], metric: str = "prefix_matching", *, copy: int = 2
) -> Figure:
    """A grid of variants: in each cell the best head's `metric` above and the loss on a later copy below, a line a run.

    Args:
        groups: Runs by row and column, e.g. `{("one layer", "vanilla"): […], ("one layer", "smeared keys"): […]}`.
        metric: One of heads.
        copy: Which copy of the block.

    Raises:
        ValueError: If there is nothing to draw, or a run was not measured so.
    """
    if not groups or not all(groups.values()):
        empty = [key for key, runs in groups.items() if not runs] or "no cells at all"
        raise ValueError(f"Each cell wants one run or more, got {empty}.")
    cells = {key: split_runs(list(runs)) for key, runs in groups.items()}
    rows, columns = (list(dict.fromkeys(key[i] for key in groups)) for i in (0, 1))
    size = (1.6 + 3.4 * len(columns), 0.8 + 3.4 * len(rows))
    shape = (2 * len(rows), len(columns))
    figure, axes = subplots(*shape, figsize=size, layout="constrained", squeeze=False, sharex=True)
    steps = [step for runs in cells.values() for run in runs for step in run.steps]
    drawn = ((metric, None, LINES[0]), ("loss_by_copy", copy, LINES[1]))
    for offset, (name, index, colour) in enumerate(drawn):
        values = {key: [values_over_training(r, name, index=index) for r in runs] for key, runs in cells.items()}
        every = np.concatenate([line.to_numpy() for lines in values.values() for line in lines])
        about = next(iter(cells.values()))[0].about(name)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                ax = axes[2 * i + offset, j]
                for line in values.get((row, column), []):
                    ax.plot(line.index, line, color=colour, lw=1.0, alpha=0.75)
                step_axis(ax, steps)
                ax.set(xlabel="", ylim=(0, 1.08 * every.max()) if offset else None)
                value_axis(ax, about, every)
                ax.tick_params(labelleft=j == 0, labelbottom=(i, offset) == (len(rows) - 1, 1), labelsize=SMALL)
                if (row, column) not in cells:
                    note(ax, "no runs")
                if j == 0:
                    words = axis_label(about, index) + ("" if offset else ", best head")
                    ax.set_ylabel("\n".join(words.split(", ")), fontsize=SMALL + 1)
    _name_cells(figure, axes, rows, columns, cells)
    figure.supxlabel("training step", fontsize=10)
    return figure


def note(ax: Axes, text: str) -> None:
    """Words in the middle of a panel that has nothing to draw."""
    ax.set_yticks([])
    bare(ax)
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", fontsize=9, color=ARROW)


def _name_cells(figure: Figure, axes: Any, rows: list[str], columns: list[str], cells: Mapping[Any, Any]) -> None:
    """Write its row, column and number of runs above each cell."""
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            n = len(cells.get((row, column), []))
            count = f"  ({n} run{'s' * (n != 1)})" if n else ""
            axes[2 * i, j].set_title(f"{row}, {column}{count}", fontsize=10, loc="left")
    figure.align_ylabels(axes)
    figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr]


def _draw_losses(ax: Axes, trajectory: Trajectory) -> None:
    step_axis(ax, trajectory.steps)
    ends = {}
    for metric, index, label, colour in _LOSSES:
        if metric in trajectory.metrics:
            line = trajectory.series(metric, index=index)
            ax.plot(line.index, line, color=colour, lw=1.5)
            ends[label] = (float(line.iloc[-1]), colour)
    ax.set(ylim=(0, None), ylabel="loss, nats")
    label_ends(ax, ends)


def _draw_score(ax: Axes, trajectory: Trajectory) -> None:
    line, error = trajectory.series("icl_score"), trajectory.series("icl_score", column="standard_error")
    ax.fill_between(line.index, line - error, line + error, color=LINES[0], alpha=0.25, lw=0)
    ax.plot(line.index, line, color=LINES[0], lw=1.5)
    ax.axhline(0, color=QUIET, lw=0.8)
    ax.set_ylabel("late minus early loss, nats")


def _draw_ablations(ax: Axes, trajectory: Trajectory, effects: pd.DataFrame) -> None:
    missing = [name for name in ("step", "label", "effect") if name not in effects.columns]
    if missing or effects.empty:
        raise ValueError(f"`effects` wants rows with step, label and effect, got the columns {list(effects.columns)}.")
    heads = [parse_head(label) for label in effects["label"]]
    rows = effects.assign(layer=[head.layer for head in heads], head=[head.head for head in heads])
    lines = rows.pivot(index="step", columns=["layer", "head"], values="effect").sort_index()
    metrics = set(effects["metric"]) if "metric" in effects else set()
    step_axis(ax, trajectory.steps)
    ax.axhline(0, color=QUIET, lw=0.8)
    low, high = float(np.nanmin(lines.to_numpy())), float(np.nanmax(lines.to_numpy()))
    margin = 0.06 * (high - low) or 1.0
    words = _EFFECTS.get(metrics.pop(), "effect, nats") if len(metrics) == 1 else "effect, nats"
    ax.set(ylim=(low - margin, high + margin), ylabel=words)
    draw_heads(ax, lines, mark=4)


def _draw_paths(ax: Axes, trajectory: Trajectory, paths: pd.DataFrame) -> None:
    plot_loss_paths(paths, bold=trajectory.runs[0], ax=ax)
    handles, labels = ax.get_legend_handles_labels()
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 3, "columnspacing": 1.2}
    ax.legend(handles, labels, frameon=False, fontsize=SMALL, **below)
