"""Sentences in which every noun of one list stands with every noun of another, and a pronoun means one of the two."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from experiments.essay.context_fusion.minimal_pairs import Pair
from experiments.essay.passages import Passages, n_tokens, read_data, read_passages

DATA = Path(__file__).with_name("pronouns.toml")
KINDS = ("gender", "thing")
ORDERS = {"gender": (0, 1), "thing": (0,)}  # whose noun stands first


class Sentences(NamedTuple):
    """A balanced set.

    Attributes:
        passages: Marked in each: `one` and `two` (the noun of either list), `pronoun`, and `word` where it is another.
        nouns: Which noun of either list stands in it.
        meant: Of which list the noun is that the pronoun means.
        template: Of which template it is.
        cell: Sentences with the same number differ in their nouns alone; each cell has every pair of nouns once.
    """

    passages: Passages
    nouns: Int[Tensor, "prompt 2"]
    meant: Int[Tensor, " prompt"]
    template: Int[Tensor, " prompt"]
    cell: Int[Tensor, " prompt"]

    def by_referent(self, one: Tensor, two: Tensor) -> tuple[Tensor, Tensor]:
        """What belongs to the noun that is meant, and what to the other one."""
        first = (self.meant == 0).reshape(-1, *[1] * (one.ndim - 1))
        return torch.where(first, one, two), torch.where(first, two, one)


def sentences(
    reader: Any, kind: str, data: dict[str, Any] | None = None, *, most: int | None = None, person: bool = False
) -> Sentences:
    """Every combination of a kind.

    Args:
        reader: A model with a tokenizer (`HookedModel`), or what has a tokenizer and a BOS token likewise.
        kind: One of `KINDS`.
        data: Other sentences than those of pronouns.toml.
        most: Nouns of either list, for a quick look.
        person: A name in the pronoun's place, which means neither noun.

    Raises:
        ValueError: If a noun is several tokens in this vocabulary: what is read at its token is then not the noun.
    """
    own = (data or read_data(DATA))[kind]
    if person and isinstance(own["person"], str):
        own = own | {"templates": [text.replace("|it>", f"|{own['person']}>") for text in own["templates"]]}
    elif person:
        own = own | {"words": own["person"]}
    nouns = [row[:most] for row in own["nouns"]]
    long = [noun for row in nouns for noun in row if n_tokens(reader, noun) != 1]
    if long:
        raise ValueError(f"{reader.name} reads {', '.join(long)} as several tokens: another noun is needed.")
    texts, rows = [], []
    cells = itertools.product(enumerate(own["templates"]), ORDERS[kind], enumerate(own["words"]))
    number = itertools.count()
    for (template, text), order, (meant, words) in cells:
        for word in words:
            cell = next(number)
            for pair in itertools.product(*(range(len(row)) for row in nouns)):
                marked = [f"<{mark}|{row[i]}>" for mark, row, i in zip(("one", "two"), nouns, pair, strict=True)]
                a, b = marked[::-1] if order else marked
                texts.append(text.format(a=a, b=b, word=word))
                rows.append((*pair, meant, template, cell))
    table = torch.tensor(rows)
    return Sentences(read_passages(reader, texts), table[:, :2], *table[:, 2:].T)


def pairs_to_ask(data: dict[str, Any] | None = None) -> list[Pair]:
    """The sentences whose pronoun decides, as pairs that can be asked who is meant: each noun once in each template."""
    own, pairs = (data or read_data(DATA))["gender"], []
    (he,), (she,) = own["words"]
    males, females = own["nouns"]
    for number, text in enumerate(own["templates"]):
        for i, male in enumerate(males):
            female = females[(i + number) % len(females)]
            nouns, words = ((male, female), (he, she)) if (i + number) % 2 else ((female, male), (she, he))
            sentence = text.replace("<pronoun|{word}>", "{word}").format(a=nouns[0], b=nouns[1], word="{}")
            pairs.append(Pair("pronoun", sentence, nouns, words))
    return pairs
