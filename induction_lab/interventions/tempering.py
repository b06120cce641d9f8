"""`temper`: make the softmax of some heads sharper or flatter, as a context manager.

A head attends with `softmax(beta * scores)`: 1 is the head as it is, 0 even attention to everything that it may see,
infinity hard addressing, all weight on the largest score. What it looks for and what it carries stay its own, so the
change says what the *weights* are good for. Source of the form: Vaswani et al. (2017),
https://arxiv.org/abs/1706.03762, equation 1, with `beta` an inverse temperature.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import (
    Attention,
    AttentionReading,
    HeadOutputs,
    LayerAttention,
    MaterialisedAttention,
)
from induction_lab.attention.forced_patterns import ForcedAttention, show_forced
from induction_lab.attention.grouped import key_head
from induction_lab.attention.kernels import attention_with_lse
from induction_lab.internals.bridge_hooks import AttentionHooks, by_head, hooking_attention
from induction_lab.internals.editing import edit_attention
from induction_lab.internals.reading import heads_of
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import HeadLike


@takes_names
@contextmanager
def temper(model: HookedModel, heads: HeadLike | Iterable[HeadLike], beta: float | int) -> Iterator[HookedModel]:
    """Let heads attend with `softmax(beta * scores)` inside the context.

    >>> with temper(model, ["L17H3", "L18H6"], math.inf):                                         # doctest: +SKIP
    ...     print(score_heads(model, prompts, scores=["prefix_matching"]).of("L18H6"))

    Inside, `model.network`, `model.hooked` and everything in this package run on the tempered model; afterwards it is
    bit for bit what it was, and with `beta=1` it is so inside too. Contexts may be nested; of one head the factors then
    multiply. Finite factors cost what attention costs, O(n) memory; infinity, capped scores and additive masks one
    n x n pattern for each of the heads.

    Args:
        model: Any model that goes through the attention interface of transformers, or an AttentionOnlyTransformer.
        heads: `"L16H0"`, `(16, 0)`, or several; query heads in grouped-query models.
        beta: At least 0; `math.inf` for the argmax (of equal scores the earliest).

    Yields:
        The model itself.

    Raises:
        ValueError: If a head is not there or given twice, none is given, `beta` is negative or no number, or the
            model attends out of sight.
    """
    chosen = heads_of(model, heads)
    if not chosen:
        raise ValueError('Heads are wanted, got none. Write L16H0, or ["L16H0", "L18H6"].')
    if not beta >= 0:
        raise ValueError(f"`beta` is a number of at least 0, math.inf for hard addressing, got {beta!r}.")
    if not model.anatomy.goes_through_interface:
        raise ValueError(
            f"{model.name} ({type(model.network).__name__}) attends out of sight of transformers' attention interface: "
            "its heads cannot be tempered."
        )
    if beta == 1:
        yield model
        return
    by_layer: dict[int, list[int]] = {}
    for head in chosen:
        by_layer.setdefault(head.layer, []).append(head.head)

    def edit(attention: LayerAttention) -> LayerAttention:
        if attention.layer not in by_layer:
            return attention
        assert not isinstance(attention, HeadOutputs)  # such models are refused above
        return _tempered(attention, by_layer[attention.layer], beta)

    _ = model.unembeds_by_parts  # found out once and kept: not on the tempered model
    with ExitStack() as stack:
        bridge = model.bridge
        stack.enter_context(edit_attention(model, edit))
        if bridge is not None:
            hooks = {layer: _bridge_hooks(model, here, beta) for layer, here in by_layer.items()}
            stack.enter_context(hooking_attention(bridge, hooks))
        yield model


def sharpened(
    log_p: Float[Tensor, "*batch key"], beta: float | int, *, sink: Float[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch key"]:
    """`softmax(beta * log_p)`, `-inf` staying out; `sink` is the log-probability of looking nowhere."""
    if sink is not None:
        return sharpened(torch.cat([log_p, sink[..., None]], -1), beta)[..., :-1]
    if beta == math.inf:
        return torch.nn.functional.one_hot(log_p.argmax(-1), log_p.shape[-1]).to(log_p)
    out = log_p == -torch.inf  # 0 * -inf is no number
    return (beta * log_p.masked_fill(out, 0.0)).masked_fill(out, -torch.inf).softmax(-1)


def _tempered(attention: AttentionReading, heads: list[int], beta: float | int) -> AttentionReading:
    """One layer's attention with some heads tempered; whoever reads it sees the tempered patterns."""
    if type(attention) is Attention and attention.softcap is None and beta < math.inf:
        if attention.mask is None or attention.mask.dtype == torch.bool:
            return _by_queries(attention, heads, beta)
    index = torch.tensor(heads, device=attention.z.device)
    pattern = _pattern(attention, index, beta).to(attention.v)
    z = attention.z.clone()
    z[:, heads] = pattern @ attention.v[:, key_head(index, attention.z.shape[1], attention.v.shape[1])]
    forced = {head: pattern[:, place] for place, head in enumerate(heads)}
    return show_forced(replace(attention, z=z), forced)


def _by_queries(attention: Attention, heads: list[int], beta: float | int) -> Attention:
    """Queries times `beta`: the kernel does the rest, and so does everybody who reads probabilities."""
    index = torch.tensor(heads, device=attention.z.device)
    shared = key_head(index, attention.q.shape[1], attention.k.shape[1])
    q, z, lse, sinks, mask = (
        attention.q.clone(), attention.z.clone(), attention.lse.clone(), attention.sinks, attention.mask,
    )  # fmt: skip
    q[:, heads] = q[:, heads] * beta
    if sinks is not None:
        sinks = sinks.clone()
        sinks[heads] = sinks[heads] * beta
    mask = mask[:, heads] if mask is not None and mask.shape[1] > 1 else mask
    own = None if sinks is None else sinks[heads]
    how = {"scale": attention.scale, "mask": mask, "sinks": own}
    k, v = attention.k[:, shared], attention.v[:, shared]
    z[:, heads], lse[:, heads] = attention_with_lse(q[:, heads], k, v, **how)
    return replace(attention, q=q, z=z, lse=lse, sinks=sinks)


def _pattern(attention: AttentionReading, heads: Tensor, beta: float | int) -> Float[Tensor, "batch head query key"]:
    if isinstance(attention, MaterialisedAttention | ForcedAttention):
        return sharpened(attention.pattern(heads=heads).log(), beta)
    scores = attention.scores(heads=heads)
    scores = scores.masked_fill(scores < torch.finfo(scores.dtype).min / 2, -torch.inf)  # additive masks
    sink = None
    if attention.sinks is not None:
        sink = attention.sinks[heads].to(scores)[:, None].expand(scores.shape[:-1])
    return sharpened(scores, beta, sink=sink)


def _bridge_hooks(model: HookedModel, heads: list[int], beta: float | int) -> AttentionHooks:
    """Hooks for a TransformerLens layer's values, pattern and outputs, which it may show side by side or by head."""
    seen: dict[str, Tensor] = {}

    def keep(module: Any, args: Any, v: Tensor) -> None:
        seen["v"] = by_head(v, model.n_kv_heads)

    def change_pattern(module: Any, args: Any, pattern: Tensor) -> Tensor:
        pattern = pattern.clone()
        pattern[:, heads] = sharpened(pattern[:, heads].log(), beta)
        seen["pattern"] = pattern[:, heads]
        return pattern

    def change_outputs(module: Any, args: Any, z: Tensor) -> Tensor:
        outputs = by_head(z, model.n_heads).clone()
        v = seen["v"][:, [key_head(head, model.n_heads, model.n_kv_heads) for head in heads]]
        outputs[:, heads] = seen.pop("pattern").to(v) @ v
        return outputs.transpose(1, 2).reshape(z.shape)

    return keep, change_pattern, change_outputs
