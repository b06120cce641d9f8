"""Which heads are above chance: repeated prompts against prompts that do not repeat, over all heads at once."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def above_chance(
    observed: Float[Tensor, "prompt layer head"], null: Float[Tensor, "null_prompt layer head"]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """One-sided Mann-Whitney test of each head, and Benjamini and Hochberg's correction over all heads.

    Prompts are the units. The test asks for ranks alone, so one wild prompt decides nothing. With n prompts a side
    no p-value is below 1 / C(2n, n): 1/70 at 4, 1/924 at 6; after correction over many heads fewer than 6 tell nothing.

    Args:
        observed: Scores per prompt where there is something to find.
        null: Scores of the same positions per prompt where there is not.

    Returns:
        p-values in (0, 1], and q-values: the false-discovery rate at which each head would just be called above chance.

    Raises:
        ValueError: If either side has no prompt.
    """
    from scipy.stats import false_discovery_control, mannwhitneyu

    if not len(observed) or not len(null):
        raise ValueError(f"Both sides need prompts, got {len(observed)} and {len(null)}.")
    with np.errstate(invalid="ignore", divide="ignore"):
        test = mannwhitneyu(observed.double().numpy(), null.double().numpy(), alternative="greater", axis=0)
    p_values = np.nan_to_num(test.pvalue, nan=1.0)  # all prompts tied: nothing to tell apart
    q_values = false_discovery_control(p_values.ravel(), method="bh").reshape(p_values.shape)
    return torch.from_numpy(p_values).float(), torch.from_numpy(q_values).float()
