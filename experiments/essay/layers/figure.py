"""The figure of layers.py."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from experiments.essay.of_models import names
from experiments.essay.prose import KINDS
from experiments.judging import effect

HEADS = {"previous_token": "#2a6f97", "duplicate_token": "#e09f3e", "prefix_matching": "#d1495b", "resting": "#8d99ae"}
COLOURS: dict[str, str] = dict(
    zip(KINDS, ("#2a6f97", "#8d99ae", "#e09f3e", "#3b8b5d", "#222222", "#7b4ea3", "#d1495b"), strict=True)
)


def draw(table: Any) -> Figure:
    """A row a model: the best head of each kind by layer, how far heads look, where each kind of token settles."""
    models = names(table)
    figure, axes = plt.subplots(len(models), 3, figsize=(12, 3.9 * len(models)), layout="constrained", squeeze=False)
    for row, model in zip(axes, models, strict=True):
        own = table[table["model"] == model]
        _heads(row[0], own[own["part"] == "head"], model)
        _reach(row[1], own[own["part"] == "head"])
        _settled(row[2], own[own["part"] == "token"])
        for ax in row:
            ax.title.set_fontsize(10)
            ax.spines["top"].set_visible(False)
    return figure


def _heads(ax: Any, heads: Any, model: str) -> None:
    strongest = {}
    for name, colour in HEADS.items():
        best = heads[(heads["quantity"] == name)].groupby("layer")["value"].max()
        label = {"prefix_matching": "induction"}.get(name, name.replace("_", " "))
        ax.plot(best.index, best, color=colour, label=label, marker="o", ms=3, lw=0 if name == "resting" else 1.2)
        strongest[label] = int(best.idxmax())
    title = ",\n".join(f"{name} L{layer}" for name, layer in strongest.items() if name != "resting")
    title = title.replace(",\n", ", ", 1)
    ax.set(xlabel="layer", ylabel=f"{model}\nscore of the layer's best head", ylim=(0, 1.3))
    ax.set_title(f"Strongest: {title}")
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="upper left")
    ax.spines["right"].set_visible(False)


def _reach(ax: Any, heads: Any) -> None:
    rows = heads[heads["quantity"] == "distance_past_first"]
    mean = rows.groupby("layer")["value"].mean()
    ax.scatter(rows["layer"], rows["value"], s=8, color="#8d99ae", label="a head")
    ax.plot(mean.index, mean, color="#2a6f97", label="mean of the layer")
    ax.set(xlabel="layer", ylabel="distance of what is read, tokens", ylim=(0, None))
    rests = heads[heads["quantity"] == "first"].groupby("layer")["value"].mean()
    other = ax.twinx()
    other.plot(rests.index, rests, color="#e09f3e", ls="--")
    other.set(ylabel="attention on BOS (dashed)", ylim=(0, 1))
    other.spines["top"].set_visible(False)
    ax.legend(frameon=False, fontsize=8, loc="upper right")
    ax.set_title("How far heads look on prose")


def _settled(ax: Any, tokens: Any) -> None:
    found = {kind: effect((1 + rows["layer"]).tolist()) for kind, rows in tokens.groupby("kind")}
    order = sorted(found, key=lambda kind: found[kind].value)
    y = np.arange(len(order))
    ax.barh(y, [found[kind].value for kind in order], xerr=[2 * (found[kind].error or 0) for kind in order],
            color=[COLOURS[str(kind)] for kind in order], ecolor="0.4")  # fmt: skip
    ax.set_yticks(y, [f"{kind} ({found[kind].items})" for kind in order], fontsize=8)
    ax.set(xlabel="settles after so many layers", xlim=(0, int(tokens["n_layers"].iloc[0])))
    ax.set_title("Where kinds of tokens are known")
    ax.spines["right"].set_visible(False)
