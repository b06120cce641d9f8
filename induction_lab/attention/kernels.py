"""Attention and each row's log-sum-exp by the best kernel that serves: tensors in, tensors out, O(n) memory.

Flash kernels return the log-sum-exp beside the output; soft-capping and queries that are fewer than keys go block of
rows by block of rows. Source: Dao et al. (2022), https://arxiv.org/abs/2205.14135, section 3.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.attention import SDPBackend

from induction_lab.attention.grouped import by_group, to_query_heads

SHARES_KEY_HEADS = torch.__version__ >= "2.9"  # older CPU kernels read past the end of grouped keys
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
    kernel = _flash_kernel(q) if softcap is None and q.shape[2] == k.shape[2] else None
    if kernel is None:
        z, lse = _blockwise(q, k, v, scale, mask, softcap)
    else:
        z, lse = kernel(*_of_one_width(q, k, v), scale, mask)
        z = z[..., : v.shape[-1]]
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
    d_head = v.shape[-1]
    z, lse = attention_with_lse(q, k, torch.cat([v, columns.to(v.dtype)], -1), **how)
    return z[..., :d_head], lse, z[..., d_head:]


def _flash_kernel(q: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """What runs on the device of these queries without a matrix; None where nothing does."""
    if q.device.type == "cuda":
        return None if q.dtype == torch.float64 else _on_gpu
    return _flash_cpu if q.device.type == "cpu" else None


def _of_one_width(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values as wide as each other, as flash kernels want them, on GPUs a multiple of 8 wide.

    Zeros beside queries and keys add nothing to scores; those beside values are cut off again.
    """
    widths = {x.shape[-1] for x in tensors}
    if len(widths) > 1 or tensors[0].device.type == "cuda":
        widths = {-(-max(widths) // 8) * 8}
    width = max(widths)
    return tuple(x if x.shape[-1] == width else F.pad(x, (0, width - x.shape[-1])) for x in tensors)


def _flash_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    # The kernel reads any strides but the last, and shares key heads among query heads by itself, but not in old torch.
    if not SHARES_KEY_HEADS:
        k, v = (to_query_heads(x, q.shape[1], dim=1) for x in (k, v))
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    z, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, mask is None, attn_mask=_additive(mask, q), scale=scale
    )
    return z, lse


def _on_gpu(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The kernel that PyTorch itself would take for these, asked for its log-sum-exp."""
    bias = _aligned(_additive(mask, q), q)
    return _gpu_kernel(q, k, v, scale, bias)(q, k, v, scale, bias)


def _gpu_kernel(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> Callable[..., Any]:
    if torch.compiler.is_compiling() or is_functorch_wrapped_tensor(q):  # where PyTorch cannot be asked
        return _flash if bias is None and q.dtype.itemsize == 2 and q.shape[-1] <= 256 else _efficient
    chosen = torch.ops.aten._fused_sdp_choice(q, k, v, bias, 0.0, bias is None, scale=scale, enable_gqa=True)
    return GPU_KERNELS.get(chosen, _efficient)


def _flash(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: None) -> tuple[Tensor, Tensor]:
    z, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, bias is None, scale=scale)
    return z, lse[..., : q.shape[2]]


def _cudnn(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    z, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, bias, True, 0.0, bias is None, scale=scale)
    return z, lse.view(*q.shape[:3])


def _efficient(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    k, v = (to_query_heads(x, q.shape[1], dim=1) for x in (k, v))  # this kernel knows no groups
    z, lse, _, _ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, bias is None, scale=scale
    )
    return z, lse[..., : q.shape[2]]  # rows are padded to a multiple of 32


GPU_KERNELS = {SDPBackend.FLASH_ATTENTION.value: _flash, SDPBackend.CUDNN_ATTENTION.value: _cudnn}


def _aligned(bias: Tensor | None, q: Tensor) -> Tensor | None:
    """A bias for every head whose rows start where GPU kernels want them."""
    if bias is None:
        return None
    n_keys = bias.shape[-1]
    bias = F.pad(bias, (0, -n_keys % 16))[..., :n_keys]
    return bias.expand(*q.shape[:3], -1)


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
