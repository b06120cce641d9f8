"""The scores that are attention to keys known from the tokens.

With `x` a prompt and position 0 its BOS, the earlier occurrences of a query `t` are the `s` with `1 <= s < t` and
`x_s = x_t`; of prompts without BOS position 0 is a token like the others. Each score is the attention from `t` to a set
of keys, summed over the keys, averaged over the queries that have any, then over prompts:

    prefix_matching   s + 1 for every s      the tokens that followed         (Olsson et al. 2022)
    induction_stripe  s + 1, the latest s    the token that followed last     (Nanda's mosaic)
    previous_token    t - 1, for t >= 2      t = 1 could only look at BOS
    duplicate_token   every s                the token itself, earlier        (Wang et al. 2022)
    resting           0, for t >= 1 without an s: where a head rests that finds nothing to copy (Elhage et al. 2021)
    current_token     t, for t >= 1
    anti_induction    s - 1 for every s > 1  the tokens that came before: a control

An ideal head of the kind scores 1. Where a token follows itself, `s + 1` may be the query itself. All scores together
read each pair once (`Targets`). Pairs number O(n) on repeated tokens and, on text, the sum of the squares of the
tokens' counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.data.occurrences import Pairs, Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.results.heads import LOOKS
from induction_lab.scores.score import ELHAGE, OLSSON, WANG, AttentionScore


class PrefixMatching(AttentionScore):
    """Attention to the tokens that followed every earlier occurrence."""

    name, source, finds_repeats = "prefix_matching", OLSSON, True
    meaning = (
        "Attention from a token that occurred before to the tokens that followed it then, summed over them. What "
        f"people mean by an induction head is a head that scores above {LOOKS}."
    )

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """`s + 1` for every `s`."""
        prompt, query, earlier = seen.matches
        return prompt, query, earlier + 1


class InductionStripe(AttentionScore):
    """Attention to the token that followed the latest earlier occurrence."""

    name, source, finds_repeats = "induction_stripe", "Nanda, induction mosaic", True
    meaning = (
        "The same for the latest earlier occurrence alone. Equal to prefix matching where nothing occurs a third time."
    )

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """`s + 1` for the latest `s`."""
        prompt, query, earlier = seen.latest
        return prompt, query, earlier + 1


class PreviousToken(AttentionScore):
    """Attention to the token before."""

    name, source = "previous_token", ELHAGE
    meaning = "Attention to the token before, where that is not BOS."

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """`t - 1`, for `t >= 2`; without BOS for `t >= 1`."""
        prompt, query = seen.queries
        second = query >= 1 + seen.prompts.first
        return prompt[second], query[second], query[second] - 1


class DuplicateToken(AttentionScore):
    """Attention to every earlier occurrence."""

    name, source, finds_repeats = "duplicate_token", WANG, True
    meaning = "Attention from a token to its own earlier occurrences."

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """Every `s`."""
        return seen.matches


class Resting(AttentionScore):
    """Attention to the first position from tokens that did not occur before."""

    name, source = "resting", ELHAGE
    meaning = (
        "Attention to the first position, which BOS holds where prompts have one, from tokens that did not occur "
        "before: where a head rests that finds nothing to copy."
    )

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """0, for `t >= 1` without an `s`."""
        prompt, query = seen.unseen
        return prompt, query, torch.zeros_like(query)


class CurrentToken(AttentionScore):
    """Attention from a token to itself."""

    name, source = "current_token", "as its name says"
    meaning = "Attention from a token to itself."

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """`t`, for `t >= 1`."""
        prompt, query = seen.queries
        return prompt, query, query


class AntiInduction(AttentionScore):
    """Attention to the token before every earlier occurrence."""

    name, title, source, finds_repeats = "anti_induction", "Anti-induction", "control", True
    meaning = (
        "Attention to the token before each earlier occurrence: the mirror image of prefix matching, a control that "
        "stays near 0 in trained models."
    )

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """`s - 1` for every `s > 1`; without BOS `s > 0`."""
        prompt, query, earlier = seen.matches
        before = earlier > seen.prompts.first
        return prompt[before], query[before], earlier[before] - 1


BY_NAME: dict[str, AttentionScore] = {
    score.name: score
    for score in (
        PrefixMatching(), InductionStripe(), PreviousToken(), DuplicateToken(), Resting(), CurrentToken(),
        AntiInduction(),
    )
}  # fmt: skip
ATTENTION_SCORES = tuple(BY_NAME)


@dataclass(frozen=True)
class Reads:
    """What one score reads: rows of the shared pair list, each weighted by 1 / (queries of its prompt)."""

    pair: Int[Tensor, " read"]
    prompt: Int[Tensor, " read"]
    weight: Float[Tensor, " read"]
    defined: Bool[Tensor, " prompt"]
    uniform: Float[Tensor, " prompt"]


@dataclass(frozen=True)
class Targets:
    """Every distinct (prompt, query, key) that the asked scores read, and which score reads which.

    `defined` of a score is False for a prompt that has no query of that kind; `uniform` is what attention spread evenly
    over all keys up to the query would score.
    """

    prompt: Int[Tensor, " pair"]
    query: Int[Tensor, " pair"]
    key: Int[Tensor, " pair"]
    reads: dict[str, Reads]
    _joined: dict[tuple[str, ...], tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, read: Mapping[str, Pairs], n_prompts: int, n_pos: int) -> Targets:
        """What scores read, by name, of prompts of one length."""
        flat = [(p * n_pos + q) * n_pos + k for p, q, k in read.values()]
        every, position = torch.unique(torch.cat(flat), return_inverse=True)
        where = position.split([len(each) for each in flat])
        reads = {
            name: _reads(pair, *pairs, n_prompts=n_prompts, n_pos=n_pos)
            for (name, pairs), pair in zip(read.items(), where, strict=True)
        }
        return cls(every // (n_pos * n_pos), every // n_pos % n_pos, every % n_pos, reads)

    def score(self, name: str, probabilities: Float[Tensor, "pair head"]) -> Float[Tensor, "prompt head"]:
        """Each prompt's score from the probabilities at the pairs; 0 where the prompt has no such query."""
        return self.scores((name,), probabilities)[0]

    def scores(
        self, names: tuple[str, ...], probabilities: Float[Tensor, "pair head"]
    ) -> Float[Tensor, "score prompt head"]:
        """The same of several scores at once, which a GPU is asked for once."""
        if names not in self._joined:
            reads = [self.reads[name] for name in names]
            row = torch.cat([each.prompt + i * len(each.defined) for i, each in enumerate(reads)])
            self._joined[names] = (
                torch.cat([each.pair for each in reads]),
                row,
                torch.cat([each.weight for each in reads])[:, None],
            )
        pair, row, weight = self._joined[names]
        n_prompts = len(self.reads[names[0]].defined)
        total = probabilities.new_zeros(len(names) * n_prompts, probabilities.shape[1])
        return total.index_add_(0, row, probabilities[pair] * weight).unflatten(0, (len(names), n_prompts))

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        moved = {
            name: Reads(*(getattr(reads, each.name).to(device) for each in fields(reads)))
            for name, reads in self.reads.items()
        }
        return Targets(self.prompt.to(device), self.query.to(device), self.key.to(device), moved)


def attention_targets(
    tokens: Prompts | Int[Tensor, "prompt pos"],
    scores: Sequence[str] = ATTENTION_SCORES,
    *,
    lengths: Int[Tensor, " prompt"] | None = None,
) -> Targets:
    """The pairs that `scores` read on these tokens.

    Args:
        tokens: `Prompts`, or tokens with BOS first.
        scores: Names from `ATTENTION_SCORES`.
        lengths: Real tokens of each prompt; what follows is padding and never read.

    Raises:
        ValueError: If a score is unknown.
    """
    unknown = [name for name in scores if name not in BY_NAME]
    if unknown:
        raise ValueError(f"Unknown attention scores {unknown}; there are {', '.join(ATTENTION_SCORES)}.")
    prompts = tokens if isinstance(tokens, Prompts) else Prompts(tokens, lengths)
    seen = Recurrences(prompts)
    return Targets.of({name: BY_NAME[name].pairs_of(seen) for name in scores}, *prompts.tokens.shape)


def _reads(pair: Tensor, prompt: Tensor, query: Tensor, key: Tensor, *, n_prompts: int, n_pos: int) -> Reads:
    asked = torch.zeros(n_prompts, n_pos, dtype=torch.bool)
    asked[prompt, query] = True
    n_queries = asked.sum(1)
    weight = 1 / n_queries.clamp(min=1)[prompt].float()
    uniform = torch.zeros(n_prompts, dtype=torch.float32).index_add_(0, prompt, weight / (query + 1))
    return Reads(pair, prompt, weight, n_queries > 0, uniform)
