"""The right next tokens of prompts: which they are, and where copying gives them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.models.hooked_model import HookedModel

NO_ANSWER = -1


def next_tokens(prompts: Prompts) -> Int[Tensor, "prompt pos"]:
    """The token that follows at each position; `NO_ANSWER` at the last one and in the padding."""
    tokens = prompts.tokens.cpu()
    last = prompts.real_lengths[:, None] - 1
    return tokens.roll(-1, 1).masked_fill(torch.arange(tokens.shape[1]) >= last, NO_ANSWER)


def check_answers(model: HookedModel, prompts: Prompts, answers: Tensor) -> Int[Tensor, "prompt pos"]:
    """Check answers that a user gives, one a position, and bring them to the CPU.

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
    copied = Recurrences(prompts).copyable
    found = {"copied": copied & answered, "elsewhere": ~copied & answered}
    return {where: mask for where, mask in found.items() if mask.any()}
