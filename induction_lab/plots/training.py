"""Figures of training: one measurement over the steps of many runs, all heads of one run, losses as a picture or path.

A grey band is where the best head rises (`phase_change.rise`); for axes and colours see `training_axes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from induction_lab.development.loss_space import pivot
from induction_lab.development.phase_change import rise
from induction_lab.development.trajectory import Trajectory
from induction_lab.plots.style import INK, LINES, bare, new_axes
from induction_lab.plots.training_axes import SMALL, axis_label, draw_heads, shade, step_axis, value_axis

_GREY = "#c3cad6"
_SHARP = 45.0  # degrees


def plot_over_training(
    trajectories: Trajectory | Sequence[Trajectory],
    metric: str,
    *,
    prompts: str | None = None,
    index: int | None = None,
    groups: Mapping[str, str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A metric of the whole model, or of its best head, against the step: one line a run.

    Args:
        trajectories: One run or more.
        metric: Its name; where each head has a number, the greatest is drawn.
        prompts: On which prompts; by default the first that have the metric.
        index: At which index, where the metric has one number an index: of `loss_by_copy`, the copy.
        groups: What to call each run; runs called the same share a colour. By default a run's name up to its seed.
        ax: Where to draw.

    Raises:
        ValueError: If a run was not measured so; the message says what there is.
    """
    runs = split_runs(trajectories)
    named = group_runs([run.runs[0] for run in runs], groups)
    lines = [values_over_training(run, metric, prompts=prompts, index=index) for run in runs]
    ax = ax or new_axes(figsize=(7, 3.5), layout="constrained")
    labels = list(dict.fromkeys(named))
    for line, label in zip(lines, named, strict=True):
        place = labels.index(label)
        style = "-" if place < len(LINES) else "--"
        ax.plot(line.index, line, style, color=LINES[place % len(LINES)], lw=1.0, alpha=0.75)
    for place, label in enumerate(labels):
        style, count = "-" if place < len(LINES) else "--", named.count(label)
        runs_each = f" ({count} runs)" if count > 1 else ""
        ax.plot([], [], style, color=LINES[place % len(LINES)], lw=1.8, label=label + runs_each)
    step_axis(ax, [step for line in lines for step in line.index])
    of_heads, about = _is_of_heads(runs[0], metric), runs[0].about(metric)
    value_axis(ax, about, np.concatenate([line.to_numpy() for line in lines]))
    ax.set_ylabel(axis_label(about, index) + ("\nof the best head" if of_heads else ""))
    if len(labels) > 1:
        ax.legend(frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    else:
        ax.set_title(f"{labels[0]} ({len(runs)} runs)" if len(runs) > 1 else runs[0].runs[0], fontsize=10, loc="left")
    return ax


def plot_heads_over_training(
    trajectory: Trajectory,
    metric: str,
    *,
    prompts: str | None = None,
    mark: int = 4,
    ax: Axes | None = None,
) -> Axes:
    """A metric of every head against the step, coloured by layer; the `mark` heads that end highest are named.

    Raises:
        ValueError: If it was not measured for each head.
    """
    values = trajectory.heads(metric, prompts).numpy()
    best = trajectory.best(metric, prompts=prompts)
    ax = ax or new_axes(figsize=(7, 3.8), layout="constrained")
    n_steps, n_layers, n_heads = values.shape
    names = pd.MultiIndex.from_product([range(n_layers), range(n_heads)])
    lines = pd.DataFrame(values.reshape(n_steps, -1), index=trajectory.steps, columns=names)
    step_axis(ax, trajectory.steps)
    value_axis(ax, trajectory.about(metric), values)
    draw_heads(ax, lines.dropna(how="all"), mark=mark)
    shade(ax, rise(best))
    ax.set_ylabel(axis_label(trajectory.about(metric)) + ("" if prompts is None else f"\non {prompts}"))
    ax.set_title(trajectory.runs[0], fontsize=10, loc="left")
    return ax


def plot_loss_derivative(trajectory: Trajectory, *, ax: Axes | None = None) -> Axes:
    """How much the loss falls as the context grows, at each step (across) and token (up); blue: it falls.

    Colours reach to the 99th percentile, so that the first few tokens do not take all of them.

    Raises:
        ValueError: If it was not measured: it needs texts.
    """
    rows: Any = one_run(trajectory).table
    rows = rows.loc[rows["metric"] == "loss_derivative"]
    if rows.empty:
        raise ValueError(
            f"The loss derivative was not measured: follow_training(…, texts=…). There are {_listed(trajectory)}."
        )
    image = rows.pivot(index="index", columns="step", values="value")
    ax = ax or new_axes(figsize=(7, 3.8), layout="constrained")
    steps, tokens = image.columns.to_numpy(dtype=float), image.index.to_numpy(dtype=float)
    step_axis(ax, steps)
    limit = float(np.nanquantile(np.abs(image.to_numpy(dtype=float)), 0.99)) or 1.0
    drawn = ax.pcolormesh(
        _edges(ax, steps), np.append(tokens - 0.5, tokens[-1] + 0.5), image.to_numpy(dtype=float), cmap="RdBu_r",
        norm=Normalize(-limit, limit), rasterized=True,
    )  # fmt: skip
    ax.set_yscale("log")
    ax.set(ylim=(max(0.5, tokens[0] - 0.5), tokens[-1] + 0.5), ylabel="index of the token")
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else ""))
    ax.yaxis.set_minor_formatter(NullFormatter())
    bar = ax.figure.colorbar(drawn, ax=ax, extend="both", pad=0.02)
    bar.set_label("d loss / d ln index\n(nats per e-fold)", fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    ax.set_title(trajectory.runs[0], fontsize=10, loc="left")
    return ax


def plot_loss_paths(
    paths: pd.DataFrame,
    *,
    groups: Mapping[str, str] | None = None,
    bold: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Runs as paths in the plane of `loss_paths`, a dot a checkpoint, and where they turn by more than 45 degrees.

    Args:
        paths: What `loss_paths` returned, with two components or more.
        groups: As in `plot_over_training`.
        bold: A run to stand out among the others, which are drawn in grey.
        ax: Where to draw.

    Raises:
        ValueError: If these are no paths, or `bold` is none of them.
    """
    missing = [name for name in ("run", "step", "pc1", "pc2") if name not in paths.columns]
    if missing or paths.empty:
        raise ValueError(f"Paths from loss_paths(…, n=2) are wanted, got the columns {', '.join(map(str, paths))}.")
    runs = list(dict.fromkeys(paths["run"]))
    if bold is not None and bold not in runs:
        raise ValueError(f"There is no path of {bold!r}; there are {', '.join(runs)}.")
    ax = ax or new_axes(figsize=(7, 3.6), layout="constrained")
    named = group_runs(runs, groups)
    labels = list(dict.fromkeys(named))
    for run, label in sorted(zip(runs, named, strict=True), key=lambda pair: pair[0] == bold):
        colour = LINES[labels.index(label) % len(LINES)]
        path: Any = paths.loc[paths["run"] == run].sort_values("step")
        if bold is None:
            _draw_path(ax, path, colour, lw=1.0)
        elif run == bold:
            _draw_path(ax, path, LINES[1], lw=2.0, above=10)
        else:
            _draw_path(ax, path, _GREY, lw=0.7)
    for place, label in enumerate(labels if bold is None else ()):
        ax.plot([], [], "-", color=LINES[place % len(LINES)], lw=1.8, label=label)
    if bold is not None:
        ax.plot([], [], "-", color=LINES[1], lw=2, label="this run")
        if len(runs) > 1:
            ax.plot([], [], "-", color=_GREY, lw=1.2, label=f"{len(runs) - 1} other runs")
    marks = [("o", "start"), ("s", "end"), ("*", f"turns by over {_SHARP:.0f}°")]
    drawn = {str(line.get_marker()) for line in ax.lines}
    for marker, label in (each for each in marks if each[0] in drawn):
        face = "white" if marker == "o" else INK
        ax.plot([], [], marker, color=INK, mfc=face, ms=9 if marker == "*" else 5, lw=0, label=label)
    ax.legend(frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.01, 1.02))
    shares = paths.attrs.get("explained_variance", [])
    told = [f" ({share:.0%} of variance)" for share in shares] or ["", ""]
    ax.set(xlabel=f"PC 1, nats{told[0]}", ylabel=f"PC 2, nats{told[1]}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.06)
    bare(ax)
    return ax


def split_runs(trajectories: Trajectory | Sequence[Trajectory]) -> list[Trajectory]:
    """Every run by itself; a ValueError if there is none."""
    given = [trajectories] if isinstance(trajectories, Trajectory) else list(trajectories)
    runs = [trajectory.run(name) for trajectory in given for name in trajectory.runs]
    if not runs:
        raise ValueError("One trajectory or more is wanted, got none.")
    return runs


def one_run(trajectory: Trajectory) -> Trajectory:
    """The trajectory; a ValueError if it is not of one run."""
    if len(trajectory.runs) != 1:
        raise ValueError(f"One run is drawn, got {', '.join(trajectory.runs) or 'none'}: trajectory.run(name).")
    return trajectory


def group_runs(runs: Sequence[str], groups: Mapping[str, str] | None = None) -> list[str]:
    """What each run is called: as given, or its name without the seed."""
    unknown = [run for run in groups or {} if run not in runs]
    if unknown:
        raise ValueError(f"There are no runs {', '.join(unknown)}; there are {', '.join(runs)}.")
    return [(groups or {}).get(run) or re.sub(r"[-_ ]?seed[-_ ]?\d+$", "", run) or run for run in runs]


def values_over_training(
    trajectory: Trajectory, metric: str, *, prompts: str | None = None, index: int | None = None
) -> pd.Series:
    """A metric by step; of the best head where each head has a number."""
    if _is_of_heads(trajectory, metric) and index is None:
        return trajectory.best(metric, prompts=prompts)
    return trajectory.series(metric, prompts=prompts, index=index)


def _draw_path(ax: Axes, path: pd.DataFrame, colour: str, *, above: int = 2, lw: float) -> None:
    x, y = path["pc1"].to_numpy(), path["pc2"].to_numpy()
    ax.plot(x, y, "-", color=colour, lw=lw, alpha=0.85, zorder=above)
    ax.plot(x, y, "o", color=colour, ms=1.2 + lw, zorder=above)
    edge: Any = {"mec": "white", "mew": 0.6} if lw >= 1 else {}
    ax.plot(x[:1], y[:1], "o", color=colour, mfc="white", ms=3.5 + lw, zorder=above + 1)
    ax.plot(x[-1:], y[-1:], "s", color=colour, ms=4 + lw, zorder=above + 1, **edge)
    try:
        turn = pivot(path)
    except ValueError:  # it does not move, or is too short to turn
        return
    if turn.angle > _SHARP:
        at: Any = path.loc[path["step"] == turn.step]
        ax.plot(at["pc1"], at["pc2"], "*", color=colour, ms=9 + 2 * lw, zorder=above + 2, **edge)


def _edges(ax: Axes, steps: np.ndarray) -> np.ndarray:
    """Edges of cells around steps: halfway between two on the drawn scale, and the first and last step themselves."""
    scale = ax.xaxis.get_transform()
    places = scale.transform(steps)
    inner = scale.inverted().transform((places[1:] + places[:-1]) / 2)
    return np.concatenate([steps[:1], inner, steps[-1:]])


def _is_of_heads(trajectory: Trajectory, metric: str) -> bool:
    rows: Any = trajectory.table.loc[trajectory.table["metric"] == metric, "layer"]
    return bool(rows.notna().any())


def _listed(trajectory: Trajectory) -> str:
    return ", ".join(trajectory.metrics) or "no measurements"
