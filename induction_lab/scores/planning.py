"""Plan the scoring of heads: which scores can be had, and what each reads of every batch of prompts. Nothing runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import about_prompts
from induction_lab.runtime.whole_numbers import check_numbers
from induction_lab.scores.attention_scores import Targets
from induction_lab.scores.registry import find_scores
from induction_lab.scores.score import AttentionScore, CausalScore, LayerScore, Score, WeightScore

TOKENS_A_BATCH = 4096
LOGIT_BYTES = 2**26


class Batch(NamedTuple):
    """Prompts that run together: which, what attention scores read of them, and which have a value of each score."""

    rows: slice
    targets: Targets | None
    defined: dict[str, Bool[Tensor, " prompt"]]


@dataclass(frozen=True)
class Reading:
    """Prompts to run, batch by batch, and the scores that read them."""

    prompts: Prompts
    scores: dict[str, Score]
    batches: list[Batch]

    def defined(self, name: str) -> Bool[Tensor, " prompt"]:
        """Which prompts have a value of a score."""
        return torch.cat([batch.defined[name] for batch in self.batches])

    def uniform(self, name: str) -> float:
        """What the score is by chance: where attention spreads evenly, or what the score says itself."""
        targets = [batch.targets for batch in self.batches if batch.targets and name in batch.targets.reads]
        if not targets:
            return self.scores[name].chance
        return float(torch.cat([each.reads[name].uniform for each in targets])[self.defined(name)].mean())


@dataclass(frozen=True)
class ScorePlan:
    """What is to be run; serves any model of the same shape and tokens.

    Attributes:
        scores: Those that can be had, by name.
        left_out: The others, and why.
        main: The prompts that were given, and the scores that read them.
        samples: Prompts that scores have of their own.
        weights: Scores that run nothing.
        causal: Scores that change heads, in runs of their own.
    """

    scores: dict[str, Score]
    left_out: dict[str, str]
    main: Reading
    samples: list[Reading]
    weights: list[WeightScore]
    causal: list[CausalScore]

    @property
    def own_prompts(self) -> dict[str, dict[str, Any]]:
        """On what those scores are measured that do not read the prompts which were given."""
        own = {name: about_prompts(sample.prompts) for sample in self.samples for name in sample.scores}
        elsewhere: list[WeightScore | CausalScore] = [*self.weights, *self.causal]
        return own | {score.name: {"kind": score.measured_on or "its own"} for score in elsewhere}


def plan_scores(
    model: HookedModel,
    prompts: Prompts,
    scores: str | Score | Iterable[str | Score] | None = None,
    *,
    strict: bool = False,
    batch_size: int | None = None,
) -> ScorePlan:
    """Which scores can be had, and what each reads of the prompts.

    Args:
        model: The model.
        prompts: On which.
        scores: As in `score_heads`.
        strict: Refuse what cannot be had, rather than leave it out.
        batch_size: As in `score_heads`.

    Raises:
        ValueError: As in `score_heads`.
    """
    found, left_out = find_scores(scores), {}
    own: dict[str, Prompts] = {}
    for name, score in found.items():
        reason, sample = _missing(model, prompts, score)
        if reason is not None:
            left_out[name] = reason
        elif sample is not None:
            own[name] = sample
    if strict and left_out:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))
    reading = {name: score for name, score in found.items() if not isinstance(score, WeightScore | CausalScore)}
    on_given = {name: score for name, score in reading.items() if name not in left_out and name not in own}
    main = _prepare(model, prompts, on_given, batch_size)
    empty = [name for name in on_given if not main.defined(name).any()]
    if strict and empty:
        raise ValueError(
            f"{empty[0]} reads nothing on these prompts: there is nothing of its kind in them. Use "
            "repeated_tokens(model), longer text, or leave the score out."
        )
    left_out |= dict.fromkeys(empty, "it reads nothing on these prompts")
    kept = {name: score for name, score in found.items() if name not in left_out}
    return ScorePlan(
        kept,
        left_out,
        Reading(prompts, {name: score for name, score in on_given.items() if name in kept}, main.batches),
        [_prepare(model, sample, {name: reading[name]}, None) for name, sample in own.items()],
        [score for score in kept.values() if isinstance(score, WeightScore)],
        [score for score in kept.values() if isinstance(score, CausalScore)],
    )


def _missing(model: HookedModel, prompts: Prompts, score: Score) -> tuple[str | None, Prompts | None]:
    """Why a score cannot be had, or the prompts that it has of its own."""
    reason = score.missing(model, prompts)
    if reason is not None:
        return reason, None
    try:
        return None, score.own_prompts(model, seed=prompts.seed or 0)
    except ValueError as error:
        return str(error), None


def _prepare(model: HookedModel, prompts: Prompts, scores: dict[str, Score], batch_size: int | None) -> Reading:
    """What is read of each batch of prompts, made once."""
    batches, step = [], _batch_size(model, prompts, batch_size)
    for start in range(0, len(prompts), step):
        rows = slice(start, start + step)
        seen = Recurrences(prompts[rows])
        read = {name: score.pairs_of(seen) for name, score in scores.items() if isinstance(score, AttentionScore)}
        targets = Targets.of(read, *seen.prompts.tokens.shape) if read else None
        defined = {} if targets is None else {name: reads.defined for name, reads in targets.reads.items()}
        defined |= {name: score.defined(seen) for name, score in scores.items() if isinstance(score, LayerScore)}
        batches.append(Batch(rows, targets, defined))
    return Reading(prompts, scores, batches)


def _batch_size(model: HookedModel, prompts: Prompts, batch_size: int | None) -> int:
    if batch_size is not None:
        check_numbers(batch_size=batch_size)
        return batch_size
    n_pos = prompts.tokens.shape[1]
    by_tokens = TOKENS_A_BATCH // n_pos
    if not model.anatomy.goes_through_interface:  # one layer's matrices, a few copies of them
        by_tokens = min(by_tokens, LOGIT_BYTES // (model.n_heads * n_pos * n_pos * 4))
    return max(1, by_tokens)
