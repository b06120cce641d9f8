"""At "bank", does the query ask for "river" or for "money", as the context has it, and from which layer on?

    python -m experiments asked

The openings of senses.toml end in a word of two senses. The queries there are held against keys of six words of either
sense (topics.toml), none of them in an opening, each read after the same neutral words and placed at the same distances
before the word. By how many nats does a head score words that fit the opening's sense above words that do not? What a
key or a query has for all drops out. Heads are chosen on half of the words and read on the other half. The same at the
token before the word, and with another noun in the word's place, which has no such senses: what is left there is asked
by any word in such a text. Beside it by layer: how well the sense is read off the stream. Writes to figures/:
asked.csv, asked.json (verdicts), asked.png. 2 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.senses import DATA, Word, centred, load_words, read_words
from experiments.essay.geometry.separation import centroid_accuracy
from experiments.essay.geometry.topics import (
    best_elsewhere,
    evenly_shuffled,
    exchanged,
    fitting_words,
    gains,
    leans,
    right,
)
from experiments.essay.of_models import Least, names, on_models, shown
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel
from induction_lab.attention.grouped import to_query_heads
from induction_lab.weights.queries_keys import queries_and_keys
from induction_lab.weights.rotary import relative_rotations

OFFSETS = range(2, 17)  # how far before the word its keys stand: scores are means over these
HEADS, SHUFFLES = 10, 20
AT, OTHER, BEFORE, SHUFFLED, STREAM = (
    "at the word", "another noun in its place", "at the token before", "labels shuffled", "read off the stream",
)  # fmt: skip
BEST = -1  # as a layer: the best heads of all layers together
# The criteria, written before anything was run.
OFTEN = 0.75  # of pairs of openings: half of the way from chance to always
OWN = 0.5  # of what is asked at the word: what another noun may ask in its place if it is the word that asks
SETTLED = 0.9  # of the way from chance to the best layer: from there on the sense counts as settled
DEEPER = 0.1  # of pairs of openings: by how much layers above must tell senses better than layer 1
ESSAY = ("essay §1", "essay §5")


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "asked",
        lambda model, most: measured(model, load_words(DATA)[:most]),
        lambda table: [asks(table), of_its_own(table), above(table)],
        draw,
        least=Least("words", 4, "two in each half"),
    )


def measured(model: HookedModel, words: list[Word]) -> list[dict[str, Any]]:
    """A row for each word, layer and place, for the best heads of all layers, and for every shuffle of the labels."""
    labels, keys = words[0].labels, fitting_words(words)
    read, other, topics = read_words(model, words), read_words(model, exchanged(words)), read_words(model, keys)
    streams = {AT: read.stream, OTHER: other.stream, BEFORE: read.before}
    turn = relative_rotations(model, OFFSETS).mean(1)
    lean: dict[str, Tensor] = {place: torch.zeros(0) for place in streams}
    for place, stream in streams.items():
        lean[place] = torch.stack(
            [
                leans(scores(model, layer, turn[layer], stream[layer], topics.stream[layer]), keys[0].labels)
                for layer in range(model.n_layers)
            ]
        )  # [layer, head, word, sentence]
    chosen = best_elsewhere(gains(lean[AT], labels).flatten(0, 1), HEADS)
    rows: list[dict[str, Any]] = []

    def add(place: str, layer: int, nats: Tensor, often: Tensor) -> None:
        for word, a, b in zip(words, nats.tolist(), often.tolist(), strict=True):
            rows.append({"model": model.name, "place": place, "layer": layer, "word": word.word, "nats": a, "right": b})

    for place, each in lean.items():
        best = heads_of_words(each.flatten(0, 1), chosen)
        add(place, BEST, gains(best, labels), right(best, labels))
        for layer in range(model.n_layers):
            top = best_elsewhere(gains(lean[AT][layer], labels), 1)
            own = heads_of_words(each[layer], top)
            add(place, layer, gains(own, labels), right(own, labels))
    for seed in range(SHUFFLES):
        add(SHUFFLED, seed, *by_chance(lean[AT].flatten(0, 1), evenly_shuffled(words, seed)))
    accuracy = centroid_accuracy(centred(read.stream, (1, 2)), labels[None])[0]
    for layer, each in enumerate(accuracy[:-1]):  # layer l reads the stream with this number
        add(STREAM, layer, torch.zeros_like(each), each)
    return rows


def scores(
    model: HookedModel,
    layer: int,
    turn: Float[Tensor, "d_head d_head"],
    openings: Float[Tensor, "word sentence d_model"],
    keys: Float[Tensor, "word key d_model"],
) -> Float[Tensor, "head word sentence key"]:
    """What the layer's heads score, before the softmax, for queries and keys made of these streams, turned so."""
    q, k = queries_and_keys(model, layer, openings.flatten(0, 1), keys.flatten(0, 1))
    k = to_query_heads(k, model.n_heads, dim=0)
    q, k = (x.unflatten(1, rows.shape[:2]) for x, rows in ((q, openings), (k, keys)))
    return torch.einsum("hwid,de,hwje->hwij", q, turn.to(q), k).float().cpu()


def heads_of_words(lean: Float[Tensor, "part word sentence"], chosen: Tensor) -> Float[Tensor, "word sentence"]:
    """The mean over the heads that were chosen for each word."""
    return torch.stack([lean[parts, word].mean(0) for word, parts in enumerate(chosen)])


def by_chance(lean: Float[Tensor, "part word sentence"], labels: Tensor) -> tuple[Tensor, Tensor]:
    """What comes out, heads chosen in the same way, with labels of its own for every word."""
    nats = torch.stack([gains(lean[:, word], row) for word, row in enumerate(labels)], 1)
    best = heads_of_words(lean, best_elsewhere(nats, HEADS))
    pairs = list(zip(best, labels, strict=True))
    return torch.stack([gains(*pair) for pair in pairs]), torch.stack([right(*pair) for pair in pairs])


def asks(table: pd.DataFrame) -> Verdict:
    often = {model: of(table, model, AT, BEST, "right") for model in names(table)}
    numbers, control = {}, []
    for model in often:
        nats = of(table, model, AT, BEST, "nats")
        known = zip(of(table, model, AT, BEST, "word"), nats, often[model], strict=True)
        examples = [f"{word} {a:+.2f} nats, {b:.2f}" for word, a, b in known if word in ("bank", "apple")]
        numbers[model] = "; ".join([f"{share(often[model])} of pairs, {shown(nats)} nats", *examples])
        tries = [effect(of(table, model, SHUFFLED, seed, "right")).value for seed in range(SHUFFLES)]
        control.append(f"{model} {sum(tries) / len(tries):.3f}, at most {max(tries):.3f}")
    return Verdict(
        claim='At "bank" the query asks for "river" or for "money", as the context has it',
        source=ESSAY[0],
        measured=f"{table['word'].nunique()} words of two senses, six openings each; the {HEADS} best heads together, "
        "chosen on the other half of the words: how often, of two openings of different senses, each is scored with "
        "the words of its sense rather than the other way round; and by how many nats fitting words lie above others",
        criterion=f"in more than {OFTEN:.0%} of the pairs (chance 50 %)",
        numbers=numbers,
        control=f"labels that know nothing of the sense, {SHUFFLES} times: " + "; ".join(control),
        beforehand=True,
        **judge({model: effect(each) for model, each in often.items()}, OFTEN, unit="of pairs of openings"),
    )


def of_its_own(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        own, other, before = (of(table, model, place, BEST, "nats") for place in (AT, OTHER, BEFORE))
        effects[model] = ratio(other, own)
        numbers[model] = f"another noun asks {told(effects[model])} of it: {shown(other)} nats of {shown(own)}; right "
        numbers[model] += f"in {share(of(table, model, OTHER, BEST, 'right'))} of pairs"
        pairs = share(of(table, model, BEFORE, BEST, "right"))
        control.append(f"{model} {told(ratio(before, own))}, right in {pairs} of pairs")
    return Verdict(
        claim="And it is that word that asks so: another noun in the same place asks less than half as much",
        source=ESSAY[0],
        measured="the same heads' scores with the next word of the list in the word's place, over the word's own, "
        "in nats",
        criterion=f"at most {OWN:.0%} of it",
        numbers=numbers,
        control="at the token before, with the same text: " + "; ".join(control),
        beforehand=True,
        **judge(effects, OWN, at_most=True, unit="of what is asked at the word"),
    )


def above(table: pd.DataFrame) -> Verdict:
    effects, numbers, control, undecided = {}, {}, [], {}
    for model in names(table):
        first, n = settled(table, model), n_layers(table, model)
        low = of(table, model, AT, min(1, n - 1), "right")
        deep = mean_over_layers(table, model, AT, range(first, n))
        effects[model] = effect([a - b for a, b in zip(deep, low, strict=True)])
        numbers[model] = f"settled at layer {first} of {n}: from there on right in {share(deep)} of pairs, in layer 1 "
        numbers[model] += f"in {share(low)}, between {told(effects[model])}"
        control.append(f"{model} {share(mean_over_layers(table, model, OTHER, range(first, n)))}")
        if first <= 1:
            undecided[model] = f"In {model} the sense is settled at layer {first}: nothing lies below."
    return Verdict(
        claim="Layers above the one that settles a word's sense query that concept, the lowest do not",
        source=ESSAY[1],
        measured="the best head of each layer, chosen on the other half of the words; settled: the first layer whose "
        f"input tells the senses {SETTLED:.0%} as well (above chance, nearest centroid) as the best layer's",
        criterion=f"right more often than in layer 1 by {DEEPER:g} of the pairs",
        numbers=numbers,
        control="from there on with another noun in the word's place: " + "; ".join(control),
        beforehand=True,
        **judge(effects, DEEPER, unit="of pairs of openings", undecided=undecided),
    )


def of(table: pd.DataFrame, model: str, place: str, layer: int, quantity: str) -> list[Any]:
    own: Any = table[(table["model"] == model) & (table["place"] == place) & (table["layer"] == layer)]
    return own[quantity].tolist()


def n_layers(table: pd.DataFrame, model: str) -> int:
    own: Any = table[(table["model"] == model) & (table["place"] == AT)]
    return 1 + int(own["layer"].max())


def mean_over_layers(table: pd.DataFrame, model: str, place: str, layers: Sequence[int]) -> list[float]:
    """By word, the mean over layers of how often their best head is right."""
    rows = [of(table, model, place, layer, "right") for layer in layers]
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def settled(table: pd.DataFrame, model: str) -> int:
    """The first layer whose input tells the senses nearly as well as the best layer's."""
    told_apart = [effect(of(table, model, STREAM, layer, "right")).value for layer in range(n_layers(table, model))]
    needed = 0.5 + SETTLED * (max(told_apart) - 0.5)
    return next(layer for layer, each in enumerate(told_apart) if each >= needed)


def share(values: Sequence[float]) -> str:
    found = effect(values)
    return f"{found.value:.3f} ± {found.error or 0.0:.3f}"


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: the sense in the stream, and what the layer's queries ask."""
    models = names(table)
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.1), layout="constrained", squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        layers = range(n_layers(table, model))
        for place, colour, style in (
            (STREAM, "#8d99ae", ":"), (AT, "#d1495b", "-"), (OTHER, "#e09f3e", "-"), (BEFORE, "#2a6f97", "-"),
        ):  # fmt: skip
            line(ax, [of(table, model, place, layer, "right") for layer in layers], place, colour, style)
        ax.axvline(settled(table, model), color="#8d99ae", lw=0.8)
        best = effect(of(table, model, AT, BEST, "right")).value
        ax.set(title=f"{model}: its {HEADS} best heads {best:.2f}", xlabel="layer (grey line: sense settled)",
               ylim=(0.4, 1.02), xticks=range(0, len(layers), 5))  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("how often the sense is told right")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


def line(ax: Axes, values: list[list[float]], label: str, colour: str, style: str) -> None:
    """Means over words by layer, with a band of two standard errors."""
    found = [effect(each) for each in values]
    mean, spread = [each.value for each in found], [2 * (each.error or 0.0) for each in found]
    ax.plot(mean, style, color=colour, label=label)
    ax.fill_between(range(len(mean)), [m - s for m, s in zip(mean, spread, strict=True)],
                    [m + s for m, s in zip(mean, spread, strict=True)], color=colour, alpha=0.15, lw=0)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
