"""Heads as they form: a heatmap of all heads that moves through the checkpoints, above the loss."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.ticker import MaxNLocator

from induction_lab.development.trajectory import Trajectory
from induction_lab.plots.style import INK, LINES, subplots
from induction_lab.plots.training import one_run
from induction_lab.plots.training_axes import SMALL, axis_label, step_axis
from induction_lab.results.tables import writing

_LOSSES = (("mean_loss", None, "mean, texts"), ("loss_by_copy", 2, "2nd copy"))


class Film(FuncAnimation):
    """An animation that moves in a notebook, too."""

    def _repr_html_(self) -> str:
        """The GIF, for notebooks; pyplot shall not show its last frame below."""
        with TemporaryDirectory() as folder:
            gif = save_animation(self, Path(folder) / "film.gif").read_bytes()
        if "inline" in plt.get_backend():
            plt.close(self._fig)  # type: ignore[attr-defined]
        return f'<img alt="heads over training" src="data:image/gif;base64,{b64encode(gif).decode()}">'


def animate_heads(
    trajectory: Trajectory, metric: str = "prefix_matching", *, prompts: str | None = None
) -> FuncAnimation:
    """Layers down, heads across, a frame a checkpoint; below it the loss with a dot at the step shown.

    Colours stay the same throughout: the score's own range, or that of all values.

    Raises:
        ValueError: If there is not one run, or the metric was not measured for each head.
    """
    name = one_run(trajectory).runs[0]
    values = trajectory.heads(metric, prompts).numpy()
    kept = ~np.isnan(values).all((1, 2))
    values, steps = values[kept], np.array(trajectory.steps)[kept]
    low, high = trajectory.about(metric).axis(values)
    losses = [
        (label, trajectory.series(loss, index=index)) for loss, index, label in _LOSSES if loss in trajectory.metrics
    ]
    n_layers, n_heads = values.shape[1:]
    height = min(4.6, 1.0 + 0.5 * n_layers)
    figure, axes = subplots(
        2 if losses else 1, 1, figsize=(5.0, height + 1.9 * bool(losses)), layout="constrained", squeeze=False,
        height_ratios=[height, 1.9] if losses else [1],
    )  # fmt: skip
    grid = axes[0, 0]
    image = grid.imshow(
        values[0], vmin=low, vmax=high, cmap="RdBu" if low < 0 else "viridis", aspect="auto", interpolation="nearest"
    )
    grid.set(xlabel="head", ylabel="layer")
    for axis in (grid.xaxis, grid.yaxis):
        axis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1))
    figure.colorbar(image, ax=grid).set_label(axis_label(trajectory.about(metric)), fontsize=SMALL)
    dots = []
    for (label, series), colour in zip(losses, (INK, LINES[1]), strict=False):
        axes[1, 0].plot(series.index, series, color=colour, lw=1.2, label=label)
        dots.append((axes[1, 0].plot([], [], "o", ms=6, color=colour, mec="white")[0], series))
    if losses:
        step_axis(axes[1, 0], trajectory.steps)
        axes[1, 0].set(ylabel="loss, nats", ylim=(0, None))
        axes[1, 0].legend(frameon=False, fontsize=SMALL, loc="lower left")

    def show(frame: int) -> list:
        image.set_data(values[frame])
        for dot, series in dots:
            seen = series[series.index == steps[frame]]
            dot.set_data(seen.index, seen)
        return [image, *(dot for dot, _ in dots), grid.set_title(f"{name}, step {steps[frame]:,}", fontsize=10)]

    show(len(steps) - 1)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # the same for all frames
    return Film(figure, show, frames=len(steps))


def save_animation(animation: FuncAnimation, path: str | Path, *, seconds_a_frame: float = 0.25) -> Path:
    """Write a GIF; the whole file or none.

    Raises:
        ValueError: If it is no `.gif`, cannot be written, or a frame takes no time.
    """
    path = Path(path)
    if path.suffix != ".gif":
        raise ValueError(f"Animations are written as .gif, got {path.name!r}.")
    if not 0.02 <= seconds_a_frame <= 60:
        raise ValueError(f"`seconds_a_frame` must be from 0.02 to 60, got {seconds_a_frame}.")
    frames_a_second: Any = 1 / seconds_a_frame
    with writing(path) as part:
        animation.save(part, writer=PillowWriter(fps=frames_a_second), dpi=90)
    return path
