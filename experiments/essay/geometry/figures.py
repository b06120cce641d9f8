"""The pictures of geometry.py."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.essay.of_models import names

LAYERS, WORDS, HEADS, WAYS = "by layer", "by word", "by head", "ways"  # parts of the table
PATHS = ("apple", "bank", "mouse")
SIDES = ("#d1495b", "#2a6f97")


def draw(table: Any, *, level: float) -> Figure:
    """A row a model: angles, separation, and who pulls; heads whose false discovery rate is below `level` get a dot."""
    models = names(table)
    figure, axes = plt.subplots(len(models), 3, figsize=(12.5, 4.2 * len(models)), layout="constrained", squeeze=False)
    for row, model in zip(axes, models, strict=True):
        _draw_model(row, table[table["model"] == model], level)
        row[0].set_ylabel(f"{model}\ndegrees, mean over words taken off")
    return figure


def _draw_model(axes: Any, table: Any, level: float) -> None:
    layers, words, heads = (table[table["part"] == part] for part in (LAYERS, WORDS, HEADS))
    middle = int(layers["layer"].max()) // 2
    lines(axes[0], layers, {
        "angle to static embedding": "#d1495b", "angle to the neutral word": "#e09f3e",
        "angle between senses": "#2a6f97", "angle within a sense": "#8d99ae",
    })  # fmt: skip
    axes[0].set(ylim=(0, 130))
    more = at(layers, middle, "angle between less within")[0]
    axes[0].set_title(f"layer {middle}: senses {more:.0f}° further apart than sentences", fontsize=10)
    lines(axes[1], layers, {
        "accuracy": "#d1495b", "accuracy at the token before": "#e09f3e",
        "accuracy, labels shuffled": "#8d99ae", "accuracy, random halves of one sense": "#33415c",
    })  # fmt: skip
    axes[1].set(ylabel="nearest centroid is the own sense's", ylim=(0, 1.02))
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    axes[1].set_title(f"{words['separates'].sum():.0f} of {len(words)} words separate", fontsize=10)
    top = int(heads["best"].iloc[0])
    grid = heads["value"].to_numpy().reshape(top, -1)
    limit = np.abs(grid).max()
    image = axes[2].imshow(grid, vmin=-limit, vmax=limit, cmap="RdBu", aspect="auto", origin="lower")
    marked = (heads["q"] < level).to_numpy().reshape(grid.shape).nonzero()
    axes[2].plot(marked[1], marked[0], ".", color="#222222", ms=4)
    axes[2].set(xlabel="head", ylabel="layer")
    axes[2].set_title(f"{(heads['q'] < level).sum()} of {len(heads)} heads pull to the sense (dots)", fontsize=10)
    axes[2].figure.colorbar(image, ax=axes[2], label="pull, in distances between the senses")


def lines(ax: Axes, layers: Any, colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        rows = layers[layers["quantity"] == name]
        low, high = rows["value"] - 2 * rows["standard_error"], rows["value"] + 2 * rows["standard_error"]
        ax.fill_between(rows["layer"], low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(rows["layer"], rows["value"], color=colour, label=name.removeprefix("accuracy, "))
    ax.set_xlabel("layer (0: embedding); bands: 2 standard errors")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def draw_paths(table: Any) -> Figure:
    """Each sentence's way from the embedding through the layers, in its word's own plane; a row a model."""
    ways, models = table[table["part"] == WAYS], names(table)
    words = list(dict.fromkeys(ways["word"]))
    figure, axes = plt.subplots(
        len(models), len(words), figsize=(3.4 * len(words), 3.1 * len(models)), layout="constrained", squeeze=False
    )
    for row, model in zip(axes, models, strict=True):
        for ax, word in zip(row, words, strict=True):
            own = ways[(ways["model"] == model) & (ways["word"] == word)]
            for colour, sense in zip(SIDES, dict.fromkeys(own["sense"]), strict=False):
                sides = own[own["sense"] == sense]
                for _, path in sides.groupby("sentence"):
                    ax.plot(path["x"], path["y"], color=colour, lw=0.5, alpha=0.4)
                mean = sides.groupby("layer")[["x", "y"]].mean()
                ax.plot(mean["x"], mean["y"], color=colour, lw=1.8, marker="o", ms=2, label=sense)
            start = own[own["layer"] == 0].iloc[0]
            ax.plot(start["x"], start["y"], "k*", ms=9)
            ax.set_xlabel(f"PC 1 ({own['variance_1'].iloc[0]:.0%})", fontsize=9)
            ax.set_ylabel(f"PC 2 ({own['variance_2'].iloc[0]:.0%})", fontsize=9)
            ax.set(xticks=[], yticks=[], title=f"{word}, {model}" if ax is row[0] else word)
            ax.title.set_fontsize(10)
            ax.margins(y=0.25)
            ax.legend(frameon=False, fontsize=7, loc="upper left")
            ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle("From the embedding (star) through the layers: thin, each sentence; thick, the mean of a sense")
    return figure


def at(layers: Any, layer: int, quantity: str) -> tuple[float, float]:
    row = layers[(layers["layer"] == layer) & (layers["quantity"] == quantity)].iloc[0]
    return float(row["value"]), float(row["standard_error"])
