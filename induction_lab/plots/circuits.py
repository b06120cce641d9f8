"""Pictures of circuits: heads and the arrows between them, composition of all pairs, eigenvalues in the plane."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Complex, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from induction_lab.circuits.search import InductionCircuit
from induction_lab.plots.style import ARROW, EMPTY, INDUCTION, PREVIOUS, bare, broken, new_axes, subplots
from induction_lab.results.heads import HeadLike, parse_head

_OTHER = "#c5ccd8"  # heads without an edge


def plot_circuit(circuit: InductionCircuit, *, edges: int = 8, ax: Axes | None = None) -> Axes:
    """Heads by layer, lower layers below; arrows as wide as K-composition lies above its baseline.

    The `edges` strongest are drawn, those below the baseline left out; previous-token heads blue, induction heads red.
    """
    rows = [edge for edge in circuit.edges.to_dict("records") if edge["K"] > 0][:edges]
    widest = max((edge["K"] for edge in rows), default=1.0)
    previous = {parse_head(edge["previous"]): edge["previous_token"] for edge in rows}
    induction = {parse_head(edge["induction"]): edge["prefix_matching"] for edge in rows}
    layers = [head.layer for head in (*previous, *induction)] or [0, circuit.n_layers - 1]
    low, high = max(0, min(layers) - 1), min(circuit.n_layers - 1, max(layers) + 1)
    ax = ax or new_axes(figsize=(7.5, 1.6 + 0.62 * (high - low)), layout="constrained")
    layer, head = np.mgrid[low : high + 1, 0 : circuit.n_heads]
    ax.plot(head.ravel(), layer.ravel(), "o", ms=3, color=_OTHER, zorder=1)
    for edge in reversed(rows):
        start, end = parse_head(edge["previous"]), parse_head(edge["induction"])
        style = {"arrowstyle": "-|>", "lw": 0.3 + 2.5 * edge["K"] / widest, "color": ARROW, "shrinkA": 6, "shrinkB": 7}
        ax.annotate("", (end.head, end.layer), (start.head, start.layer), arrowprops=style, zorder=2)
    for heads, colour, shift in ((previous, PREVIOUS, -17), (induction, INDUCTION, 9)):
        for at, score in heads.items():
            ax.plot(at.head, at.layer, "o", ms=3 + 7 * score, color=colour, zorder=3)
            ax.annotate(
                f"{at} {score:.2f}", (at.head, at.layer), xytext=(0, shift), textcoords="offset points", ha="center",
                fontsize=7.5, color=colour, zorder=4, path_effects=[withStroke(linewidth=2, foreground="white")],
            )  # fmt: skip
    ax.set(
        xlabel=f"head        (arrow width: K-composition above its baseline, at most {widest:.3f})",
        ylabel="layer",
        xlim=(-0.6, circuit.n_heads - 0.4),
        ylim=(low - 0.6, high + 0.6),
    )
    said = f"{circuit.model}: previous-token heads (blue) → keys of induction heads (red)"
    ax.set_title(broken(said, ax, 10), fontsize=10)
    ax.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    ax.set_yticks(range(low, high + 1, max(1, (high - low) // 10)))
    bare(ax)
    return ax


def plot_composition(
    scores: Float[Tensor, "layer_1 head_1 layer_2 head_2"],
    *,
    title: str = "",
    limit: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heatmap of composition above the baseline: earlier heads down, later heads across, lines between layers.

    White: at the baseline; colours end at `limit`, by default the largest. Pairs that cannot compose are grey.
    """
    n_layers, n_heads = scores.shape[:2]
    table = scores.flatten(2).flatten(0, 1).numpy().copy()
    layer = np.arange(n_layers * n_heads) // n_heads
    table[layer[:, None] >= layer] = np.nan
    limit = limit or float(np.nanmax(np.abs(table))) or 1.0
    ax = ax or new_axes(figsize=(5.2, 4.6), layout="constrained")
    colours = plt.get_cmap("RdBu_r").with_extremes(bad=EMPTY)
    table = table[: (n_layers - 1) * n_heads, n_heads:]
    image = ax.imshow(table, vmin=-limit, vmax=limit, cmap=colours, aspect="auto", interpolation="nearest")
    for edge in range(1, n_layers - 1):
        for line in (ax.axhline, ax.axvline):
            line(edge * n_heads - 0.5, color="white", lw=1.0 if n_layers < 12 else 0.4)
    step = max(1, n_layers // 8)
    for axis, first in ((ax.yaxis, 0), (ax.xaxis, 1)):
        places = np.arange(0, n_layers - 1, step)
        axis.set_ticks(places * n_heads + (n_heads - 1) / 2, [f"L{place + first}" for place in places])
    ax.set(ylabel="writes", xlabel="reads", title=title)
    ax.figure.colorbar(image, ax=ax, label="composition minus baseline")
    return ax


def plot_eigenvalues(eigenvalues: Complex[Tensor, " d_head"], *, title: str = "", ax: Axes | None = None) -> Axes:
    """A circuit's eigenvalues in the complex plane, the distance from 0 on a logarithmic scale, as in the paper.

    Copying puts them right of 0 (red), suppression left (blue); the share of both is in the title.
    """
    ax = ax or new_axes(figsize=(2.6, 2.6), layout="constrained", subplot_kw={"projection": "polar"})
    size, angle = eigenvalues.abs().double().cpu().numpy(), eigenvalues.angle().double().cpu().numpy()
    largest = float(size.max()) if size.size and size.max() > 0 else 1.0
    decades = 4
    radius = np.clip(np.log10(np.maximum(size, 1e-30) / largest) + decades, 0, None)
    colour = np.where(np.cos(angle) > 0, INDUCTION, PREVIOUS)
    ax.scatter(angle, radius, s=10, c=colour, alpha=0.8, lw=0)
    ax.set_ylim(0, decades + 0.15)
    ax.set_yticks(range(1, decades + 1), [])
    ax.set_xticks([0, np.pi / 2, np.pi, 3 * np.pi / 2], ["+", "i", "−", "−i"], fontsize=7)
    ax.tick_params(pad=-3)
    ax.grid(lw=0.4, color="#d5d9e0")
    ax.spines["polar"].set_visible(False)
    total = eigenvalues.abs().sum()
    share = float(eigenvalues.real.sum() / total) if total > 0 else 0.0
    ax.set_title(f"{title} {share:+.2f}".strip(), fontsize=8, pad=6)
    return ax


def plot_eigenvalue_grid(
    eigenvalues: Complex[Tensor, "layer head d_head"], heads: Sequence[HeadLike], *, columns: int = 6, title: str = ""
) -> Figure:
    """One plane for each of some heads."""
    n_layers, n_heads = eigenvalues.shape[:2]
    chosen = [parse_head(head, n_layers=n_layers, n_heads=n_heads) for head in heads]
    if not chosen:
        raise ValueError("One head or more is wanted to draw, got none.")
    columns = min(columns, len(chosen))
    rows = -(-len(chosen) // columns)
    figure, axes = subplots(
        rows, columns, figsize=(1.9 * columns, 2.05 * rows + 0.4), layout="constrained", squeeze=False,
        subplot_kw={"projection": "polar"},
    )  # fmt: skip
    for ax, head in zip(axes.flat, chosen, strict=False):
        plot_eigenvalues(torch.as_tensor(eigenvalues[head]), title=str(head), ax=ax)
    for ax in axes.flat[len(chosen) :]:
        ax.set_visible(False)
    figure.suptitle(title, fontsize=10)
    return figure
