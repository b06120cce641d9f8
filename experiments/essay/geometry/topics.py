"""Words that go with either sense of a word (topics.toml), and how far something leans to those that fit an opening.

A lean is what an opening has for the words of the first sense less what it has for those of the second, so the sizes of
all words drop out. Of two openings of different senses the right one leans more: how often, and by how much. What the
word itself prefers, whatever the context, is in both and drops out too.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from experiments.essay.geometry.senses import NEUTRAL, Word
from experiments.essay.passages import read_data

TOPICS = Path(__file__).with_name("topics.toml")


def fitting_words(words: list[Word], path: Path = TOPICS) -> list[Word]:
    """For each word the six words of either sense, each after `NEUTRAL`: read like openings, first sense first.

    Raises:
        ValueError: If a word has none, or not as many of one sense as of the other.
    """
    topics = read_data(path)["topics"]
    found = []
    for word in words:
        senses = topics.get(word.word, [])
        if len(senses) != 2 or len(senses[0]) != len(senses[1]) or not senses[0]:
            raise ValueError(f"{path.name} needs as many words of either sense for {word.word!r}, got {senses}.")
        n = len(senses[0])
        sentences = [f"{NEUTRAL} {one}" for sense in senses for one in sense]
        found.append(Word(word.word, word.senses, sentences, torch.arange(2 * n) < n))
    return found


def exchanged(words: list[Word]) -> list[Word]:
    """The same openings, each with the next word of the list in its word's place: a noun that has no such senses."""
    others = [*words[1:], words[0]]
    return [
        word._replace(sentences=[f"{one.removesuffix(word.word)}{other.word}" for one in word.sentences])
        for word, other in zip(words, others, strict=True)
    ]


def leans(values: Float[Tensor, "*batch sentence key"], keys: Bool[Tensor, " key"]) -> Float[Tensor, "*batch sentence"]:
    """The mean over the first sense's words less that over the second's."""
    return values[..., keys].mean(-1) - values[..., ~keys].mean(-1)


def gains(lean: Float[Tensor, "*batch sentence"], labels: Bool[Tensor, " sentence"]) -> Float[Tensor, "*batch"]:
    """How much more words have that fit the opening than words that do not, over both senses."""
    return (lean[..., labels].mean(-1) - lean[..., ~labels].mean(-1)) / 2


def right(lean: Float[Tensor, "*batch sentence"], labels: Bool[Tensor, " sentence"]) -> Float[Tensor, "*batch"]:
    """Of pairs of openings of different senses, how often the first sense's leans more to its words; a tie: half."""
    apart = lean[..., labels][..., :, None] - lean[..., ~labels][..., None, :]
    tie = 1e-5 * lean.abs().amax(-1)[..., None, None]  # rounding
    return ((apart > tie).double() + (apart.abs() <= tie).double() / 2).mean((-2, -1)).to(lean.dtype)


def evenly_shuffled(words: list[Word], seed: int) -> Bool[Tensor, "word sentence"]:
    """Labels that know nothing: half of each sense's openings on either side, others for every word."""
    generator = torch.Generator().manual_seed(seed)
    found = torch.zeros(len(words), len(words[0].labels), dtype=torch.bool)
    for row, word in zip(found, words, strict=True):
        for sense in (word.labels, ~word.labels):
            places = sense.nonzero()[:, 0]
            row[places[torch.randperm(len(places), generator=generator)[: len(places) // 2]]] = True
    return found


def best_elsewhere(values: Float[Tensor, "part word"], n: int) -> Int[Tensor, "word n"]:
    """For each word the `n` parts (heads, layers) that are best, by mean over standard error, over other words.

    Every second word belongs to one half; the parts for one half are chosen on the other.
    """
    half = torch.arange(values.shape[1]) % 2 == 0
    n = min(n, len(values))
    found = torch.zeros(values.shape[1], n, dtype=torch.long)
    for own in (half, ~half):
        others = values[:, ~own]
        spread = others.std(1) / others.shape[1] ** 0.5
        found[own] = (others.mean(1) / spread.clamp(min=1e-9)).topk(n).indices
    return found
