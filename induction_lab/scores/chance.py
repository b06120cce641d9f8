"""Chance: what even attention scores, and which heads are above prompts that do not repeat, over all heads at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.results.statistics import false_discovery_rates
from induction_lab.scores.attention_scores import Targets

_EXACT_UP_TO = 12  # prompts a side; the approximation is coarsest in the far tail, where few prompts must be told


class EvenAttention:
    """What attention spread evenly over the keys that can be seen scores, layer by layer, on one batch.

    Windows and chunks hide keys. Where none is hidden that a query could look at, chance is `Reads.uniform`.

    Attributes:
        uniform: For each score, of every prompt and layer.
        in_reach: For each score, the share of the keys it reads that can be seen at all.
        hidden: Scores of which some layer's chance is another, because it cannot see everything.
    """

    def __init__(self, targets: Targets, n_layers: int) -> None:
        """Begin with layers that hide nothing."""
        self.targets = targets
        rows = {name: reads.uniform.cpu()[:, None].repeat(1, n_layers) for name, reads in targets.reads.items()}
        self.uniform: dict[str, Float[Tensor, "prompt layer"]] = rows
        self.in_reach = {name: torch.ones_like(each) for name, each in rows.items()}
        self.hidden: set[str] = set()
        self._known: dict[int, tuple[Tensor | None, dict[str, tuple[Tensor, Tensor]]]] = {}

    def see(self, attention: AttentionReading) -> None:
        """One layer's attention; layers that share a mask cost nothing more."""
        place = attention.mask.data_ptr() if isinstance(attention, Attention) and attention.mask is not None else None
        if place not in self._known:
            visible = visible_keys(attention)
            found = {} if visible is None else self._under(visible)
            if place is not None and isinstance(attention, Attention):
                self._known[place] = (attention.mask, found)  # kept, so that no other mask can take its place
        else:
            found = self._known[place][1]
        for name, (uniform, in_reach) in found.items():
            self.uniform[name][:, attention.layer] = uniform
            self.in_reach[name][:, attention.layer] = in_reach
            self.hidden.add(name)

    def _under(self, visible: Bool[Tensor, "#batch query key"]) -> dict[str, tuple[Tensor, Tensor]]:
        """Of each score, even attention and the share of its keys in reach."""
        targets, found = self.targets, {}
        n_prompts = len(next(iter(targets.reads.values())).defined)
        visible = visible.expand(n_prompts, -1, -1).to(targets.prompt.device)
        seen = visible[targets.prompt, targets.query, targets.key].float()
        even = seen / visible.sum(-1).clamp(min=1)[targets.prompt, targets.query]
        for name, reads in targets.reads.items():
            zeros = reads.weight.new_zeros(n_prompts)
            uniform = zeros.index_add(0, reads.prompt, reads.weight * even[reads.pair])
            n_pairs = zeros.index_add(0, reads.prompt, torch.ones_like(reads.weight))
            n_seen = zeros.index_add(0, reads.prompt, seen[reads.pair])
            found[name] = (uniform.cpu(), (n_seen / n_pairs.clamp(min=1)).cpu())
        return found


def visible_keys(attention: AttentionReading) -> Bool[Tensor, "#batch query key"] | None:
    """Which keys any head of a layer can see from each query; None where that is all up to it."""
    if not isinstance(attention, Attention):  # a matrix says so itself: hidden keys get nothing from any head
        seen = (attention.matrix > 0).flatten(0, 1).any(0)[None]
    elif (mask := attention.mask) is None:
        return None
    else:
        seen = (mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2).any(1)
    return None if bool((seen == torch.ones_like(seen).tril()).all()) else seen


def out_of_reach(in_reach: Float[Tensor, " layer"]) -> str:
    """A sentence on layers that cannot see all keys that a score reads; empty where all can."""
    short = {layer: share for layer, share in enumerate(in_reach.tolist()) if share < 1}
    if not short:
        return ""
    layers = "every layer" if len(short) == len(in_reach) else f"layers {', '.join(map(str, short))}"
    low, high = min(short.values()), max(short.values())
    seen = f"{low:.0%}" if low == high else f"{low:.0%} to {high:.0%}"
    what = "no key of it" if high == 0 else f"only {seen} of its keys"
    return f"out of reach in {layers}: their attention windows hold {what}"


def fewest_prompts(n_heads: int, rate: float = 0.05) -> int:
    """With how many prompts a side a single head among `n_heads` can pass `above_chance` at false-discovery `rate`.

    The smallest n with `n_heads / C(2n, n) <= rate`: 5 for 8 heads, 8 for 270. With fewer, heads pass only together:
    k heads with the same p-value p share the q-value `n_heads * p / k`.
    """
    n = 1
    while n_heads > rate * math.comb(2 * n, n):
        n += 1
    return n


def check_testable(n_prompts: int) -> None:
    """Refuse to test heads on prompts of which there is but one.

    Raises:
        ValueError: If there are fewer than two.
    """
    if n_prompts < 2:
        raise ValueError(
            f"Heads are tested against chance over prompts: give 2 or more, got {n_prompts}; several texts, or a long "
            "one in pieces, text_prompts(model, text, length=64). Or do without: chance_test=False, --no-chance."
        )


def of_one_prompt(n_values: Mapping[str, int]) -> dict[str, str]:
    """Why scores have no standard error and no test against chance, of those that one prompt alone has values of.

    Args:
        n_values: By score, how many prompts have one.
    """
    alone = [name for name, n in n_values.items() if n == 1]
    return {"errors and chance": f"one prompt alone has values of {', '.join(alone)}: give 2 or more"} if alone else {}


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
    if not len(observed) or not len(null):
        raise ValueError(f"Both sides need prompts, got {len(observed)} and {len(null)}.")
    p_values = torch.from_numpy(_p_values(observed.double().numpy(), null.double().numpy()))
    there = ~observed.isnan().any(0)  # layers without heads are not tested
    p_values, q_values = p_values.where(there, torch.nan), torch.full(p_values.shape, torch.nan, dtype=p_values.dtype)
    q_values[there] = torch.from_numpy(false_discovery_rates(p_values[there].numpy()))
    return p_values.float(), q_values.float()


def _p_values(
    observed: Float[np.ndarray, "prompt layer head"], null: Float[np.ndarray, "null_prompt layer head"]
) -> Float[np.ndarray, "layer head"]:
    """How likely each head's rank sum is to be so large by chance; 1 where all prompts are tied."""
    from scipy.special import ndtr

    n, m, both = len(observed), len(null), np.concatenate([observed, null])
    larger: Any = sum((x > null).sum(0) + (x == null).sum(0) / 2 for x in observed)
    ties = sum((both == x).sum(0) ** 2.0 - 1.0 for x in both)  # of groups of t the sum of t^3 - t
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1))))
        p_values = ndtr(-(larger - n * m / 2 - 0.5) / spread)
    if max(n, m) <= _EXACT_UP_TO:
        p_values = np.where(ties > 0, p_values, _at_least(n, m)[larger.astype(int)])
    return np.where(np.isnan(both).any(0), 1.0, np.nan_to_num(p_values, nan=1.0).clip(0.0, 1.0))


@cache
def _at_least(n: int, m: int) -> Float[np.ndarray, " pairs"]:
    """How likely it is that so many pairs or more, of one of `n` and one of `m`, have the larger number first."""
    ways = np.zeros(n * m + 1, dtype=np.int64)
    ways[0] = 1
    for i in range(1, n + 1):  # Gauss' product of (1 - x^(m + i)) / (1 - x^i): a way for each number of pairs
        ways[m + i :] -= ways[: -(m + i)].copy() if m + i < len(ways) else 0
        for place in range(i, len(ways)):
            ways[place] += ways[place - i]
    share = ways / math.comb(n + m, n)
    below = np.cumsum(share)
    least = np.arange(n * m + 1)
    return np.where(2 * least < n * m, 1.0 - below + share, below[::-1])
