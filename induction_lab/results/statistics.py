"""Means over prompts and their standard errors."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def over_prompts(
    values: Float[Tensor, "row prompt pos"], mask: Bool[Tensor, "prompt pos"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Mean over each prompt's positions, then over the prompts that have any; standard error over prompts."""
    count = mask.sum(-1)
    means = (values.masked_fill(~mask, 0).sum(-1) / count)[:, count > 0]
    n_prompts = means.shape[1]
    error = means.std(1) / n_prompts**0.5 if n_prompts > 1 else torch.full_like(means[:, 0], math.nan)
    return means.mean(1), error
