"""Figures of the experiment harry_potter."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.essay.harry_potter.names import GROUPS, WORDINGS
from experiments.essay.of_models import names

SHOWN = {"known": "known", "made_up": "made up", "exchanged": "exch."}
RED, BLUE, ORANGE, GREY = "#d1495b", "#2a6f97", "#e09f3e", "#8d99ae"
APART = 0.8  # between two models' groups


def draw(table: Any) -> Figure:
    """Attention to the second name; its probability; what ablation costs; what the heads write for its logit."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    looks, likely, lost, added = axes.flat
    models = names(table)
    _against_random(looks, table, "attention")
    for number in range(len(models)):
        chance = _values(table, models[number], "uniform attention", "", GROUPS)["value"]
        x = _places(number, GROUPS)
        label = None if number else "uniform attention"
        looks.hlines(chance, [each - 0.25 for each in x], [each + 0.25 for each in x], color="0.2", label=label)
    looks.set(ylabel="attention to the second name", title=f"Attention to it: {_mean(table, 'attention', '{:.2f}')}")
    bars = {
        "as it is": ("probability", "", BLUE),
        "without the induction heads": ("probability left", "induction", RED),
        "without the earlier occurrence": ("probability without occurrence", "", GREY),
    }
    for offset, (label, (quantity, heads, colour)) in enumerate(bars.items()):
        for number, model in enumerate(models):
            rows = _values(table, model, quantity, heads, GROUPS)
            x = [place + (offset - 1) * 0.27 for place in _places(number, GROUPS)]
            likely.bar(x, rows["value"], 0.25, yerr=rows["standard_error"], color=colour, capsize=2,
                       label=None if number else label)  # fmt: skip
    likely.set(ylabel="probability of the second name", title="Likely as long as the heads can read it")
    _against_random(lost, table, "lost log-probability")
    lost.set(ylabel="log-probability lost, nats",
             title=f"Lost without the heads: {_mean(table, 'lost log-probability', '{:.1f}')}")  # fmt: skip
    _against_random(added, table, "logits added")
    added.set(ylabel="logits added to the second name",
              title=f"Logits that they add: {_mean(table, 'logits added', '{:.1f}')}")  # fmt: skip
    for ax in axes.flat:
        _finish(ax, table, {SHOWN[group]: group for group in GROUPS})
    return figure


def draw_fuzzy(table: Any) -> Figure:
    """Attention to the name and its probability after another wording, the same one and an unrelated title."""
    kinds = [group for group in table["group"].unique() if group not in GROUPS]
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.9), layout="constrained")
    labels = {"likened": "in another form", "repeated": "the title itself", "unrelated": "an unrelated title"}
    for ax, quantity, heads in zip(axes, ("attention", "probability"), ("induction", ""), strict=True):
        for offset, (wording, colour) in enumerate(zip(WORDINGS, (BLUE, ORANGE, GREY), strict=True)):
            for number, model in enumerate(names(table)):
                rows = _values(table, model, f"{quantity}, {wording}", heads, kinds)
                x = [place + (offset - 1) * 0.27 for place in _places(number, kinds)]
                ax.bar(x, rows["value"], 0.25, yerr=rows["standard_error"], color=colour, capsize=2,
                       label=None if number else labels[wording])  # fmt: skip
        _finish(ax, table, {kind: kind for kind in kinds})
    axes[0].set(ylabel="induction heads' attention to the name", title="Where the title comes again")
    axes[1].set(ylabel="probability of the name", title="And what is made of it")
    return figure


def _places(number: int, groups: Any) -> list[float]:
    """Where the groups of one model stand."""
    return [number * (len(groups) + APART) + i for i in range(len(groups))]


def _finish(ax: Axes, table: Any, groups: dict[str, str]) -> None:
    models = names(table)
    places = [place for number in range(len(models)) for place in _places(number, groups)]
    ax.set_xticks(places, [*groups] * len(models), fontsize=8)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.35 * (high - low))  # room for the legend and the models' names
    for number, model in enumerate(models):
        middle = sum(_places(number, groups)) / len(groups)
        ax.annotate(model, (middle, -0.13), xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    ax.title.set_fontsize(10)
    ax.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)


def _mean(table: Any, quantity: str, form: str) -> str:
    """The mean over groups of what the induction heads do, model by model."""
    found = [_values(table, model, quantity, "induction", GROUPS)["value"].mean() for model in names(table)]
    return ", ".join(form.format(value) for value in found)


def _against_random(ax: Axes, table: Any, quantity: str) -> None:
    for number, model in enumerate(names(table)):
        rows, x = _values(table, model, quantity, "induction", GROUPS), _places(number, GROUPS)
        label = None if number else "induction heads"
        ax.bar(x, rows["value"], 0.5, yerr=rows["standard_error"], color=BLUE, label=label, capsize=2)
        others = table[(table["model"] == model) & (table["quantity"] == quantity)]
        others = others[others["heads"].str.startswith("random")]
        at = [x[GROUPS.index(group)] + 0.36 for group in others["group"]]
        ax.plot(at, others["value"], "o", ms=3, color=GREY, label=None if number else "random sets, same layers")


def _values(table: Any, model: str, quantity: str, heads: str, groups: Any) -> Any:
    found = table[(table["model"] == model) & (table["quantity"] == quantity) & (table["heads"] == heads)]
    return found.set_index("group").loc[list(groups)]
