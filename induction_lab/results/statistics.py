"""Means over prompts and their standard errors, tests and corrections. One prompt has no error: it is NaN.

The numbers of `scipy.stats` to the last bit, from `scipy.special`, which is there in a fifth of its time.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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


def far_from_zero(means: Float[Tensor, " row"], errors: Float[Tensor, " row"], n_prompts: int) -> Float[Tensor, " row"]:
    """One-sided p-values of means above 0, each with an error that takes in what the others' say: a moderated t-test.

    Of few prompts a standard error is mostly luck. Variances of all rows are taken to be spread as inverse chi-squared;
    its scale and degrees of freedom, found from their logarithms, are added to each row's own. Rows of which all have
    error 0 are what they are: their p-value is 0, 0.5 or 1. Source: Smyth (2004), doi:10.2202/1544-6115.1027.

    Args:
        means: One a row; NaN gives NaN.
        errors: Their standard errors over prompts.
        n_prompts: How many, 2 or more.
    """
    own = n_prompts - 1.0
    known, variances = errors[errors > 0].double(), errors.double().square()
    scale, prior = _spread_of_variances(known.square(), own)
    if math.isinf(prior):
        variances, freedom = torch.full_like(variances, scale), math.inf
    else:
        variances, freedom = (prior * scale + own * variances) / (prior + own), prior + own
    ratio = means.double() / variances.sqrt()
    ratio = torch.where((means == 0) & ~errors.isnan(), 0.0, ratio)
    return torch.from_numpy(t_above(ratio.numpy(), freedom)).to(torch.float64)


def t_above(value: np.ndarray | float, freedom: float | int) -> Any:
    """How likely Student's t is to lie above a value."""
    from scipy.special import stdtr

    return stdtr(freedom, -np.asarray(value))


def t_exceeded(level: float, freedom: float | int) -> float:
    """Above which value Student's t lies with this probability."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level))


def false_discovery_rates(p_values: np.ndarray) -> np.ndarray:
    """The rate of false discoveries at which each is just called one, `[test]`: Benjamini and Hochberg (1995)."""
    order, n = np.argsort(p_values), len(p_values)
    rates = p_values[order] * (n / np.arange(1.0, n + 1))
    found = np.empty_like(rates)
    found[order] = np.minimum.accumulate(rates[::-1])[::-1]
    return found.clip(0.0, 1.0)


def _spread_of_variances(variances: Float[Tensor, " row"], own: float) -> tuple[float, float]:
    """Scale and degrees of freedom of the inverse chi-squared that variances of `own` degrees are spread by."""
    if len(variances) < 3:
        return 0.0, 0.0
    half = torch.tensor(own / 2, dtype=torch.float64)
    logs = variances.log() - half.digamma() + half.log()
    excess = float(logs.var() - torch.special.polygamma(1, half))
    if excess <= 0:
        return float(logs.mean().exp()), math.inf
    low, high = 1e-3, 1e6  # of half the degrees of freedom, by bisection: trigamma falls
    for _ in range(200):
        middle = torch.tensor(math.sqrt(low * high), dtype=torch.float64)
        low, high = (float(middle), high) if torch.special.polygamma(1, middle) > excess else (low, float(middle))
    half = torch.tensor(low, dtype=torch.float64)
    return float((logs.mean() + half.digamma() - half.log()).exp()), 2 * low
