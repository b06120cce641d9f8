"""Sentences that differ in one word, what they are asked, and heads that put out what they do in the other sentence.

A pair (pairs.toml) has two nouns and a gap; with the first word in the gap it speaks of the
first noun, with the second of the second. The right noun's lead is the logit of the right noun less the wrong one's at
the end of the question. A model that did not read the word would lead the same noun with either word: right in exactly
half of the cases, and with leads that cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.passages import Passages, first_token, n_tokens, read_passages
from induction_lab import Head, HookedModel, Prompts, attribution_patching
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.interventions.edits import OtherOutputs
from induction_lab.interventions.outputs import Outputs
from induction_lab.runtime.progress import progress_bar

PAIRS = Path(__file__).with_name("pairs.toml")

WITH_IT = ("it", "adjective")  # kinds whose pronoun is "it"; in the others the gap itself says who is meant
PLACES = ("it", "word", "end")
WITHOUT = {"question": "lexical", "named": "alone"}  # what is asked, and the same with neither noun before it
FORMS = (*WITHOUT, *WITHOUT.values())
PERSON = "Tom"


class Pair(NamedTuple):
    """A sentence with a gap, its two nouns, and the word for the gap that speaks of each."""

    kind: str
    sentence: str
    nouns: tuple[str, str]
    words: tuple[str, str]


class Asked(NamedTuple):
    """Pairs as prompts: all with their first word, then all with their second."""

    pairs: list[Pair]
    passages: Passages
    answers: Int[Tensor, "pair 2"]

    def other(self, values: Tensor) -> Tensor:
        """For each prompt what belongs to the pair's other prompt."""
        return values.roll(len(self.pairs), 0)

    def signed(self, values: Float[Tensor, "prompt ..."]) -> Float[Tensor, "pair 2 ..."]:
        """What favours the first noun over the second, turned to what favours the right one."""
        return torch.stack([values[: len(self.pairs)], -values[len(self.pairs) :]], 1)

    def lead(self, model: HookedModel, hidden: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, "pair 2"]:
        """By how many logits the right noun leads the wrong one, with either word."""
        with torch.inference_mode():
            logits = model.unembed(self.passages.at_end(hidden)).float().cpu()
        first, second = logits.gather(1, self.answers.repeat(2, 1)).T
        return self.signed(first - second)


def read_pairs(model: HookedModel, data: dict[str, Any], most: int | None = None) -> tuple[list[Pair], int]:
    """The pairs whose nouns are single tokens and whose words are as long as each other; how many others there are."""
    rows = [(kind, row) for kind in data for row in data[kind]["pairs"][:most]]
    every = [Pair(kind, row[0], (row[1], row[2]), (row[3], row[4])) for kind, row in rows]
    fits = [
        pair
        for pair in every
        if all(n_tokens(model, noun) == 1 for noun in pair.nouns)
        and first_token(model, pair.nouns[0]) != first_token(model, pair.nouns[1])
        and n_tokens(model, pair.words[0]) == n_tokens(model, pair.words[1])
    ]
    return fits, len(every) - len(fits)


def ask(model: HookedModel, data: dict[str, Any], pairs: Sequence[Pair], form: str = "question") -> Asked:
    """Each pair's two sentences and the question after them.

    Args:
        model: With a tokenizer.
        data: The file's questions by kind.
        pairs: The marks `first`, `second` and `word` are read in each, `it` where all pairs have it.
        form: `question` does not name the word of the gap, `named` does; `lexical` and `alone` are these two with
            neither noun before the question. `person`: the first with a person's name for "it".
    """
    with_it = all(pair.kind in WITH_IT for pair in pairs)
    texts = [_text(data, pair, word, form, with_it=with_it) for word in (0, 1) for pair in pairs]
    answers = torch.tensor([[first_token(model, noun) for noun in pair.nouns] for pair in pairs])
    return Asked(list(pairs), read_passages(model, texts), answers)


def _text(data: dict[str, Any], pair: Pair, word: int, form: str, *, with_it: bool) -> str:
    before, after = pair.sentence.split("{}")
    clause = (before + pair.words[word]).rpartition(" it ")[2] if pair.kind in WITH_IT else after.strip()
    asked = data[pair.kind]["named" if form in ("named", "alone") else "question"].format(clause=clause)
    if form == "alone":
        return asked
    if form == "lexical":
        return f"{data[pair.kind]['lexical'].format(word=pair.words[word], clause=clause)} {asked}"
    for mark, noun in zip(("first", "second"), pair.nouns, strict=True):
        before = before.replace(f" {noun} ", f" <{mark}|{noun}> ", 1)
    if with_it:
        before = f" <it|{PERSON if form == 'person' else 'it'}> ".join(before.rsplit(" it ", 1))
    return f"{before}<word|{pair.words[word]}>{after}. {asked}"


class Exchange:
    """Pairs whose heads can put out, at every position, what they do in the pair's other sentence.

    Up to the word both sentences put out the same, so that it is the word's effect alone which is exchanged. With all
    heads exchanged the leads are each other's, because the last token is the same: the effect turns into its negative.
    """

    def __init__(self, model: HookedModel, asked: Asked) -> None:
        """Run the pairs once."""
        self.model, self.asked = model, asked
        self.streams = residual_streams(model, asked.passages.tokens)
        self.instead = OtherOutputs(
            Outputs({layer: asked.other(seen.z) for layer, seen in self.streams.attention.items()})
        )
        self.lead = asked.lead(model, self.streams.normalised)

    def without(self, heads: Sequence[Head]) -> Float[Tensor, "pair 2"]:
        """The right noun's lead with these heads exchanged."""
        start = min(head.layer for head in heads)
        hidden = self.streams.run(start, lambda attention: self.instead.edit(attention, [heads]))
        return self.asked.lead(self.model, hidden)


def find_heads(
    model: HookedModel, asked: Asked, n_heads: int, *, candidates: int = 24, progress: bool = False
) -> list[Head]:
    """The heads whose exchange costs the right noun's lead most: of those that gradients point to, by exact runs."""
    passages, rows = asked.passages, asked.passages.tokens.tolist()
    which = {tuple(row): number for number, row in enumerate(rows)}

    def lead(logits: Tensor, tokens: Tensor) -> Tensor:
        number = which[tuple(tokens.tolist())]
        word, pair = divmod(number, len(asked.pairs))
        first, second = logits[int(passages.last[number]), asked.answers[pair].to(logits.device)]
        return second - first if word else first - second

    other = Prompts(asked.other(passages.tokens), kind="passages")
    guessed = attribution_patching(model, passages.prompts, method="resample", reference=other, metric=lead)
    rising: Any = guessed.table.sort_values("effect")[["layer", "head"]]
    costs, exchange = {}, Exchange(model, asked)
    with progress_bar(min(candidates, len(rising)), "exchanging heads", shown=progress) as tick:
        for layer, head in rising.head(candidates).itertuples(index=False):
            one = Head(int(layer), int(head))
            costs[one] = float((exchange.lead - exchange.without([one])).mean())
            tick(1)
    return sorted(costs, key=lambda head: -costs[head])[:n_heads]


def differences(asked: Asked, streams: ResidualStreams) -> Float[Tensor, "layer pair pos"]:
    """How far the streams of a pair's two sentences lie apart, of their size."""
    n = len(asked.pairs)
    return torch.stack([((s[:n] - s[n:]).norm(dim=-1) / s[:n].norm(dim=-1)).float().cpu() for s in streams.before])


def preference(asked: Asked, streams: ResidualStreams) -> dict[str, Float[Tensor, "pair layer head"]]:
    """Attention to the right noun less that to the wrong one: from "it", from the word, from the question's end."""
    passages, prompt, found = asked.passages, torch.arange(len(asked.passages.tokens)), {}
    for place in PLACES:
        query = passages.last if place == "end" else passages.marks[place][:, 1]
        layers = []
        for _, attention in sorted(streams.attention.items()):
            to = [attention.probabilities(prompt, query, passages.marks[noun][:, 1]) for noun in ("first", "second")]
            layers.append(asked.signed((to[0] - to[1]).float().cpu()).mean(1))
        found[place] = torch.stack(layers, 1)
    return found


def attention_to_word(asked: Asked, streams: ResidualStreams) -> Float[Tensor, "pair layer head"]:
    """Attention from the question's end to the word in the sentence, mean of the pair's two."""
    at = torch.arange(len(asked.passages.tokens)), asked.passages.last, asked.passages.marks["word"][:, 1]
    layers = [attention.probabilities(*at).float().cpu() for _, attention in sorted(streams.attention.items())]
    return torch.stack(layers, 1).unflatten(0, (2, -1)).mean(0)
