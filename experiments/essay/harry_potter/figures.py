"""Figures of the experiment harry_potter."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.essay.harry_potter.names import GROUPS, WORDINGS

SHOWN = {"known": "well known", "made_up": "made up", "exchanged": "exchanged"}
RED, BLUE, ORANGE, GREY = "#d1495b", "#2a6f97", "#e09f3e", "#8d99ae"


def draw(table: Any) -> Figure:
    """Attention to the second name; its probability; what ablation costs; what the heads write for its logit."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    looks, likely, lost, added = axes.flat
    _against_random(looks, table, "attention")
    chance = _values(table, "uniform attention").loc[list(GROUPS), "value"]
    looks.hlines(chance, [-0.25, 0.75, 1.75], [0.25, 1.25, 2.25], color="0.2", label="uniform attention")
    mean = _values(table, "attention", "induction").loc[list(GROUPS), "value"].mean()
    looks.set(ylabel="attention to the second name", title=f"Induction heads look at it with {mean:.2f}")
    bars = {
        "as it is": ("probability", "", BLUE),
        "without the induction heads": ("probability left", "induction", RED),
        "without the earlier occurrence": ("probability without occurrence", "", GREY),
    }
    for offset, (label, (quantity, heads, colour)) in enumerate(bars.items()):
        rows = _values(table, quantity, heads).loc[list(GROUPS)]
        x = [place + (offset - 1) * 0.27 for place in range(3)]
        likely.bar(x, rows["value"], 0.25, yerr=rows["standard_error"], color=colour, label=label, capsize=2)
    made_up = [_values(table, bars[label][0], bars[label][1]).loc["made_up", "value"] for label in list(bars)[:2]]
    likely.set(ylabel="probability of the second name",
               title=f"Made-up names: {made_up[0]:.2f}, without the heads {made_up[1]:.2f}")  # fmt: skip
    _against_random(lost, table, "lost log-probability")
    costs = _values(table, "lost log-probability", "induction")["value"]
    title = f"Without them: known −{costs['known']:.1f}, made up −{costs['made_up']:.1f} nats"
    lost.set(ylabel="log-probability lost, nats", title=title)
    _against_random(added, table, "logits added")
    rank = _values(table, "rank", "induction").loc[list(GROUPS), "median"].max()
    title = f"Rank among all tokens by their output: {rank:.0f} (0: first)"
    added.set(ylabel="logits added to the second name", title=title)
    for ax in axes.flat:
        ax.set_xticks(range(3), SHOWN.values())
        ax.spines[["top", "right"]].set_visible(False)
        low, high = ax.get_ylim()
        ax.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
        ax.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    return figure


def draw_fuzzy(table: Any) -> Figure:
    """Attention to the name and its probability after another wording, the same one and an unrelated title."""
    kinds = [group for group in table["group"].unique() if group not in GROUPS]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    labels = {"likened": "in another form", "repeated": "the title itself", "unrelated": "an unrelated title"}
    for ax, quantity, heads in zip(axes, ("attention", "probability"), ("induction", ""), strict=True):
        for offset, (wording, colour) in enumerate(zip(WORDINGS, (BLUE, ORANGE, GREY), strict=True)):
            rows = _values(table, f"{quantity}, {wording}", heads).loc[kinds]
            x = [place + (offset - 1) * 0.27 for place in range(len(kinds))]
            ax.bar(x, rows["value"], 0.25, yerr=rows["standard_error"], color=colour, label=labels[wording], capsize=2)
        ax.set_xticks(range(len(kinds)), kinds)
        ax.spines[["top", "right"]].set_visible(False)
    gained = _values(table, "attention gained, likened", "induction").loc[kinds, "value"]
    told = ", ".join(f"{kind} {value:+.2f}" for kind, value in gained.items())
    axes[0].set(ylabel="induction heads' attention to the name", title=f"Over an unrelated title: {told}")
    gained = _values(table, "log-probability gained, likened").loc[kinds, "value"]
    told = ", ".join(f"{kind} {value:+.1f}" for kind, value in gained.items())
    axes[1].set(ylabel="probability of the name", title=f"Nats gained: {told}")
    for ax in axes:
        ax.title.set_fontsize(10)
    axes[0].set_ylim(top=1.3 * axes[0].get_ylim()[1])
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=3)
    return figure


def _against_random(ax: Axes, table: Any, quantity: str) -> None:
    rows = _values(table, quantity, "induction").loc[list(GROUPS)]
    ax.bar(range(3), rows["value"], 0.5, yerr=rows["standard_error"], color=BLUE, label="8 induction heads", capsize=2)
    others = table[(table["quantity"] == quantity) & table["heads"].str.startswith("random")]
    x = [GROUPS.index(group) + 0.36 for group in others["group"]]
    ax.plot(x, others["value"], "o", ms=3, color=GREY, label="random sets, same layers")


def _values(table: Any, quantity: str, heads: str = "") -> Any:
    return table[(table["quantity"] == quantity) & (table["heads"] == heads)].set_index("group")
