"""The figure of the experiment namesakes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.essay.harry_potter.two_names import FACTORS, PLAIN, SCRAMBLED

COLOURS = ("#2a6f97", "#d1495b", "#e09f3e", "#5f7a4f")
LABELS = {
    "topic": "topic of the\nlast sentence", "last": "named last", "often": "named twice", "sentence": "known for it",
    "role": "in its own role",
}  # fmt: skip


def draw(table: Any) -> Figure:
    """What each factor does; what is left of the topic with scrambled words; which part of a run carries it."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), layout="constrained", width_ratios=(1.5, 0.9, 1.3))
    _factors(axes[0], table)
    _words(axes[1], table)
    _ways(axes[2], table)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.axhline(0, color="0.6", lw=0.8, zorder=0)
    return figure


def _factors(ax: Axes, table: Any) -> None:
    found = table[(table["kind"] == PLAIN) & table["quantity"].isin(FACTORS)]
    places = [(model, group) for model in found["model"].unique() for group in ("made_up", "famous")]
    for number, (model, group) in enumerate(places):
        own = found[(found["model"] == model) & (found["group"] == group)].groupby("quantity")["value"]
        x = [i + (number - (len(places) - 1) / 2) * 0.18 for i in range(len(FACTORS))]
        colour, face = COLOURS[number // 2 % 4], None if group == "made_up" else "white"
        ax.errorbar(x, own.mean()[list(FACTORS)], 2 * own.sem()[list(FACTORS)], fmt="o", ms=6, capsize=2,
                    color=colour, markerfacecolor=face, label=f"{model}, {group.replace('_', ' ')} names")  # fmt: skip
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))  # room for the legend
    ax.set_xticks(range(len(FACTORS)), [LABELS[name] for name in FACTORS], rotation=25, fontsize=8)
    ax.set(ylabel="change of the name's log-odds, nats", title="What says whose name comes")
    ax.legend(frameon=False, fontsize=8)


def _words(ax: Axes, table: Any) -> None:
    models = list(table["model"].unique())
    for number, model in enumerate(models):
        own = table[(table["model"] == model) & (table["group"] == "made_up") & (table["quantity"] == "topic")]
        each = own.groupby("kind")["value"]
        x = [i + (number - (len(models) - 1) / 2) * 0.3 for i in range(2)]
        kinds = [PLAIN, SCRAMBLED]
        ax.bar(
            x, each.mean()[kinds], 0.27, yerr=2 * each.sem()[kinds], color=COLOURS[number % 4], capsize=2, label=model
        )
    ax.set_xticks(range(2), ["as written", "words scrambled"], fontsize=8)
    ax.set(ylabel="topic's effect, nats", title="Sentence or words?")


def _ways(ax: Axes, table: Any) -> None:
    for number, model in enumerate(table["model"].unique()):
        own = table[(table["model"] == model) & (table["group"] == "made_up")]
        each = own[own["quantity"] == "clean"]["value"]
        topic = own[(own["quantity"] == "topic") & (own["kind"] == PLAIN)]["value"]
        if topic.mean() < 2 * topic.sem():
            continue  # a share of nothing
        clean = each.mean()
        share = (clean - own.groupby(["quantity", "heads"])["value"].mean()) / (2 * clean)
        stream = share["stream"]
        colour = COLOURS[number % 4]
        ax.plot([float(layer) for layer in stream.index], stream, "-o", ms=4, color=colour, label=model)
        queries = share["query"]
        for x, name, mark in ((1.15, "induction", "D"), (1.3, "all heads", "s")):
            ax.plot(x + 0.04 * number, queries[name], mark, ms=7, color=colour)
        others = queries[queries.index.str.startswith("bystanders")]
        ax.plot([1.15 + 0.04 * number] * len(others), others, "_", ms=7, color="0.5")
    ax.set_xticks([0, 0.5, 1, 1.17, 1.33], ["first", "middle\nlayer", "last", "8 heads'\nqueries", "all"], fontsize=8)
    ax.set(ylabel="share of the topic's effect", title="Taken over at the end: stream, queries")
    if ax.lines:
        ax.legend(frameon=False, fontsize=8, loc="upper left")
