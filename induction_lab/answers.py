"""The right next tokens of prompts: which they are, where copying gives them, and means over such positions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.models import HookedModel
from induction_lab.prompts import Prompts
from induction_lab.targets import copyable

NO_ANSWER = -1
_TOKENS_A_BATCH = 1024
_LOGIT_BYTES = 2**27


def next_tokens(prompts: Prompts) -> Int[Tensor, "prompt pos"]:
    """The token that follows at each position; `NO_ANSWER` at the last one and in the padding."""
    tokens = prompts.tokens.cpu()
    lengths = torch.full((len(prompts),), tokens.shape[1]) if prompts.lengths is None else prompts.lengths.cpu()
    return tokens.roll(-1, 1).masked_fill(torch.arange(tokens.shape[1]) >= lengths[:, None] - 1, NO_ANSWER)


def check_answers(model: HookedModel, prompts: Prompts, answers: Tensor) -> Int[Tensor, "prompt pos"]:
    """Answers as a user gives them.

    Raises:
        ValueError: If they are no token ids in the shape of the prompts' tokens, or `NO_ANSWER` everywhere.
    """
    whole = not (answers.is_floating_point() or answers.is_complex() or answers.dtype == torch.bool)
    if answers.shape != prompts.tokens.shape or not whole or not (answers != NO_ANSWER).any():
        raise ValueError(
            f"`answers` are token ids of shape {tuple(prompts.tokens.shape)}, {NO_ANSWER} where there is none but not "
            f"everywhere; got shape {tuple(answers.shape)} of {answers.dtype}."
        )
    low, high = int(answers.min()), int(answers.max())
    if low < NO_ANSWER or high >= model.d_vocab:
        raise ValueError(
            f"`answers` must lie in [0, {model.d_vocab}) or be {NO_ANSWER} where there is none, got {low} … {high}."
        )
    return answers.cpu().long()


def places(prompts: Prompts, answered: Bool[Tensor, "prompt pos"]) -> dict[str, Bool[Tensor, "prompt pos"]]:
    """Positions with an answer: `copied`, where copying is right, and `elsewhere`; those of the two that there are."""
    copied = copyable(prompts.tokens, prompts.lengths)
    found = {"copied": copied & answered, "elsewhere": ~copied & answered}
    return {where: mask for where, mask in found.items() if mask.any()}


def over_prompts(
    values: Float[Tensor, "row prompt pos"], mask: Bool[Tensor, "prompt pos"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Mean over each prompt's positions, then over the prompts that have any; standard error over prompts."""
    count = mask.sum(-1)
    means = (values.masked_fill(~mask, 0).sum(-1) / count)[:, count > 0]
    n_prompts = means.shape[1]
    error = means.std(1) / n_prompts**0.5 if n_prompts > 1 else torch.full_like(means[:, 0], math.nan)
    return means.mean(1), error


def batches(model: HookedModel, prompts: Prompts, batch_size: int | None) -> Iterator[slice]:
    """Rows of prompts to run at a time: `batch_size`, else 1,024 tokens, fewer where their logits would be large.

    Raises:
        ValueError: If `batch_size` is less than 1.
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    tokens = min(_TOKENS_A_BATCH, _LOGIT_BYTES // (4 * model.d_vocab))
    step = batch_size or max(1, tokens // prompts.tokens.shape[1])
    return (slice(start, start + step) for start in range(0, len(prompts), step))
