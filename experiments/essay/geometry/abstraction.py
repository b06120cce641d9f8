"""Are queries, keys and values highly abstract: does the token itself fade from them while its sense comes in?

    python -m experiments abstraction

From every layer's queries, keys and values at the last word of the openings of senses.toml: which of the words is it,
by the nearest centroid in cosine of openings of the other sense; and in which of its senses, by the nearest centroid of
the other openings. All are `d_head` wide and read head by head; beside them the layer's normalised input on as many
random dimensions. Both again with shuffled labels, and the token itself on prose, from the other half of the passages.
Then the variance between words, between the senses of a word, and the rest. Writes to figures/: abstraction.csv,
abstraction.json (verdicts), abstraction.png. 3 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.asked import share
from experiments.essay.geometry.senses import DATA, Word, centred, load_words, read_words
from experiments.essay.geometry.separation import centroid_accuracy
from experiments.essay.geometry.topics import evenly_shuffled
from experiments.essay.of_models import Least, names, on_models
from experiments.essay.prose import as_tokens, read_prose
from experiments.judging import effect, judge
from experiments.verdicts import Verdict
from induction_lab import HookedModel, capture
from induction_lab.weights.queries_keys import read_from_stream

Part = Literal["q", "k", "v", "stream"]
PARTS: dict[Part, str] = {
    "q": "queries", "k": "keys", "v": "values", "stream": "the stream, as many random dimensions",
}  # fmt: skip
ABSTRACT: tuple[Part, ...] = ("q", "k", "v")
IDENTITY, SENSE, PROSE = "identity", "sense", "identity on prose"
IDENTITY_SHUFFLED, SENSE_SHUFFLED, BY_WORD, BY_SENSE = (
    "identity, shuffled", "sense, shuffled", "variance between words", "variance between senses",
)  # fmt: skip
DEEP = -1  # as a layer: the last third of all layers, in the mean
TIMES = 2  # that a token must occur in each half of the passages
# The criteria, written before anything was run.
HALF = 0.5  # of the tokens: what may still be told in the last third, if queries, keys and values are highly abstract
OFTEN = 0.75  # of the openings: half of the way from chance to always
LESS = 0.1  # of the tokens: by how much less they must tell than random dimensions of what they read
ESSAY = "essay §5"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "abstraction",
        lambda model, most: measured(model, load_words(DATA)[:most]),
        lambda table: [fades(table), comes_in(table), less_than_stream(table)],
        draw,
        least=Least("words", 3, "so that an error can be told"),
    )


def measured(model: HookedModel, words: list[Word]) -> list[dict[str, Any]]:
    """A row for each part, layer and quantity, with its error over words; and for each word, in the last third."""
    read = read_words(model, words).stream
    prose, tokens, half = prose_streams(model)
    rows: list[dict[str, Any]] = []

    def add(part: str, layer: int, quantity: str, value: float, error: float | None = None, word: str = "") -> None:
        rows.append({"model": model.name, "part": part, "layer": layer, "quantity": quantity, "word": word,
                     "value": value, "error": error})  # fmt: skip

    for part in PARTS:
        deep: dict[str, list[Tensor]] = {}
        for layer in range(model.n_layers):
            x = made_of(model, layer, part, read[layer].flatten(0, 1)).unflatten(1, read.shape[1:3])
            found = from_openings(x, words)
            for quantity, each in found.items():
                told = effect(each.tolist())
                add(part, layer, quantity, told.value, told.error)
                if layer >= 2 * model.n_layers // 3:
                    deep.setdefault(quantity, []).append(each)
            for quantity, value in variances(x).items():
                add(part, layer, quantity, value)
            each = identified(made_of(model, layer, part, prose[layer]), tokens, half)
            add(part, layer, PROSE, float(torch.stack([each[:, tokens == t].mean() for t in tokens.unique()]).mean()))
        for quantity, layers in deep.items():
            for word, value in zip(words, torch.stack(layers).mean(0).tolist(), strict=True):
                add(part, DEEP, quantity, value, word=word.word)
    return rows


def made_of(
    model: HookedModel, layer: int, part: Part, rows: Float[Tensor, "row d_model"]
) -> Float[Tensor, "head row d_head"]:
    """The layer's queries, keys or values, or as many random dimensions of what they are made of."""
    if part != "stream":
        return read_from_stream(model, layer, part, rows.to(model.device)).float().cpu()
    with torch.no_grad():
        read = model.anatomy.norm_before(layer)(rows[None].to(model.device, model.dtype))[0].float().cpu()
    generator = torch.Generator().manual_seed(layer)
    return read @ torch.randn(model.n_heads, model.d_model, model.d_head, generator=generator)


def from_openings(
    x: Float[Tensor, "head word sentence d_head"], words: list[Word]
) -> dict[str, Float[Tensor, " word"]]:
    """By word, means over heads: how often it is told from its other sense, how often its sense, both shuffled."""
    n, m = x.shape[1:3]
    y, sense = torch.arange(n).repeat_interleave(m), words[0].labels.repeat(n)
    rows, generator = x.flatten(1, 2), torch.Generator().manual_seed(0)
    other = y[torch.randperm(len(y), generator=generator)]
    moved = centred(x, (1, 2))
    chance = [centroid_accuracy(moved[:, i], y[None])[0].mean() for i, y in enumerate(evenly_shuffled(words, 0))]
    return {
        IDENTITY: identified(rows, y, sense).mean(0).unflatten(0, (n, m)).mean(1),
        IDENTITY_SHUFFLED: identified(rows, other, sense).mean(0).unflatten(0, (n, m)).mean(1),
        SENSE: centroid_accuracy(moved, words[0].labels[None])[0].mean(0),
        SENSE_SHUFFLED: torch.stack(chance),
    }


def identified(
    x: Float[Tensor, "head row d"], labels: Int[Tensor, " row"], half: Bool[Tensor, " row"]
) -> Float[Tensor, "head row"]:
    """1 where a row is nearest, by cosine, to the centroid of its label's rows in the other half, else 0.

    A label that the other half lacks is never told. The mean over all rows is taken off.
    """
    x = torch.nn.functional.normalize(centred(x, (1,)), dim=-1)
    classes, y = labels.unique(return_inverse=True)
    found = torch.zeros(x.shape[:2])
    for own in (half, ~half):
        member = torch.nn.functional.one_hot(y[~own], len(classes)).to(x)
        centroids = torch.nn.functional.normalize(member.T @ x[:, ~own], dim=-1)
        near = (x[:, own] @ centroids.mT).masked_fill(member.sum(0) == 0, -torch.inf)
        found[:, own] = (near.argmax(-1) == y[own]).float()
    return found


def variances(x: Float[Tensor, "head word sentence d_head"]) -> dict[str, float]:
    """Shares of the variance between words and between a word's two senses; the rest is between openings of one.

    Components of a nested analysis of variance, the first half of the sentences being one sense; means over heads.
    """
    by_sense = x.unflatten(2, (2, -1))  # [head, word, sense, sentence, d_head]
    n, m = by_sense.shape[1], by_sense.shape[3]
    sense, word = by_sense.mean(3), by_sense.mean((2, 3))
    within = (by_sense - sense[:, :, :, None]).square().sum((1, 2, 3, 4)) / (2 * n * (m - 1))
    senses = m * (sense - word[:, :, None]).square().sum((1, 2, 3)) / n
    words = 2 * m * (word - word.mean(1, keepdim=True)).square().sum((1, 2)) / (n - 1)
    a, b = ((words - senses) / (2 * m)).clamp(min=0), ((senses - within) / m).clamp(min=0)
    whole = (a + b + within).clamp(min=1e-30)
    return {BY_WORD: float((a / whole).mean()), BY_SENSE: float((b / whole).mean())}


def prose_streams(
    model: HookedModel,
) -> tuple[Float[Tensor, "layer row d_model"], Int[Tensor, " row"], Bool[Tensor, " row"]]:
    """Every layer's input at tokens that occur in both halves of the passages, the tokens, and which half it is."""
    prompts, _ = as_tokens(model, read_prose())
    assert prompts.lengths is not None
    streams, tokens, half = [], [], []
    for number, (row, length) in enumerate(zip(prompts.tokens, prompts.lengths.tolist(), strict=True)):
        acts = capture(model, row[None, :length], "resid_pre")
        streams.append(torch.stack([acts["resid_pre", layer][0, 1:].float().cpu() for layer in range(model.n_layers)]))
        tokens.append(row[1:length])
        half.append(torch.full((length - 1,), number % 2 == 0))
    said, first = torch.cat(tokens), torch.cat(half)
    often = [(said[part][:, None] == said).sum(0) >= TIMES for part in (first, ~first)]
    kept = often[0] & often[1]
    return torch.cat(streams, 1)[:, kept], said[kept], first[kept]


def fades(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        effects[model] = effect(over_parts(table, model, IDENTITY))
        parts = "; ".join(f"{PARTS[part]} {share(deep(table, model, part, IDENTITY))}" for part in ABSTRACT)
        numbers[model] = f"in the last third {parts}; in the last layer on prose {each(table, model, PROSE)}; of the "
        numbers[model] += f"variance there between words {each(table, model, BY_WORD)}"
        shuffled = share(over_parts(table, model, IDENTITY_SHUFFLED))
        control.append(f"{model} {shuffled} (chance {1 / n_words(table):.3f})")
    return Verdict(
        claim="Queries, keys and values are highly abstract: which token it is can hardly be told from them any more",
        source=ESSAY,
        measured=f"{n_words(table)} words, twelve openings each: the word by nearest centroid, from openings of its "
        "other sense, head by head; means over heads, over queries, keys and values, and over the last third of layers",
        criterion=f"at most {HALF:.0%} of the words are told",
        numbers=numbers,
        control="labels shuffled: " + "; ".join(control),
        beforehand=True,
        **judge(effects, HALF, at_most=True, unit="of the words"),
    )


def comes_in(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        effects[model] = effect(over_parts(table, model, SENSE))
        parts = "; ".join(f"{PARTS[part]} {share(deep(table, model, part, SENSE))}" for part in PARTS)
        numbers[model] = f"{parts}; of the variance in the last layer, between senses {each(table, model, BY_SENSE)}"
        control.append(f"{model} {share(over_parts(table, model, SENSE_SHUFFLED))}")
    return Verdict(
        claim="And they hold what the word means here: its sense can be told from queries, keys and values",
        source=ESSAY,
        measured="the sense by nearest centroid of the other openings, else the same",
        criterion=f"of more than {OFTEN:.0%} of the openings (chance 50 %)",
        numbers=numbers,
        control="labels shuffled, half of each sense on either side (below one half: the opening left out is missed "
        "on its own side): " + "; ".join(control),
        beforehand=True,
        **judge(effects, OFTEN, unit="of the openings"),
    )


def less_than_stream(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        stream = deep(table, model, "stream", IDENTITY)
        own = over_parts(table, model, IDENTITY)
        effects[model] = effect([a - b for a, b in zip(stream, own, strict=True)])
        numbers[model] = f"{share(own)} against {share(stream)} of as many random dimensions of the stream"
        sense = over_parts(table, model, SENSE), deep(table, model, "stream", SENSE)
        control.append(f"{model} {share(sense[0])} against {share(sense[1])}")
    return Verdict(
        claim="Queries, keys and values leave out which token it is, more than the stream that they read does",
        source=ESSAY,
        measured="the same in the last third of the layers; random dimensions of the normalised stream, as many as a "
        "head has, as many times",
        criterion=f"fewer words are told, by {LESS:.0%} of them",
        numbers=numbers,
        control="the sense, likewise: " + "; ".join(control),
        beforehand=True,
        **judge(effects, LESS, unit="of the words"),
    )


def of(table: pd.DataFrame, model: str, part: str, quantity: str) -> Any:
    return table[(table["model"] == model) & (table["part"] == part) & (table["quantity"] == quantity)]


def deep(table: pd.DataFrame, model: str, part: str, quantity: str) -> list[float]:
    """By word, in the last third of the layers."""
    own = of(table, model, part, quantity)
    return own[own["layer"] == DEEP]["value"].tolist()


def over_parts(table: pd.DataFrame, model: str, quantity: str) -> list[float]:
    rows: Sequence[list[float]] = [deep(table, model, part, quantity) for part in ABSTRACT]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def each(table: pd.DataFrame, model: str, quantity: str) -> str:
    """Of queries, keys and values in the last layer."""
    layer, found = last_layer(table, model), []
    for part in ABSTRACT:
        own = of(table, model, part, quantity)
        found.append(f"{PARTS[part]} {own[own['layer'] == layer]['value'].iloc[0]:.2f}")
    return ", ".join(found)


def last_layer(table: pd.DataFrame, model: str) -> int:
    return int(of(table, model, "q", IDENTITY)["layer"].max())


def n_words(table: pd.DataFrame) -> int:
    return len(deep(table, names(table)[0], "q", IDENTITY))


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: how often the word is told (solid), and its sense (dashed)."""
    models, colours = names(table), ("#d1495b", "#2a6f97", "#e09f3e", "#8d99ae")
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.1), layout="constrained", squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        for (part, label), colour in zip(PARTS.items(), colours, strict=True):
            for quantity, style in ((IDENTITY, "-"), (SENSE, "--")):
                own = of(table, model, part, quantity)
                own = own[own["layer"] >= 0].sort_values("layer")
                ax.plot(own["layer"], own["value"], style, color=colour, label=label if style == "-" else None)
        ax.set(title=model, xlabel="layer", ylim=(0, 1.03), xticks=range(0, last_layer(table, model) + 1, 5))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("told right: which word (solid), its sense (dashed)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
