"""Means over prompts and their standard errors. One prompt has no error: it is NaN."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def mean_and_error(
    per_prompt: Float[Tensor, " prompt *rest"], where: Bool[Tensor, " prompt"] | None = None
) -> tuple[Float[Tensor, "*rest"], Float[Tensor, "*rest"]]:
    """Mean over prompts, and the standard error of that mean.

    >>> mean_and_error(torch.tensor([1.0, 3.0]))
    (tensor(2.), tensor(1.))

    Args:
        per_prompt: One value a prompt, of any shape.
        where: The prompts that count; by default all.

    Returns:
        The mean, NaN where no prompt counts, and the error, NaN where fewer than two do.
    """
    values = per_prompt if where is None else per_prompt[where]
    mean, n_prompts = values.mean(0), len(values)
    return mean, values.std(0) / n_prompts**0.5 if n_prompts > 1 else torch.full_like(mean, math.nan)


def number_and_error(per_prompt: Float[Tensor, " prompt"]) -> tuple[float, float]:
    """Mean and standard error of one number a prompt, as Python's floats, the division in double precision."""
    n_prompts = len(per_prompt)
    return float(per_prompt.mean()), float(per_prompt.std()) / n_prompts**0.5 if n_prompts > 1 else math.nan


def error_where_known(values: Float[Tensor, "prompt column"]) -> Float[Tensor, " column"]:
    """Standard error of each column's mean over the prompts that have a value there, the others being NaN."""
    count = (~values.isnan()).sum(0)
    squares = (values - values.nanmean(0)).square().nansum(0)
    return (squares / (count - 1) / count).sqrt().masked_fill(count < 2, math.nan)


def over_prompts(
    values: Float[Tensor, "row prompt pos"], mask: Bool[Tensor, "prompt pos"]
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Mean over each prompt's positions, then over the prompts that have any; standard error over prompts."""
    count = mask.sum(-1)
    means = values.masked_fill(~mask, 0).sum(-1) / count
    return mean_and_error(means[:, count > 0].T)
