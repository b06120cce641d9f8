"""Figures of the experiment context_fusion."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.essay.context_fusion.minimal_pairs import PERSON, PLACES, Asked, differences
from induction_lab import HookedModel
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.results.token_labels import token_labels

NAMES = {"question": "with the sentence", "lexical": "with the word alone, neither noun before"}
COLOURS = {"question": "#2a6f97", "lexical": "#c9cfd6"}
BEST, CARRY, OTHERS = "#2a6f97", "#e09f3e", "0.5"


def draw(table: Any, n_heads: int) -> Figure:
    """A row a model: what the word moves, attention to the right noun by place, the share that heads carry."""
    models = list(dict.fromkeys(table["model"]))
    figure, axes = plt.subplots(len(models), 3, figsize=(11.5, 3.6 * len(models)), layout="constrained", squeeze=False)
    for (left, middle, right), model in zip(axes, models, strict=True):
        own = table[table["model"] == model]
        _moved(left, own, model)
        _attention(middle, own, n_heads)
        _shares(right, own, n_heads)
        for ax in (left, middle, right):
            ax.spines[["top", "right"]].set_visible(False)
            ax.legend(frameon=False, fontsize=8, loc="best")
    return figure


def _moved(ax: Any, table: Any, model: str) -> None:
    rows = table[table["quantity"] == "log-odds moved"]
    kinds = list(rows["kind"].unique())
    for offset, (form, colour) in enumerate(COLOURS.items()):
        own = rows[rows["question"] == form]
        x = [kinds.index(kind) + (offset - 0.5) * 0.38 for kind in own["kind"]]
        ax.bar(x, own["value"], 0.36, yerr=own["standard_error"], color=colour, label=NAMES[form], capsize=2)
    ax.axhline(0, color="0.3", lw=1)
    ax.set_xticks(range(len(kinds)), kinds, fontsize=9)
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])
    ax.set(ylabel="log-odds of the right noun", title=f"{model}: what the word moves")


def _attention(ax: Any, table: Any, n_heads: int) -> None:
    for index, place in enumerate(PLACES):
        found = table[table["quantity"] == f"attention from {place}"].set_index("heads")
        others = found[found.index.str.startswith("random")]["value"]
        one = found.loc["best"]
        ax.bar(index - 0.15, one["value"], 0.28, yerr=one["standard_error"], color=BEST, capsize=2,
               label=None if index else f"{n_heads} best heads")  # fmt: skip
        ax.plot([index + 0.38] * len(others), others, "o", ms=3, color=OTHERS, label=None if index else "random")
    person = table[table["quantity"] == "attention from word, of a person"].iloc[0]
    at = PLACES.index("word") + 0.15
    ax.bar(at, person["value"], 0.28, yerr=person["standard_error"], color=CARRY, capsize=2,
           label=f"the same heads, “{PERSON}” for “it”")  # fmt: skip
    ax.set_xticks(range(len(PLACES)), ["from “it”", "from the word", "from the end"])
    ax.set_ylim(top=1.45 * ax.get_ylim()[1])
    ax.set(ylabel="attention", title="Attention to the right less the wrong noun")


def _shares(ax: Any, table: Any, n_heads: int) -> None:
    shares = table[(table["quantity"] == "share carried") & (table["kind"] == "it")].set_index("heads")
    top = shares[shares.index.str.startswith("top")]
    sizes = [int(name[4:]) for name in top.index]
    ax.errorbar(sizes, top["value"], top["standard_error"], color="#d1495b",
                marker="o", capsize=2, label="heads chosen on other pairs")  # fmt: skip
    others = shares[shares.index.str.startswith("random")]["value"]
    ax.plot([sizes[-1]] * len(others), others, "o", ms=4, color=OTHERS, label=f"random sets of {n_heads}")
    ax.axhline(0, color="0.3", ls=":", lw=1)
    ax.set_xticks(sizes)
    ax.set_ylim(top=1.35 * ax.get_ylim()[1])
    ax.set(xlabel="heads exchanged", ylabel="share of the word's effect", title="How much of it a few heads carry")


def draw_example(model: HookedModel, asked: Asked, streams: ResidualStreams) -> Figure:
    """How far the streams of the first pair lie apart, by layer and token."""
    last = int(asked.passages.last[0])
    apart = differences(asked, streams)[:, 0, 1 : last + 1]
    tokens = asked.passages.tokens[:, 1 : last + 1]
    rows = (token_labels(model.tokenizer, tokens[row].tolist()) for row in (0, len(asked.pairs)))
    words = [" / ".join(dict.fromkeys(label.strip() for label in pair)) for pair in zip(*rows, strict=True)]
    figure, ax = plt.subplots(figsize=(10, 4), layout="constrained")
    image = ax.imshow(apart.numpy(), aspect="auto", origin="lower", cmap="viridis", vmin=0)
    ax.set_xticks(range(len(words)), words, rotation=60, ha="right")
    at_it = float(apart[:, int(asked.passages.marks["it"][0, 1]) - 1].max())
    title = f"The streams of the two sentences differ by {at_it:.1g} at “it”, by {float(apart.max()):.2f} at most after"
    ax.set(ylabel="before layer (top: the end)", title=title)
    figure.colorbar(image, ax=ax, label="difference / size of the stream")
    return figure
