"""The figure of the experiment pronouns."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.essay.of_models import names
from experiments.essay.pronouns.conclusions import FLOOR, HELD, values
from experiments.judging import effect

COLOURS = ("#2a6f97", "#d1495b", "#5f7a4f", "#e09f3e")
WHERE = {("gender", "pronoun"): "at he, she", ("thing", "pronoun"): "at “it”", ("thing", "word"): "at tired, wide"}


def draw(table: Any, layers: Any) -> Figure:
    """Attention to the noun that is meant; the answer with tokens cut off; what the vector varies with."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")
    colour: dict[str, str] = dict(zip(names(layers), COLOURS, strict=False))
    _attention(left, table, colour)
    _answers(middle, table, colour)
    _layers(right, layers, colour)
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


def _attention(ax: Any, table: Any, colour: dict[str, str]) -> None:
    own = table[table["quantity"] == "attention"]
    own = own[own["heads"] == "best"]
    found = own[own["at"] == "pronoun"]
    kinds = [(model, kind) for model in names(found) for kind in dict.fromkeys(found[found["model"] == model]["kind"])]
    for x, (model, kind) in enumerate(kinds):
        rows = own[own["kind"] == kind]
        best, earlier = (effect(values(rows, model, at, "best")) for at in ("pronoun", "person"))
        ax.bar(x - 0.2, best.value, 0.38, yerr=best.error, color=colour[model], capsize=2,
               label="at the pronoun" if not x else None)  # fmt: skip
        ax.bar(x + 0.2, earlier.value, 0.38, yerr=earlier.error, color="#c9cfd6", capsize=2,
               label="a name in its place" if not x else None)  # fmt: skip
    marks = {"gender": "he, she", "thing": "it"}
    ax.set_xticks(range(len(kinds)), [f"{model.replace('encoder ', '')}, {marks[kind]}" for model, kind in kinds],
                  rotation=20, ha="right", fontsize=8)  # fmt: skip
    ax.set(ylabel="attention", title="To the noun meant, less the other")


def _answers(ax: Any, table: Any, colour: dict[str, str]) -> None:
    own = table[table["quantity"] == "lead"]
    runs = list(dict.fromkeys(own["heads"]))
    models = names(own)
    width = 0.8 / max(1, len(models))
    for i, model in enumerate(models):
        found = [effect(values(own, model, "end", run)) for run in runs]
        y = [len(runs) - 1 - number + (0.5 * (len(models) - 1) - i) * width for number in range(len(runs))]
        ax.barh(y, [each.value for each in found], width * 0.95, xerr=[each.error or 0 for each in found],
                color=colour[model], capsize=2, label=model)  # fmt: skip
    ax.axvline(0, color="0.3", lw=1)
    ax.set_yticks(range(len(runs))[::-1], [run.replace(" cut ", "\ncut ") for run in runs], fontsize=8)
    ax.set(xlabel="lead of the noun that is meant, logits", title="Asked who is meant")


def _layers(ax: Any, layers: Any, colour: dict[str, str]) -> None:
    styles = {("gender", "pronoun"): "-", ("thing", "pronoun"): "--", ("thing", "word"): ":"}
    for (model, kind, at), own in layers[~layers["at"].isin(["before", "person"])].groupby(
        ["model", "kind", "at"], sort=False
    ):
        depth = own["layer"] / own["layer"].max()
        there = (own["meant"] + own["other"]).clip(lower=1e-12)
        told = own["meant"].clip(lower=0) / there
        told = told.where(there > FLOOR * there.max())  # where there is next to nothing, a share says nothing
        ax.plot(depth, told, styles[kind, at], color=colour[model],
                label=f"{model.replace('encoder ', '')} {WHERE[kind, at]}")  # fmt: skip
    ax.axhline(0.5, color="0.6", lw=1)
    ax.axhline(HELD, color="0.6", lw=1, ls=":")
    ax.set(xlabel="depth (share of the layers)", ylabel="share of the noun that is meant", ylim=(0.3, 1.25),
           title="What the vector varies with")  # fmt: skip
