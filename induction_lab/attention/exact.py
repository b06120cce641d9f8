"""One layer's attention, exactly, without its matrix: outputs and the probabilities of asked pairs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.attention.grouped import key_head
from induction_lab.attention.kernels import attention_with_lse, cap, score_rows

PAIR_CHUNK_BYTES = 2**20  # gathered queries and keys stay in the processor's cache
HAS_TRITON = find_spec("triton") is not None
GPU_CHUNK_BYTES = 2**28  # there each chunk costs the start of some kernels


class Mixed(NamedTuple):
    """Columns that stood beside the values in the same pass (`hooks.reading`).

    Attributes:
        columns: What they were.
        means: Their means by attention.
        lse: Of the attention which they are the means of, like `v`: an edit may have put others in their place.
        v: The values there.
    """

    columns: Float[Tensor, "batch kv_head key column"]
    means: Float[Tensor, "batch head query column"]
    lse: Float[Tensor, "batch head query"]
    v: Float[Tensor, "batch kv_head key d_head"]


@dataclass(frozen=True)
class Attention:
    """One layer's attention: what it attended with, its output, and each row's log-sum-exp.

    Grouped-query models have fewer key than query heads (`attention.grouped`).
    `mask` is boolean (True: may attend) or additive; without one attention is causal. Source of the identity:
    Dao et al. (2022), https://arxiv.org/abs/2205.14135, section 3.1.
    """

    layer: int
    q: Float[Tensor, "batch head query d_key"]
    k: Float[Tensor, "batch kv_head key d_key"]
    v: Float[Tensor, "batch kv_head key d_head"]
    z: Float[Tensor, "batch head query d_head"]
    lse: Float[Tensor, "batch head query"]
    scale: float
    mask: Bool[Tensor, "#batch #head query key"] | Float[Tensor, "#batch #head query key"] | None = None
    softcap: float | None = None
    sinks: Float[Tensor, " head"] | None = None
    mixed: Mixed | None = None

    def probabilities(
        self, prompt: Int[Tensor, " pair"], query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]
    ) -> Float[Tensor, "pair head"]:
        """Attention probability of every head at each (prompt, query, key), in [0, 1]; keys after the query give 0."""
        scores = _products(self.q, self.k, prompt, query, key)
        scores = cap(scores * self.scale, self.softcap)
        if self.mask is not None:
            here = self.mask.expand(self.q.shape[0], self.q.shape[1], -1, -1)[prompt, :, query, key]
            scores = scores.masked_fill(~here, -torch.inf) if here.dtype == torch.bool else scores + here
        lse = self.lse.transpose(1, 2).reshape(-1, self.lse.shape[1]).index_select(0, prompt * self.q.shape[2] + query)
        return (scores - lse).masked_fill_((key > query)[:, None], -torch.inf).exp_()

    def scores(
        self, *, heads: Int[Tensor, " head"] | None = None, queries: Int[Tensor, " query"] | None = None
    ) -> Float[Tensor, "batch head query key"]:
        """Scaled, capped and masked scores, `-inf` where attention may not go; of the given heads and queries only."""
        q, k, mask = _cut(self.q, heads, queries), self.k, self.mask
        n_queries, n_keys = self.q.shape[2], self.k.shape[2]
        at = torch.arange(n_queries, device=q.device) if queries is None else queries
        if heads is not None:
            k = k.index_select(1, key_head(heads, self.q.shape[1], k.shape[1]))
        if mask is not None:
            mask = _cut(mask, heads if mask.shape[1] > 1 else None, queries)
        return score_rows(q, k, at + n_keys - n_queries, scale=self.scale, mask=mask, softcap=self.softcap)

    def pattern(
        self, *, heads: Int[Tensor, " head"] | None = None, queries: Int[Tensor, " query"] | None = None
    ) -> Float[Tensor, "batch head query key"]:
        """All probabilities of the given heads and queries. Rows sum to 1, less what an attention sink takes."""
        scores = self.scores(heads=heads, queries=queries)
        return (scores - _cut(self.lse, heads, queries)[..., None]).exp().to(self.z.dtype)

    def mix(
        self,
        *,
        heads: Int[Tensor, " head"] | None = None,
        q: Float[Tensor, "batch head query d_key"] | None = None,
        k: Float[Tensor, "batch _ key d_key"] | None = None,
        v: Float[Tensor, "batch _ key d_head"] | None = None,
    ) -> Float[Tensor, "batch head query d_head"]:
        """What the given heads would put out with these queries, keys or values in place of their own.

        Where heads are given, so are keys and values: one for each of them. O(n) memory.
        """
        sinks, mask = self.sinks, self.mask
        shared = None if heads is None else key_head(heads, self.q.shape[1], self.k.shape[1])
        q = _cut(self.q, heads, None) if q is None else q
        k = _cut(self.k, shared, None) if k is None else k
        v = _cut(self.v, shared, None) if v is None else v
        if heads is not None:
            mask = _cut(mask, heads, None) if mask is not None and mask.shape[1] > 1 else mask
            sinks = None if sinks is None else sinks[heads]
        how = {"scale": self.scale, "mask": mask, "softcap": self.softcap, "sinks": sinks}
        return attention_with_lse(q, k, v, **how)[0]


@dataclass(frozen=True)
class MaterialisedAttention:
    """The same reading where a model built the matrix itself: nothing is recomputed, only looked up."""

    layer: int
    matrix: Float[Tensor, "batch head query key"]
    v: Float[Tensor, "batch kv_head key d_head"]
    z: Float[Tensor, "batch head query d_head"]

    def probabilities(
        self, prompt: Int[Tensor, " pair"], query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]
    ) -> Float[Tensor, "pair head"]:
        """The entries of the matrix at each (prompt, query, key)."""
        return self.matrix[prompt, :, query, key]

    def pattern(
        self, *, heads: Int[Tensor, " head"] | None = None, queries: Int[Tensor, " query"] | None = None
    ) -> Float[Tensor, "batch head query key"]:
        """The matrix of the given heads and queries."""
        return _cut(self.matrix, heads, queries)


@dataclass(frozen=True)
class HeadOutputs:
    """What the heads of a layer put out, and perhaps their values, where attention itself happens out of sight."""

    layer: int
    z: Float[Tensor, "batch head query d_head"]
    v: Float[Tensor, "batch kv_head key d_head"] | None = None


AttentionReading = Attention | MaterialisedAttention
LayerAttention = AttentionReading | HeadOutputs  # what an edit is given


def _products(q: Tensor, k: Tensor, prompt: Tensor, query: Tensor, key: Tensor) -> Float[Tensor, "pair head"]:
    """`q_i . k_j` of each pair for every head, in float32 at least."""
    if q.device.type == "cuda" and q.dtype != torch.float64 and HAS_TRITON:
        from induction_lab.attention.pairs_on_gpu import kernel_works, pair_scores

        if kernel_works(q.device):
            return pair_scores(q, k, prompt, query, key)
    n_heads, n_kv_heads, d_key = q.shape[1], k.shape[1], q.shape[-1]
    # One row a position: mostly a view, because models make their heads side by side.
    q_rows = q.transpose(1, 2).reshape(-1, n_kv_heads, n_heads // n_kv_heads, d_key)
    k_rows = k.transpose(1, 2).reshape(-1, n_kv_heads, 1, d_key)
    i, j = prompt * q.shape[2] + query, prompt * k.shape[2] + key
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.new_empty(len(prompt), *q_rows.shape[1:3], dtype=wide)
    most = PAIR_CHUNK_BYTES if q.device.type == "cpu" else GPU_CHUNK_BYTES
    chunk = max(1, most // (n_heads * d_key * 4))
    for some, of_query, of_key in zip(scores.split(chunk), i.split(chunk), j.split(chunk), strict=True):
        torch.sum(q_rows.index_select(0, of_query).to(wide) * k_rows.index_select(0, of_key).to(wide), -1, out=some)
    return scores.flatten(1)


def _cut(x: Tensor, heads: Tensor | None, queries: Tensor | None) -> Tensor:
    """The given heads (axis 1) and queries (axis 2), all where None."""
    x = x if queries is None else x.index_select(2, queries)
    return x if heads is None else x.index_select(1, heads)
