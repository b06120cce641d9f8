"""Which heads are above chance: repeated prompts against prompts that do not repeat, over all heads at once."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_EXACT_UP_TO = 12  # prompts a side; the approximation is coarsest in the far tail, where few prompts must be told


def fewest_prompts(n_heads: int, rate: float = 0.05) -> int:
    """With how many prompts a side a single head among `n_heads` can pass `above_chance` at false-discovery `rate`.

    The smallest n with `n_heads / C(2n, n) <= rate`: 5 for 8 heads, 8 for 270. With fewer, heads pass only together:
    k heads with the same p-value p share the q-value `n_heads * p / k`.
    """
    n = 1
    while n_heads > rate * math.comb(2 * n, n):
        n += 1
    return n


def above_chance(
    observed: Float[Tensor, "prompt layer head"], null: Float[Tensor, "null_prompt layer head"]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """One-sided Mann-Whitney test of each head, and Benjamini and Hochberg's correction over all heads.

    Prompts are the units. The test asks for ranks alone, so one wild prompt decides nothing. p-values are exact up to
    12 prompts a side, except of heads with tied scores, which like larger samples get the normal approximation. With
    n prompts a side no exact one is below 1 / C(2n, n): 1/70 at 4, 1/924 at 6; see `fewest_prompts`.

    Args:
        observed: Scores per prompt where there is something to find.
        null: Scores of the same positions per prompt where there is not.

    Returns:
        p-values in (0, 1], and q-values: the false-discovery rate at which each head would just be called above chance.

    Raises:
        ValueError: If either side has no prompt.
    """
    from scipy.stats import false_discovery_control

    if not len(observed) or not len(null):
        raise ValueError(f"Both sides need prompts, got {len(observed)} and {len(null)}.")
    p_values = _p_values(observed.double().numpy(), null.double().numpy())
    q_values = false_discovery_control(p_values.ravel(), method="bh").reshape(p_values.shape)
    return torch.from_numpy(p_values).float(), torch.from_numpy(q_values).float()


def _p_values(observed: np.ndarray, null: np.ndarray) -> np.ndarray:
    from scipy.stats import mannwhitneyu

    ordered = np.sort(np.concatenate([observed, null]), axis=0)
    exact = ~(ordered[1:] == ordered[:-1]).any(0) & (max(len(observed), len(null)) <= _EXACT_UP_TO)
    p_values = np.ones(observed.shape[1:])
    # Asked for all at once, scipy would approximate every head where one has ties.
    for method, heads in (("exact", exact), ("asymptotic", ~exact)):
        if heads.any():
            with np.errstate(invalid="ignore", divide="ignore"):
                test = mannwhitneyu(observed[:, heads], null[:, heads], alternative="greater", axis=0, method=method)
            p_values[heads] = np.nan_to_num(test.pvalue, nan=1.0)  # all prompts tied: nothing to tell apart
    return p_values
