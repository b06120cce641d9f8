"""Context pulls a word's vector in different directions: is it towards the words that fit, and who pulls there?

    python -m experiments towards

The openings of senses.toml end in a word of two senses; six other words go with either sense (topics.toml), each read
after the same neutral words. By layer: is the word's vector nearer, by cosine, to vectors of words that fit the opening
than to vectors of the others, what each of them has in common with all words taken off? To the same layer's vectors of
those words, and to their directions in the unembedding. The same at the token before the word, and with another noun in
the word's place. Then how much of the way between the two senses this is, and which heads push along it. Writes to
figures/: towards.csv, towards.json (verdicts), towards.png. 2 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from experiments.essay.geometry.asked import AT, BEFORE, BEST, OTHER, SHUFFLED, line, of, share
from experiments.essay.geometry.experiment import head_outputs
from experiments.essay.geometry.senses import DATA, Read, Word, centred, load_words, read_words
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
from experiments.essay.passages import first_token
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel
from induction_lab.models.frozen_norms import unembedding_readers

SHUFFLES = 20
UNEMBEDDED, WAY, OTHER_WAY, ITSELF, HEADS, PUSHED, MLPS = (
    "at the word, to the unembedding", "the way between senses", "the way, another word's topics",
    "the way, from other openings", "heads that push to the right side", "pushed by heads", "pushed by MLPs",
)  # fmt: skip
# The criteria, written before anything was run.
OFTEN = 0.75  # of pairs of openings: half of the way from chance to always
OWN = 0.5  # of the pull on the word: what another noun may feel in its place if it is the word that is pulled
AS_WELL = 0.5  # of what other openings of the sense say about the way between senses: what the fitting words must say
PUSHING = 0.75  # of the heads: half of the way from chance to every head
ESSAY = "essay §3"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "towards",
        lambda model, most: measured(model, load_words(DATA)[:most]),
        lambda table: [pulled(table), of_its_own(table), that_way(table), every_head(table)],
        draw,
        least=Least("words", 4, "two in each half"),
    )


def measured(model: HookedModel, words: list[Word]) -> list[dict[str, Any]]:
    """A row for each word, layer and place: gains in cosine, and how often right; ways and pushes at `BEST` alone."""
    labels, keys = words[0].labels, fitting_words(words)
    kinds = keys[0].labels
    read, topics = read_words(model, words), centred(read_words(model, keys).stream, (1, 2))
    others = read_words(model, exchanged(words)).stream
    x = centred(read.stream, (1, 2))
    lean = {
        AT: leans(cosines(x, topics), kinds),
        OTHER: leans(cosines(centred(others, (1, 2)), topics), kinds),
        BEFORE: leans(cosines(centred(read.before, (1, 2)), topics), kinds),
        UNEMBEDDED: leans(cosines(x, unembedded(model, keys)), kinds),
    }  # [layer, word, sentence]
    rows: list[dict[str, Any]] = []

    def add(place: str, layer: int, gain: Tensor, often: Tensor | None = None) -> None:
        often = torch.full_like(gain, torch.nan) if often is None else often
        for word, a, b in zip(words, gain.tolist(), often.tolist(), strict=True):
            rows.append({"model": model.name, "place": place, "layer": layer, "word": word.word, "gain": a, "right": b})

    def best(lean: Tensor, gain: Tensor) -> Tensor:
        chosen = best_elsewhere(gain, 1)[:, 0]
        return lean[chosen, torch.arange(len(words))]

    for place, each in lean.items():
        own = best(each, gains(lean[UNEMBEDDED if place == UNEMBEDDED else AT], labels))
        add(place, BEST, gains(own, labels), right(own, labels))
        for layer, at in enumerate(each):
            add(place, layer, gains(at, labels), right(at, labels))
    for seed in range(SHUFFLES):
        y = evenly_shuffled(words, seed)
        chance = torch.stack([gains(lean[AT][:, word], row) for word, row in enumerate(y)], 1)
        pairs = list(zip(best(lean[AT], chance), y, strict=True))
        add(SHUFFLED, seed, *(torch.stack([each(*pair) for pair in pairs]) for each in (gains, right)))
    middle = model.n_layers // 2
    toward = topics[middle][:, kinds].mean(1) - topics[middle][:, ~kinds].mean(1)
    for name, values in ways(read.stream[middle], toward, labels).items():
        add(name, BEST, values)
    for name, values in pushes(model, read, toward, middle, labels).items():
        add(name, BEST, values)
    return rows


def cosines(
    x: Float[Tensor, "layer word sentence d_model"], y: Float[Tensor, "*layer word key d_model"]
) -> Float[Tensor, "layer word sentence key"]:
    return normalize(x, dim=-1) @ normalize(y, dim=-1).mT


def unembedded(model: HookedModel, keys: list[Word]) -> Float[Tensor, "word key d_model"]:
    """The unembedding's directions of the words' first tokens, the final norm's gain taken in, less their mean."""
    tokens = [[first_token(model, sentence.split()[-1]) for sentence in word.sentences] for word in keys]
    return centred(unembedding_readers(model)[torch.tensor(tokens)].float().cpu(), (0, 1))


def ways(
    stream: Float[Tensor, "word sentence d_model"],
    toward: Float[Tensor, "word d_model"],
    labels: Bool[Tensor, " sentence"],
) -> dict[str, Float[Tensor, " word"]]:
    """Cosines of the way from one sense to the other, from half of the openings: every second one.

    With the way from the one sense's words to the other's, with the next word's such way, and between the two halves.
    """
    even = torch.arange(len(labels)) % 2 == 0
    halves = [stream[:, labels & half].mean(1) - stream[:, ~labels & half].mean(1) for half in (even, ~even)]

    def with_(y: Tensor) -> Tensor:
        return torch.stack([torch.cosine_similarity(half, y, dim=-1) for half in halves]).mean(0)

    return {
        WAY: with_(toward),
        OTHER_WAY: with_(toward.roll(-1, 0)),
        ITSELF: torch.cosine_similarity(*halves, dim=-1),
    }


def pushes(
    model: HookedModel, read: Read, toward: Float[Tensor, "word d_model"], top: int, labels: Bool[Tensor, " sentence"]
) -> dict[str, Float[Tensor, " word"]]:
    """What is written below layer `top`, along the way to the words that fit: heads to the right side, and how far."""
    found: dict[str, list[Tensor]] = {HEADS: [], PUSHED: [], MLPS: []}
    for i, way in enumerate(normalize(toward, dim=-1)):
        heads = head_outputs(model, read.z[:top, i])
        rest = read.stream[top, i] - read.stream[0, i] - heads.sum(0)  # MLPs and biases
        along = gains(heads @ way, labels)
        found[HEADS].append((along > 0).float().mean())
        found[PUSHED].append(along.sum())
        found[MLPS].append(gains(rest @ way, labels))
    return {name: torch.stack(each) for name, each in found.items()}


def pulled(table: pd.DataFrame) -> Verdict:
    often = {model: of(table, model, AT, BEST, "right") for model in names(table)}
    numbers, control = {}, []
    for model, values in often.items():
        numbers[model] = f"{share(values)} of pairs, {shown(of(table, model, AT, BEST, 'gain'))} in cosine; to the "
        numbers[model] += f"unembedding {share(of(table, model, UNEMBEDDED, BEST, 'right'))} of pairs, "
        numbers[model] += f"{shown(of(table, model, UNEMBEDDED, BEST, 'gain'))}"
        tries = [effect(of(table, model, SHUFFLED, seed, "right")).value for seed in range(SHUFFLES)]
        control.append(f"{model} {sum(tries) / len(tries):.3f}, at most {max(tries):.3f}")
    return Verdict(
        claim="Context pulls a word's vector towards the words that fit: apple to fruit or to phones",
        source=ESSAY,
        measured=f"{table['word'].nunique()} words of two senses, six openings each, and six words of either sense, "
        "means over all words taken off; each word in the layer that is best for the other half of the words: how "
        "often, of two openings of different senses, each is nearer by cosine to the words of its sense",
        criterion=f"in more than {OFTEN:.0%} of the pairs (chance 50 %)",
        numbers=numbers,
        control=f"labels that know nothing of the sense, {SHUFFLES} times: " + "; ".join(control),
        beforehand=True,
        **judge({model: effect(each) for model, each in often.items()}, OFTEN, unit="of pairs of openings"),
    )


def of_its_own(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        own, other, before = (of(table, model, place, BEST, "gain") for place in (AT, OTHER, BEFORE))
        effects[model] = ratio(other, own)
        pairs = [share(of(table, model, place, BEST, "right")) for place in (OTHER, BEFORE)]
        numbers[model] = f"another noun {told(effects[model])} of it: {shown(other)} of {shown(own)} in cosine; right "
        numbers[model] += f"in {pairs[0]} of pairs"
        control.append(f"{model} {told(ratio(before, own))}, right in {pairs[1]} of pairs")
    return Verdict(
        claim="And it is that word that is pulled: another noun in the same place is pulled less than half as far",
        source=ESSAY,
        measured="in the same layers the next word of the list in the word's place, over the word's own, in cosine",
        criterion=f"at most {OWN:.0%} of it",
        numbers=numbers,
        control="the token before, with the same text: " + "; ".join(control),
        beforehand=True,
        **judge(effects, OWN, at_most=True, unit="of the pull on the word"),
    )


def that_way(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        way, other, own = (of(table, model, place, BEST, "gain") for place in (WAY, OTHER_WAY, ITSELF))
        effects[model] = ratio(way, own)
        numbers[model] = f"cosine {shown(way)} with the way between the topics, {shown(own)} with that from the other "
        numbers[model] += f"openings: {told(effects[model])} of it"
        control.append(f"{model} {shown(other)}")
    return Verdict(
        claim="The way from one sense to the other is the way from the one sense's words to the other's",
        source=ESSAY,
        measured="In the middle layer: the difference between the two senses' mean vectors, from half of the openings, "
        "against the difference between the mean vectors of the words that go with either; over its cosine with the "
        "difference that the other half of the openings gives",
        criterion=f"at least {AS_WELL:.0%} as near as what other openings give",
        numbers=numbers,
        control="cosine with the way between another word's topics: " + "; ".join(control),
        beforehand=True,
        **judge(effects, AS_WELL, unit="of what other openings give"),
    )


def every_head(table: pd.DataFrame) -> Verdict:
    effects, numbers, parts = {}, {}, []
    for model in names(table):
        heads, pushed, rest = (of(table, model, place, BEST, "gain") for place in (HEADS, PUSHED, MLPS))
        effects[model] = effect(heads)
        numbers[model] = f"{share(heads)} of the heads below the middle layer"
        whole = [a + b for a, b in zip(pushed, rest, strict=True)]
        parts.append(f"{model} {told(ratio(pushed, whole))}")
    return Verdict(
        claim="Every head takes part: most heads push a word towards the words that fit",
        source=ESSAY,
        measured="What each head below the middle layer adds at the word, along the way between the topics there: the "
        "share of heads that add more of it after openings of the one sense, mean over words",
        criterion=f"more than {PUSHING:.0%} of the heads (chance 50 %)",
        numbers=numbers,
        control="the heads' share of the whole push, MLPs being the rest: " + "; ".join(parts),
        beforehand=True,
        **judge(effects, PUSHING, unit="of the heads"),
    )


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: how often a word is nearer to what fits."""
    models = names(table)
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.1), layout="constrained", squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        own: Any = table[(table["model"] == model) & (table["place"] == AT)]
        layers = range(1 + int(own["layer"].max()))
        for place, colour in (
            (AT, "#d1495b"), (UNEMBEDDED, "#5f7a4f"), (OTHER, "#e09f3e"), (BEFORE, "#2a6f97"),
        ):  # fmt: skip
            line(ax, [of(table, model, place, layer, "right") for layer in layers], place, colour, "-")
        ax.set(title=model, xlabel="layer (0: embedding)", ylim=(0.4, 1.02), xticks=range(0, len(layers), 5))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("how often nearer to the words that fit")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
