"""Attention and each row's log-sum-exp by the best kernel that serves: tensors in, tensors out, O(n) memory.

Flash kernels return the log-sum-exp beside the output; soft-capping and queries that are fewer than keys go block of
rows by block of rows. Source: Dao et al. (2022), https://arxiv.org/abs/2205.14135, section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import by_group, to_query_heads

ROW_BLOCK_BYTES = 2**26  # rows of scores that are materialised at a time where no flash kernel serves


def attention_with_lse(
    q: Float[Tensor, "batch head query d_key"],
    k: Float[Tensor, "batch kv_head key d_key"],
    v: Float[Tensor, "batch kv_head key d_head"],
    *,
    scale: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> tuple[Float[Tensor, "batch head query d_head"], Float[Tensor, "batch head query"]]:
    """Attention output and each row's log-sum-exp (natural logarithm, sink included), by the best kernel there is.

    Rows in which nothing may be attended to have no log-sum-exp; their value is arbitrary and never read.
    """
    plain = softcap is None and q.shape[2] == k.shape[2] and q.shape[-1] == v.shape[-1]
    if plain and q.device.type == "cpu":
        z, lse = _flash_cpu(q, k, v, scale, mask)
    elif plain and q.device.type == "cuda" and q.dtype != torch.float64:
        z, lse = _efficient_cuda(q, k, v, scale, mask)
    else:
        z, lse = _blockwise(q, k, v, scale, mask, softcap)
    if sinks is not None:
        with_sink = torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
        z, lse = z * (lse - with_sink).exp()[..., None].to(z.dtype), with_sink
    return z, lse


def with_columns(
    q: Float[Tensor, "batch head query d_key"],
    k: Float[Tensor, "batch kv_head key d_key"],
    v: Float[Tensor, "batch kv_head key d_head"],
    columns: Float[Tensor, "batch kv_head key column"],
    **how: Any,
) -> tuple[
    Float[Tensor, "batch head query d_head"],
    Float[Tensor, "batch head query"],
    Float[Tensor, "batch head query column"],
]:
    """`attention_with_lse`, and in the same pass the means, by attention, of columns that stand beside the values.

    A few columns cost little: the kernel's time grows by their share of the width.
    """
    d_head, n = v.shape[-1], columns.shape[-1]
    v = torch.cat([v, columns.to(v.dtype)], -1)
    if q.shape[-1] == d_head:  # flash kernels want one width, on GPUs a multiple of 8; zeros add nothing to scores
        width = -(-(d_head + n) // 8) * 8
        q, k, v = (torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in (q, k, v))
    z, lse = attention_with_lse(q, k, v, **how)
    return z[..., :d_head], lse, z[..., d_head : d_head + n]


def _flash_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    # The kernel shares key heads among query heads by itself and reads any strides but the last.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    z, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=_additive(mask, q), scale=scale
    )
    return z, lse


def _efficient_cuda(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, n_heads, n_queries, _ = q.shape
    k, v = to_query_heads(k, n_heads, dim=1), to_query_heads(v, n_heads, dim=1)  # this kernel knows no groups
    bias = _additive(mask, q)
    if bias is not None:  # and a bias for every head whose rows are aligned
        aligned = -(-bias.shape[-1] // 16) * 16
        bias = torch.nn.functional.pad(bias, (0, aligned - bias.shape[-1]))[..., : k.shape[2]]
        bias = bias.expand(batch, n_heads, n_queries, -1)
    z, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, mask is None, scale=scale
    )
    return z, lse[..., :n_queries]  # rows are padded to a multiple of 32


def _blockwise(
    q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None, softcap: float | None
) -> tuple[Tensor, Tensor]:
    batch, n_heads, n_queries, _ = q.shape
    block = max(1, ROW_BLOCK_BYTES // (batch * n_heads * k.shape[2] * 4))
    v_shared = v.unsqueeze(2)  # [batch, kv_head, 1, key, d_head]
    z, lse = [], []
    for start in range(0, n_queries, block):
        stop = min(start + block, n_queries)
        at = torch.arange(start, stop, device=q.device) + k.shape[2] - n_queries
        here = None if mask is None else mask[..., start:stop, :]
        rows = score_rows(q[:, :, start:stop], k, at, scale=scale, mask=here, softcap=softcap)
        row_lse = rows.logsumexp(-1)
        p = (rows - row_lse[..., None]).exp().nan_to_num(0.0).to(v.dtype)
        z.append((by_group(p, k.shape[1]) @ v_shared).flatten(1, 2))
        lse.append(row_lse)
    return torch.cat(z, 2), torch.cat(lse, 2)


def score_rows(q: Tensor, k: Tensor, at: Tensor, *, scale: float, mask: Tensor | None, softcap: float | None) -> Tensor:
    """Scores of the queries `q`, which stand at the keys `at`; `mask` holds their rows."""
    wide = torch.promote_types(q.dtype, torch.float32)
    rows = by_group(q.to(wide), k.shape[1])
    scores = cap((rows @ k.to(wide).unsqueeze(2).mT).flatten(1, 2) * scale, softcap)
    if mask is None:
        mask = torch.arange(k.shape[2], device=q.device) <= at[:, None]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def cap(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores under a soft cap, `softcap * tanh(scores / softcap)`, where there is one."""
    return scores if softcap is None else softcap * (scores / softcap).tanh()


def _additive(mask: Tensor | None, q: Tensor) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask if mask is None else mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
