"""Figures of the experiment context_fusion."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.essay.context_fusion.minimal_pairs import PLACES, Asked, differences
from induction_lab import HookedModel
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.results.token_labels import token_labels

TOLD = {"question": "asked without the word", "named": "asked with the word", "alone": "asked without the sentence"}
COLOURS = {"question": "#2a6f97", "named": "#e09f3e", "alone": "#8d99ae"}


def draw(table: Any, n_heads: int) -> Figure:
    """Answers by kind; attention to the right noun by place; the share that heads carry."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.5, 4), layout="constrained")
    rows = table[table["quantity"] == "accuracy"]
    kinds = list(rows["kind"].unique())
    for offset, (form, colour) in enumerate(COLOURS.items()):
        own = rows[rows["question"] == form]
        x = [kinds.index(kind) + (offset - 1) * 0.27 for kind in own["kind"]]
        left.bar(x, own["value"], 0.25, yerr=own["standard_error"], color=colour, label=TOLD[form], capsize=2)
    left.axhline(0.5, color="0.3", ls=":", lw=1)
    of_it = rows[(rows["kind"] == "it") & (rows["question"] == "question")].iloc[0]
    left.set_xticks(range(len(kinds)), kinds, fontsize=9)
    left.set(
        ylim=(0, 1.25),
        ylabel="right noun leads, share of cases",
        title=f"“it”: right noun leads in {of_it['value']:.0%}",
    )
    for index, place in enumerate(PLACES):
        found = table[table["quantity"] == f"attention from {place}"].set_index("heads")
        others = found[found.index.str.startswith("random")]["value"]
        for name, colour, shift in (("best", "#2a6f97", -0.15), ("carriers", "#e09f3e", 0.15)):
            one, label = (
                found.loc[name],
                {"best": f"{n_heads} best heads", "carriers": f"{n_heads} heads that carry it"},
            )
            middle.bar(index + shift, one["value"], 0.28, yerr=one["standard_error"], color=colour, capsize=2,
                       label=label[name] if not index else None)  # fmt: skip
        middle.plot([index + 0.38] * len(others), others, "o", ms=3, color="0.5", label="random" if not index else None)
    middle.set_xticks(range(len(PLACES)), ["from “it”", "from the word", "from the end"])
    best = table[table["quantity"] == "attention from word"].set_index("heads").loc["best", "value"]
    middle.set_ylim(top=1.35 * middle.get_ylim()[1])
    middle.set(ylabel="attention, right less wrong noun", title=f"“it” cannot tell; the word does by {best:.3f}")
    shares = table[(table["quantity"] == "share carried") & (table["kind"] == "it")].set_index("heads")
    top = shares[shares.index.str.startswith("top")]
    right.errorbar([int(name[4:]) for name in top.index], top["value"], top["standard_error"], color="#d1495b",
                   marker="o", capsize=2, label="heads chosen on other pairs")  # fmt: skip
    others = shares[shares.index.str.startswith("random")]["value"]
    right.plot(
        [int(top.index[-1][4:])] * len(others), others, "o", ms=4, color="0.5", label=f"random sets of {n_heads}"
    )
    right.set_xticks([int(name[4:]) for name in top.index])
    right.axhline(0, color="0.3", ls=":", lw=1)
    right.set_ylim(top=1.25 * right.get_ylim()[1])
    right.set(xlabel="heads exchanged", ylabel="share of the word's effect",
              title=f"{n_heads} heads carry {top['value'].iloc[-1]:.0%} of it")  # fmt: skip
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


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
