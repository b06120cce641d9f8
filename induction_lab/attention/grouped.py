"""Grouped-query attention: query heads in equal groups, each group reading one key-value head.

The one place of the rule: query head `h` reads key-value head `h // (n_heads // n_kv_heads)`. Models without grouped
queries have as many key-value heads as query heads. Source: Ainslie et al. (2023), arxiv.org/abs/2305.13245.
"""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

Heads = TypeVar("Heads", int, Tensor)


def key_head(head: Heads, n_heads: int, n_kv_heads: int) -> Heads:
    """The key-value head that a query head, or each of a tensor of them, reads."""
    return head // (n_heads // n_kv_heads)


def to_query_heads(x: Tensor, n_heads: int, *, dim: int) -> Tensor:
    """Keys, values or weights along `dim` (key-value heads), repeated so that each query head has its own.

    The tensor itself where there are no groups.
    """
    n_kv_heads = x.shape[dim]
    return x if n_kv_heads == n_heads else x.repeat_interleave(n_heads // n_kv_heads, dim=dim)


def by_group(x: Tensor, n_kv_heads: int, *, dim: int = 1) -> Tensor:
    """Query heads along `dim` as `[…, key-value head, query head of its group, …]`."""
    return x.unflatten(dim, (n_kv_heads, -1))
