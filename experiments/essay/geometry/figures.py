"""The pictures of geometry.py."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.essay.geometry.senses import Read, Word, centred
from induction_lab import HookedModel

PATHS = ("apple", "bank", "mouse", "court", "spring", "virus")
SIDES = ("#d1495b", "#2a6f97")


def draw(model: HookedModel, layers: Any, by_word: Any, heads: Any, best: int, *, level: float) -> Figure:
    """Angles, separation, and who pulls; heads whose false discovery rate is below `level` get a dot."""
    figure, axes = plt.subplots(1, 3, figsize=(12.5, 4.4), layout="constrained", width_ratios=[1, 1, 1])
    middle = model.n_layers // 2
    lines(axes[0], layers, {
        "angle to static embedding": "#d1495b", "angle to the neutral word": "#e09f3e",
        "angle between senses": "#2a6f97", "angle within a sense": "#8d99ae",
    })  # fmt: skip
    axes[0].set(ylabel="degrees, mean over words taken off", ylim=(0, 130))
    more = at(layers, middle, "angle between less within")[0]
    axes[0].set_title(f"layer {middle}: senses {more:.0f}° further apart than sentences")
    lines(axes[1], layers, {
        "accuracy": "#d1495b", "accuracy at the token before": "#e09f3e",
        "accuracy, labels shuffled": "#8d99ae", "accuracy, random halves of one sense": "#33415c",
    })  # fmt: skip
    axes[1].set(ylabel="nearest centroid is the own sense's", ylim=(0, 1.02))
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    axes[1].set_title(f"{by_word['separates'].sum()} of {len(by_word)} words separate")
    grid = heads["pull"].to_numpy().reshape(best, model.n_heads)
    limit = np.abs(grid).max()
    image = axes[2].imshow(grid, vmin=-limit, vmax=limit, cmap="RdBu", aspect="auto", origin="lower")
    marked = (heads["q"] < level).to_numpy().reshape(best, model.n_heads).nonzero()
    axes[2].plot(marked[1], marked[0], ".", color="#222222", ms=4)
    axes[2].set(xlabel="head", ylabel="layer")
    axes[2].set_title(f"{(heads['q'] < level).sum()} of {len(heads)} heads pull to the sense (dots)", fontsize=11)
    figure.colorbar(image, ax=axes[2], label="pull, in distances between the senses")
    figure.suptitle(f"{model.name}, {len(by_word)} words of two senses")
    return figure


def lines(ax: Axes, layers: Any, colours: dict[str, str]) -> None:
    for name, colour in colours.items():
        rows = layers[layers["quantity"] == name]
        low, high = rows["value"] - 2 * rows["standard_error"], rows["value"] + 2 * rows["standard_error"]
        ax.fill_between(rows["layer"], low, high, color=colour, alpha=0.2, lw=0)
        ax.plot(rows["layer"], rows["value"], color=colour, label=name.removeprefix("accuracy, "))
    ax.set_xlabel("layer (0: embedding); bands: 2 standard errors")
    ax.legend(frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)


def draw_paths(read: Read, words: list[Word]) -> Figure:
    """Each sentence's way from the embedding through the layers, in its word's own plane."""
    x = centred(read.stream, (1, 2))
    x = x / x.norm(dim=-1).mean((1, 2))[:, None, None, None]  # vectors grow with the layers
    names = [word.word for word in words]
    chosen = [names.index(name) for name in PATHS if name in names] or list(range(min(6, len(words))))
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.4), layout="constrained")
    for ax in axes.flat[len(chosen) :]:
        ax.set_axis_off()
    for ax, i in zip(axes.flat, chosen, strict=False):
        word, points = words[i], x[:, i].flatten(0, 1)
        _, size, axes_of = torch.linalg.svd(points - points.mean(0), full_matrices=False)
        flat = ((points - points.mean(0)) @ axes_of[:2].T).unflatten(0, (len(x), -1))
        explained = size[:2].square() / size.square().sum()
        for sense, colour, name in zip((word.labels, ~word.labels), SIDES, word.senses, strict=True):
            for path in flat[:, sense].transpose(0, 1):
                ax.plot(path[:, 0], path[:, 1], color=colour, lw=0.5, alpha=0.4)
            mean = flat[:, sense].mean(1)
            ax.plot(mean[:, 0], mean[:, 1], color=colour, lw=2, marker="o", ms=2.5, label=name)
        ax.plot(*flat[0, 0], "k*", ms=11, label="embedding")
        ax.set(xlabel=f"PC 1 ({explained[0]:.0%})", ylabel=f"PC 2 ({explained[1]:.0%})", title=word.word)
        ax.legend(frameon=False, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle("From the embedding through the layers: thin, each sentence; thick, the mean of a sense")
    return figure


def at(layers: Any, layer: int, quantity: str) -> tuple[float, float]:
    row = layers[(layers["layer"] == layer) & (layers["quantity"] == quantity)].iloc[0]
    return float(row["value"]), float(row["standard_error"])
