"""Scores of chosen pairs of query and key on a GPU: one kernel that reads each pair's rows once and writes no rows.

Triton comes with PyTorch's builds for GPUs; where it is missing, `exact` gathers rows instead.
"""

# Triton reads the annotations of its kernels: they may not be strings.
import warnings
from functools import cache
from inspect import unwrap
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor


def _pair_scores(
    q, k, prompt, query, key, out,
    q_batch, q_head, q_pos, k_batch, k_head, k_pos, n_kv_heads,
    GROUP: tl.constexpr, D_KEY: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One pair and one key-value head: its key against the queries of its group."""
    pair = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1).to(tl.int64)
    b, i, j = tl.load(prompt + pair), tl.load(query + pair), tl.load(key + pair)
    at = tl.arange(0, WIDTH)
    there = at < D_KEY
    row = tl.load(k + b * k_batch + kv_head * k_head + j * k_pos + at, mask=there, other=0.0).to(tl.float32)
    for g in range(GROUP):
        head = kv_head * GROUP + g
        asked = tl.load(q + b * q_batch + head * q_head + i * q_pos + at, mask=there, other=0.0).to(tl.float32)
        tl.store(out + pair * n_kv_heads * GROUP + head, tl.sum(asked * row))


_kernel: Any = triton.jit(unwrap(_pair_scores))  # Triton reads it as it is written, without what checks shapes


def pair_scores(q: Tensor, k: Tensor, prompt: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """`[pair, head]` products of queries `[batch, head, pos, d_key]` and keys in float32, as `exact` asks for them."""
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    n_heads, n_kv_heads, d_key = q.shape[1], k.shape[1], q.shape[-1]
    out = torch.empty(len(prompt), n_heads, dtype=torch.float32, device=q.device)
    if len(prompt):
        with torch.cuda.device_of(q):  # Triton runs on the current one
            _kernel[(len(prompt), n_kv_heads)](
                q, k, prompt, query, key, out, *q.stride()[:3], *k.stride()[:3], n_kv_heads,
                GROUP=n_heads // n_kv_heads, D_KEY=d_key, WIDTH=triton.next_power_of_2(d_key), num_warps=1,
            )  # fmt: skip
    return out


@cache
def kernel_works(device: torch.device) -> bool:
    """Whether the kernel can be built and run here: Triton wants a C compiler, and a GPU it knows."""
    q, at = torch.ones(1, 1, 1, 16, device=device), torch.zeros(1, dtype=torch.long, device=device)
    try:
        return float(pair_scores(q, q, at, at, at)) == 16
    except Exception as error:  # whatever it is, rows are gathered instead
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        warnings.warn(f"Pairs are read without Triton, which takes longer: it fails here ({reason}).", stacklevel=2)
        return False
