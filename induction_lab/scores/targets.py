"""Which (query, key) positions each attention score reads, from the tokens alone.

With `x` a prompt and position 0 its BOS, the earlier occurrences of a query `t` are the `s` with `1 <= s < t` and
`x_s = x_t`. Each score is the attention from `t` to a set of keys, summed over the keys, averaged over the queries that
have any, then over prompts:

    prefix_matching   s + 1 for every s      the tokens that followed         (Olsson et al. 2022)
    induction_stripe  s + 1, the latest s    the token that followed last     (Nanda's mosaic)
    duplicate_token   every s                the token itself, earlier        (Wang et al. 2022)
    anti_induction    s - 1 for every s > 1  the tokens that came before: a control
    previous_token    t - 1, for t >= 2      t = 1 could only look at BOS
    current_token     t, for t >= 1
    resting           0, for t >= 1 without an s: where a head rests that finds nothing to copy (Elhage et al. 2021)

An ideal head of the kind scores 1. Where a token follows itself, `s + 1` may be the query itself. Pairs number O(n) on
repeated tokens and, on text, the sum of the squares of the tokens' counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.data.occurrences import occurrences
from induction_lab.data.prompts import Prompts

AttentionScore = Literal[
    "prefix_matching",
    "induction_stripe",
    "previous_token",
    "duplicate_token",
    "resting",
    "current_token",
    "anti_induction",
]
ATTENTION_SCORES: tuple[AttentionScore, ...] = get_args(AttentionScore)


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

    def score(self, name: str, probabilities: Float[Tensor, "pair head"]) -> Float[Tensor, "prompt head"]:
        """Each prompt's score from the probabilities at the pairs; 0 where the prompt has no such query."""
        reads = self.reads[name]
        weighted = probabilities[reads.pair] * reads.weight[:, None]
        total = probabilities.new_zeros(len(reads.defined), probabilities.shape[1])
        return total.index_add_(0, reads.prompt, weighted)

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        moved = {
            name: Reads(*(getattr(r, field).to(device) for field in Reads.__dataclass_fields__))
            for name, r in self.reads.items()
        }
        return Targets(self.prompt.to(device), self.query.to(device), self.key.to(device), moved)


def attention_targets(
    tokens: Int[Tensor, "prompt pos"],
    scores: Sequence[str] = ATTENTION_SCORES,
    *,
    lengths: Int[Tensor, " prompt"] | None = None,
) -> Targets:
    """The pairs that `scores` read on these tokens.

    Args:
        tokens: Prompts; position 0 is BOS.
        scores: Names from `ATTENTION_SCORES`.
        lengths: Real tokens of each prompt; what follows is padding and never read.

    Raises:
        ValueError: If a score is unknown.
    """
    unknown = [name for name in scores if name not in ATTENTION_SCORES]
    if unknown:
        raise ValueError(f"Unknown attention scores {unknown}; there are {', '.join(ATTENTION_SCORES)}.")
    n_prompts, n_pos = tokens.shape
    read = {name: pairs for name, pairs in _pairs(Prompts(tokens, lengths)).items() if name in scores}

    flat = {name: (p * n_pos + q) * n_pos + k for name, (p, q, k) in read.items()}
    every, position = torch.unique(torch.cat([flat[name] for name in scores]), return_inverse=True)
    where = dict(zip(scores, position.split([len(flat[name]) for name in scores]), strict=True))
    reads = {name: _reads(where[name], *read[name], n_prompts=n_prompts, n_pos=n_pos) for name in scores}
    return Targets(every // (n_pos * n_pos), every // n_pos % n_pos, every % n_pos, reads)


def _pairs(prompts: Prompts) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    prompt, query, earlier, latest = occurrences(prompts)
    before = earlier >= 2
    real = prompts.real
    real[:, 0] = False
    at_prompt, at = real.nonzero(as_tuple=True)
    real[prompt, query] = False  # left: queries without an earlier occurrence
    fresh_prompt, fresh = real.nonzero(as_tuple=True)
    second = at >= 2
    return {
        "prefix_matching": (prompt, query, earlier + 1),
        "induction_stripe": (prompt[latest], query[latest], earlier[latest] + 1),
        "previous_token": (at_prompt[second], at[second], at[second] - 1),
        "duplicate_token": (prompt, query, earlier),
        "resting": (fresh_prompt, fresh, torch.zeros_like(fresh)),
        "current_token": (at_prompt, at, at),
        "anti_induction": (prompt[before], query[before], earlier[before] - 1),
    }


def _reads(pair: Tensor, prompt: Tensor, query: Tensor, key: Tensor, *, n_prompts: int, n_pos: int) -> Reads:
    asked = torch.zeros(n_prompts, n_pos, dtype=torch.bool)
    asked[prompt, query] = True
    n_queries = asked.sum(1)
    weight = 1 / n_queries.clamp(min=1)[prompt].float()
    uniform = torch.zeros(n_prompts).index_add_(0, prompt, weight / (query + 1))
    return Reads(pair, prompt, weight, n_queries > 0, uniform)
