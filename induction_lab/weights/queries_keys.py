"""Queries and keys of given vectors as the model makes them, and where rotary positions draw a head."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.grouped import to_query_heads
from induction_lab.attention.hooks import Enough
from induction_lab.internals.reading import attention_layers, read_attention
from induction_lab.models.frozen_norms import as_wide
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.normalised_rows import NormalisedMeans
from induction_lab.weights.rotary import relative_rotations
from induction_lab.weights.stream_sources import Source, stream_rows

MOST_ROWS = 2**16  # that a mean is taken over, where they go by a name


def queries_and_keys(
    model: HookedModel,
    layer: int,
    query_rows: Float[Tensor, "query d_model"],
    key_rows: Float[Tensor, "key d_model"],
) -> tuple[Float[Tensor, "head query d_head"], Float[Tensor, "kv_head key d_head"]]:
    """What a layer's heads would make of these vectors, were they the residual stream, before any rotation.

    Norms at each row's own scale, biases in, queries multiplied by the attention scale: their products are scores.

    Raises:
        ValueError: If the scores are not products of queries and keys alone (ALiBi, smeared keys), or the
            architecture does not go through the attention interface of transformers.
    """
    q, k = read_from_stream(model, layer, "q", query_rows), read_from_stream(model, layer, "k", key_rows)
    return q * _scales(model, [layer])[layer], k


def read_from_stream(
    model: HookedModel,
    layer: int,
    component: Literal["q", "k", "v"],
    rows: Float[Tensor, "row d_model"],
    *,
    behind_norm: Float[Tensor, "row d_model"] | float = 0.0,
) -> Float[Tensor, "head row d_head"]:
    """The queries, keys or values that a layer makes of these vectors, before any rotation, and of nothing else.

    The model's own norm, weights, biases and norm of queries or keys; fewer heads for keys and values of
    grouped-query models. `behind_norm` is added where the norm has been run: positions of some shortformers.
    """
    latents = model.anatomy.latents(layer)
    if latents is not None:
        read = model.anatomy.norm_before(layer)(rows[None].to(model.dtype))[0] + behind_norm
        return getattr(latents.given(read.detach()), component).movedim(0, 1).to(model.wide)
    W, bias = model.anatomy.projection(layer, component)
    with torch.no_grad():
        read = model.anatomy.norm_before(layer)(rows[None].to(model.dtype))[0] + behind_norm
        heads = read.to(W.dtype) @ W
        heads = heads if bias is None else heads + bias[:, None]
        return _normalised(model.anatomy.head_norm(layer, component), heads).to(model.wide)


@takes_names
def positional_preference(
    model: HookedModel,
    offsets: Sequence[int],
    *,
    source: Source | Float[Tensor, "row d_model"] = "embedding",
    folded: FoldedWeights | None = None,
) -> Float[Tensor, "offset layer head"]:
    """The mean attention score over all pairs of tokens at each offset, of every head of a rotary model: exact.

    What is left when the tokens are averaged away: a head that looks one token back peaks at offset 1 for any tokens.
    In nats before the softmax; only differences between offsets matter. Layer 0 sees exactly these rows, later layers
    see others. Of a vocabulary of more than 65,536 tokens the mean is over so many random ones, unless their rows are
    given.

    Raises:
        ValueError: If the model is not rotary, or an offset lies outside its context.
    """
    rows = source if isinstance(source, Tensor) else some_rows(FoldedWeights.of(model, folded), source)
    return preference_and_parts(model, offsets, rows, MOST_ROWS)[0]


def some_rows(folded: FoldedWeights, source: Source) -> Float[Tensor, "row d_model"]:
    """The rows of a source; of more than `MOST_ROWS` so many random ones."""
    rows = folded.rows(source)
    if len(rows) <= MOST_ROWS:
        return rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:MOST_ROWS]
    return rows[drawn.to(rows.device)]


def preference_and_parts(
    model: HookedModel, offsets: Sequence[int], rows: Float[Tensor, "row d_model"], n_each: int
) -> Float[Tensor, "whole_and_parts offset layer head"]:
    """`positional_preference` of all rows, then that of the first `n_each` of them, the next, and so on.

    Raises:
        ValueError: If the model is not rotary, or an offset lies outside its context.
    """
    if not model.anatomy.is_rotary:
        raise ValueError(
            f"{model.name} is not rotary: what it prefers at a distance lies in its position vectors. "
            "See qk_circuit(model, head, query='positions', key='positions')."
        )
    R, means = relative_rotations(model, offsets), NormalisedMeans(model, rows, n_each)
    weights = torch.tensor([len(part) / len(rows) for part in means.parts], dtype=rows.dtype, device=rows.device)
    scales, found = _scales(model, range(model.n_layers)), []
    for layer in range(model.n_layers):
        q, k = _mean_queries_and_keys(model, layer, means)
        q, k = q * scales[layer], to_query_heads(k, model.n_heads, dim=1)
        q, k = (torch.cat([torch.einsum("p,phi->hi", weights, x)[None], x]) for x in (q, k))
        q, k = as_wide(model, q, k)
        found.append(torch.stack([torch.einsum("hi,oij,hj->oh", a, R[layer], b) for a, b in zip(q, k, strict=True)]))
    return torch.stack(found, 2).cpu()


def _mean_queries_and_keys(
    model: HookedModel, layer: int, means: NormalisedMeans
) -> tuple[Float[Tensor, "part head d_head"], Float[Tensor, "part kv_head d_head"]]:
    """The mean query and key of each part: its mean is projected, where all behind the norm is linear."""
    anatomy = model.anatomy
    if anatomy.latents(layer) is not None or any(anatomy.head_norm(layer, part) is not None for part in ("q", "k")):

        def read(which: Literal["q", "k"]) -> Tensor:
            return torch.stack([read_from_stream(model, layer, which, part).mean(1) for part in means.parts])

    else:
        mean = means.of(layer)

        def read(which: Literal["q", "k"]) -> Tensor:
            W, bias = anatomy.projection(layer, which)
            found = torch.einsum("pm,hmd->phd", mean.to(W.device), W.to(model.wide))
            return found if bias is None else found + bias.to(model.wide)

    with torch.no_grad():
        return read("q"), read("k")


def _scales(model: HookedModel, layers: Iterable[int]) -> dict[int, float]:
    """By what each layer multiplies the products, wherever it does so: seen on one token, on which all must agree."""
    if model.anatomy.smeared_keys:
        raise ValueError("Smeared keys mix two positions, so no single row has a key.")
    if not model.anatomy.goes_through_interface:
        raise ValueError(f"{type(model.network).__name__} adds positions to its scores or scales them out of sight.")
    token, wanted = torch.full((1, 2), model.bos_token_id), set(layers)
    absent = wanted - set(attention_layers(model))
    if absent:
        raise ValueError(f"Layer {min(absent)} of {model.name} has no heads of its own.")
    rows: dict[int, Tensor] = {}
    seen: dict[int, Attention] = {}

    def enter(layer: int, stream: Tensor) -> None:
        if layer in wanted:
            rows[layer] = stream[0, :1].clone()

    def read(attention: AttentionReading) -> None:
        if attention.layer in wanted:
            assert isinstance(attention, Attention)
            seen[attention.layer] = attention
        if attention.layer == max(wanted):
            raise Enough

    read_attention(model, token, read, enter=enter)
    return {layer: _scale(model, layer, rows[layer], seen[layer]) for layer in sorted(wanted)}


def _scale(model: HookedModel, layer: int, row: Float[Tensor, "1 d_model"], seen: Attention) -> float:
    """The scale of one layer, given what entered it, and what it made of that."""
    position = stream_rows(model, "positions")[:1] if model.anatomy.positions_beside_stream else 0.0
    before, behind = (0.0, position) if model.anatomy.positions_after_norm else (position, 0.0)
    expected = (
        read_from_stream(model, layer, "q", row + before, behind_norm=behind),
        read_from_stream(model, layer, "k", row + before, behind_norm=behind),
    )
    scale = seen.scale
    if not (seen.q.isfinite().all() and seen.k.isfinite().all()):
        raise ValueError(f"{model.name} has queries or keys in layer {layer} that are not finite.")
    for actual, ours in zip((seen.q[0, :, :1], seen.k[0, :, :1]), expected, strict=True):  # not turned
        factor = float((actual * ours).sum() / ours.square().sum())
        if not torch.allclose(actual.to(ours), factor * ours, atol=1e-2 * float(actual.abs().max())):
            raise ValueError(f"{model.name} makes its queries and keys in a way that is not known here.")
        scale *= factor
    return scale


def _normalised(norm: Any | None, heads: Float[Tensor, "head row d_head"]) -> Float[Tensor, "head row d_head"]:
    if norm is None:
        return heads
    width = next((parameter.numel() for parameter in norm.parameters()), heads.shape[-1])
    if width == heads.shape[-1]:
        return norm(heads)
    return norm(heads.transpose(0, 1).flatten(1)).unflatten(1, (heads.shape[0], -1)).transpose(0, 1)
