"""The figure of soft_addressing.py."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.essay.of_models import names
from experiments.essay.soft_addressing.conclusions import of
from experiments.judging import effect

COLOURS = ("#d1495b", "#2a6f97", "#5f7a4f", "#e09f3e")


def draw(table: Any) -> Figure:
    """The formula; addresses; weights by margin; loss with few addresses, and tempered; the table."""
    figure, axes = plt.subplots(3, 2, figsize=(10, 11), layout="constrained")
    panels = (_formula, _addresses, _weights, _kept, _tempered, _table)
    for number, model in enumerate(names(table)):
        for ax, panel in zip(axes.flat, panels, strict=True):
            panel(ax, table, model, COLOURS[number % 4])
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
        ax.legend(frameon=False, fontsize=8, loc="upper right" if ax in (axes[2, 0], axes[2, 1]) else "best")
    return figure


def _formula(ax: Any, table: Any, model: str, colour: str) -> None:
    for name, rows in of(table, model, "formula").groupby("what", sort=False):
        own = name == "the formula"
        depth = rows["x"] / max(1, rows["x"].max())
        ax.plot(depth, rows["value"], "-" if own else ":", color=colour, label=model if own else None)
    ax.set(yscale="log", xlabel="depth", ylabel="relative error, worst head",
           title="The formula is what heads do (dotted: wrong ones)")  # fmt: skip


def _addresses(ax: Any, table: Any, model: str, colour: str) -> None:
    rows = of(table, model, "spread", quantity="by position").pivot(index="x", columns="what", values="value")
    ax.fill_between(rows.index, rows["10%"], rows["90%"], color=colour, alpha=0.2, lw=0)
    ax.plot(rows.index, rows["50%"], color=colour, label=f"{model}: median, 10 – 90 % of heads")
    if colour == COLOURS[0]:
        ax.plot(rows.index, rows.index, color="0.5", ls="--", label="even attention")
        ax.axhline(1, color="0.5", lw=1, ls=":", label="hard addressing")
    ax.set(yscale="log", xlabel="position of the query", ylabel="effective addresses besides BOS",
           title="From how many addresses heads read")  # fmt: skip


def _weights(ax: Any, table: Any, model: str, colour: str) -> None:
    for kind, style in (("match", "-"), ("no match", "--")):
        rows = of(table, model, "match", what=kind, quantity="by margin")
        ax.plot(rows["x"], rows["value"], style, marker="o", ms=3, color=colour, label=f"{model}, {kind}")
    ax.set(xlabel="score less the best other key's, nats", ylabel="weight of the key", ylim=(-0.02, 1.02),
           title="Induction heads: weight against the score's margin")  # fmt: skip


def _kept(ax: Any, table: Any, model: str, colour: str) -> None:
    rows = of(table, model, "kept")
    found = [effect(rows[rows["x"] == x]["value"].tolist()) for x in sorted(set(rows["x"]))]
    error = [2 * (each.error or 0) for each in found]
    ax.errorbar(sorted(set(rows["x"])), [each.value for each in found], error, color=colour, marker="o", ms=4,
                capsize=2, label=model)  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set_xticks(sorted(set(rows["x"])), [f"{x:g}" for x in sorted(set(rows["x"]))])
    ax.axhline(0, color="0.8", lw=0.8)
    ax.set(xlabel="addresses kept besides BOS, in all heads", ylabel="rise of the loss on text, nats",
           title="What is lost with few addresses")  # fmt: skip


def _tempered(ax: Any, table: Any, model: str, colour: str) -> None:
    rows = of(table, model, "temper")
    places = [0, 0.5, 1, 2, 4, math.inf]
    shown = {"induction": ("induction heads, repeated tokens", "-"), "all": ("all heads, text", "--"),
             "random 0": ("random heads, repeated tokens", ":")}  # fmt: skip
    for group, (label, style) in shown.items():
        own = rows[rows["what"] == group]
        points = {places.index(x): float(own[own["x"] == x]["value"].mean()) for x in set(own["x"])}
        points |= {places.index(1): 0.0} if points else {}
        x = sorted(points)
        ax.plot(x, [points[i] for i in x], style, marker="o", ms=3, color=colour, label=f"{model}: {label}")
    ax.set_xticks(range(len(places)), ["0", "0.5", "1", "2", "4", "∞"])
    ax.set_yscale("symlog", linthresh=0.5)
    ax.axhline(0, color="0.8", lw=0.8)
    ax.set(xlabel="β: even (0) … as it is (1) … argmax (∞)", ylabel="rise of the loss, nats", ylim=(-1, 20000),
           title="softmax(β · scores)")  # fmt: skip


def _table(ax: Any, table: Any, model: str, colour: str) -> None:
    rows = of(table, model, "table", what="as it is")
    for quantity, (label, style) in {
        "address": ("address found", "-"), "among": ("value first of the values", ":"), "value": ("value back", "--"),
    }.items():  # fmt: skip
        mean = rows[rows["quantity"] == quantity].groupby("x")["value"].mean()
        ax.plot(mean.index, mean, style, marker="o", ms=3, color=colour, label=f"{model}: {label}")
    sizes = sorted(set(rows["x"]))
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [f"{x:g}" for x in sizes])
    ax.set(xlabel="pairs of key and value in the context", ylabel="share of the keys", ylim=(-0.03, 2.1),
           title="Keys given again")  # fmt: skip
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
