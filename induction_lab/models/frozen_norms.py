"""Normalisations at frozen scale, folded into the weights that read from them or write into them.

With its scale held fixed a LayerNorm or RMSNorm is linear: it removes the mean (LayerNorm), and multiplies by its gain.
Both are found by what a norm does to a few vectors, so Gemma's `1 + weight` and every other spelling come out right.
Source: Elhage et al. (2021), "Handling layer normalization", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from induction_lab.models.anatomy import Component, HeadWeights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.on_disk.offloading import let_go
from induction_lab.models.wiring.linear_maps import linear_map
from induction_lab.models.wiring.norms import FrozenNorm, frozen_norm


def attention_norm(model: HookedModel, layer: int) -> FrozenNorm:
    """The normalisation before a layer's queries, keys and values; without one, the identity."""
    return frozen_norm(model.anatomy.norm_before(layer), model.d_model, like=model.anatomy.like)


def attention_scale(
    model: HookedModel, layer: int, stream: Float[Tensor, "*batch d_model"]
) -> Float[Tensor, "*batch 1"]:
    """By what the normalisation before a layer's heads divides each vector of the stream: held, all is linear."""
    with torch.inference_mode():
        normalised = model.anatomy.norm_before(layer)(stream).to(model.wide)
        return attention_norm(model, layer).scale(stream.to(model.wide), normalised)[..., None]


def final_norm(model: HookedModel) -> FrozenNorm:
    """The normalisation before the unembedding; without one, the identity."""
    return frozen_norm(model.final_norm, model.d_model, like=model.anatomy.like)


def output_norm(model: HookedModel, layer: int) -> FrozenNorm | None:
    """The normalisation of what a layer's heads write together, before it enters the stream; None where none is."""
    norm = model.anatomy.norm_after(layer)
    return None if norm is None else frozen_norm(norm, model.d_model, like=model.anatomy.like)


def stream_norms(model: HookedModel, layer: int) -> list[FrozenNorm]:
    """The normalisations of the whole stream once a layer's heads are added to it (GPT-1, BERT); elsewhere none."""
    return [frozen_norm(norm, model.d_model, like=model.anatomy.like) for norm in model.anatomy.stream_norms(layer)]


def positions_in_stream(model: HookedModel, rows: Float[Tensor, "pos width"]) -> Float[Tensor, "pos d_model"]:
    """Position vectors as they enter the stream: through the norm and the projection that embeddings share with them.

    BERT normalises the sum of both, and ELECTRA projects that; at frozen scale, biases left out. Elsewhere as they are.

    Raises:
        ValueError: If they do not enter the stream in such a way.
    """
    for module in model.anatomy.behind_positions():
        if all(weight.ndim < 2 for weight in module.parameters()):
            rows = frozen_norm(module, rows.shape[-1], like=model.anatomy.like).apply(rows)
        else:
            name = f"{model.name}: what positions go through"
            rows = rows @ linear_map(module, name, width=rows.shape[-1], like=model.anatomy.like).W.mT.to(rows)
    return rows


def unembedding_readers(model: HookedModel) -> Float[Tensor, "d_vocab d_model"]:
    """`W_U` as rows, final norm and logit scale folded in: `x @ row` is a token's logit at frozen scale, less biases.

    Raises:
        ValueError: If the stream is projected before the unembedding.
    """
    refuse_projected(model)
    readers = final_norm(model).fold(model.unembedding.to(model.wide))
    return readers if model.logit_scale == 1 else readers * model.logit_scale


def refuse_projected(model: HookedModel) -> None:
    """What is written into the stream is read by the unembedding only where nothing but a norm stands between them.

    Raises:
        ValueError: If the stream is projected, or goes through another layer (BERT), before the unembedding.
    """
    if model.anatomy.projects_stream:
        raise ValueError(f"{model.name} projects its stream before the unembedding, so logits are not x W_U.")


def folded_weights(model: HookedModel, layer: int) -> HeadWeights:
    """A layer's weights as the residual stream meets them: every norm on the way folded in, biases left out.

    Those are the norm before the heads (`x @ W_Q` stands for `norm(x) * scale @ W_Q`), a norm of queries or keys (Qwen
    3, Gemma 3, OLMo-2), one of what the heads put out (BitNet), and a norm of the heads' sum before it is added to the
    stream (Gemma 2 and 3, OLMo-2) or a factor in its place (Granite). Where the whole stream is normalised behind the
    sum (GPT-1, BERT), `W_O` is what arrives in the stream that the next layer reads: see `weights.folded.FoldedWeights`
    for how it goes on from there. Norms of latents that keys and values are made of (DeepSeek) are held at the scale of
    a stream of independent directions (`models.wiring.latents`). Heads that are narrower than others of the model, or
    make narrower values than keys, have zeros behind their dimensions.

    Raises:
        ValueError: If the weights by head cannot be had, or a norm is none that can be folded.
    """
    into, out = attention_norm(model, layer), output_norm(model, layer)
    latents = model.anatomy.latents(layer)
    if latents is None:
        W_Q, W_K, W_V = (model.anatomy.projection(layer, component)[0].to(model.wide) for component in ("q", "k", "v"))
        W_Q, W_K, W_V = (into.fold(weights.mT).mT for weights in (W_Q, W_K, W_V))
        W_Q, W_K = _fold_head_norm(model, layer, "q", W_Q), _fold_head_norm(model, layer, "k", W_K)
        W_V = _fold_head_norm(model, layer, "v", W_V)
    else:
        directions = into.apply(torch.eye(model.d_model, device=model.device, dtype=model.wide)).to(model.dtype)
        W_Q, W_K, W_V = (heads.to(model.wide).movedim(0, 1) for heads in latents.linear(directions))
    W_O = model.anatomy.output_map(layer)[0].to(model.wide)
    let_go(model.network)
    W_O = _fold_head_norm(model, layer, "z", W_O.mT).mT
    W_O = (W_O if out is None else out.apply(W_O)) * model.anatomy.output_factor
    for norm in stream_norms(model, layer):
        W_O = norm.apply(W_O)
    W_Q, W_K, W_V, written = as_wide(model, W_Q, W_K, W_V, W_O.mT)
    return HeadWeights(W_Q, W_K, W_V, written.mT)


class NormalisedHeads(NamedTuple):
    """What a norm of heads gives, and by what it divides each head's vector."""

    heads: Float[Tensor, "*place head d_head"]
    scale: Float[Tensor, "*place #head 1"]


def head_normalised(
    model: HookedModel, layer: int, component: Component, heads: Float[Tensor, "*place head d_head"]
) -> NormalisedHeads:
    """Run a layer's norm of queries, keys or of what heads put out (`z`); without one nothing happens, at scale 1.

    Held at the scale that it has here, the norm is linear; its gain is in `folded_weights` and `output_weights`.

    Args:
        model: Any whose weights by head can be had.
        layer: Whose norm.
        component: Of what.
        heads: What the norm reads, every head of one place: some norms see them together.

    Raises:
        ValueError: If the norm is none that can be folded.
    """
    if model.anatomy.head_norm(layer, component) is None:
        return NormalisedHeads(heads, torch.ones_like(heads[..., :1]))
    norm, frozen, together = _head_norm(model, layer, component, *heads.shape[-2:], like=heads)
    x = heads.flatten(-2) if together else heads
    with torch.inference_mode():
        given = norm(x.to(model.dtype)).to(model.wide)
        scale = frozen.scale(x.to(model.wide), given)[..., None]
    return NormalisedHeads(given.view_as(heads), scale[..., None] if together else scale)


def as_wide(model: HookedModel, *heads: Float[Tensor, "... _"]) -> list[Float[Tensor, "... _"]]:
    """Vectors of heads as wide as the model's widest, zeros behind them: what is made of all heads has one width."""
    width = model.anatomy.head_width
    return [torch.nn.functional.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x for x in heads]


def _fold_head_norm(
    model: HookedModel, layer: int, component: Component, weights: Float[Tensor, "head d_model d_head"]
) -> Float[Tensor, "head d_model d_head"]:
    if model.anatomy.head_norm(layer, component) is None:
        return weights
    n_heads, _, d_head = weights.shape
    _, frozen, together = _head_norm(model, layer, component, n_heads, d_head, like=weights)
    return weights * frozen.gain.view(n_heads, 1, d_head) if together else frozen.apply(weights)


def _head_norm(
    model: HookedModel, layer: int, component: Component, n_heads: int, d_head: int, *, like: Tensor
) -> tuple[nn.Module, FrozenNorm, bool]:
    """A norm of heads, the same frozen, and whether it reads all heads of a place together."""
    norm = model.anatomy.head_norm(layer, component)
    assert norm is not None
    weight = next(norm.parameters(), None)
    width = d_head if weight is None else weight.numel()
    if width == d_head:
        return norm, frozen_norm(norm, d_head, like=like), False
    if width == n_heads * d_head and weight is not None and weight.ndim == 1:
        frozen = frozen_norm(norm, width, like=like)
        if not frozen.centred:
            return norm, frozen, True
    raise ValueError(
        f"{component}_norm of {model.name} ({type(norm).__name__}) is none that can be folded into single heads."
    )


def output_weights(model: HookedModel, layer: int) -> Float[Tensor, "head d_head d_model"]:
    """`W_O`, the gain of a norm between what heads put out and their projection folded in (BitNet); its scale is not.

    Raises:
        ValueError: If the weights by head cannot be had, or a gate stands there.
    """
    refuse_gates(model, layer)
    return _fold_head_norm(model, layer, "z", model.anatomy.projection(layer, "o")[0].to(model.wide).mT).mT


def refuse_gates(model: HookedModel, layer: int = 0) -> None:
    """What heads put out is what their projection reads only where no gate multiplies it on the way.

    Raises:
        ValueError: If there is a gate.
    """
    if model.anatomy.is_gated(layer):
        raise ValueError(
            f"{model.name} multiplies what its heads put out by a gate, which changes from token to token, before it "
            "is projected: what single heads write cannot be told from their outputs. attribute_logits follows it."
        )


def refuse_changed_outputs(model: HookedModel, score: str) -> None:
    """Logits from a head's output assume that `z W_O` is what enters the residual stream.

    Raises:
        ValueError: If this architecture normalises, rescales or projects it on the way.
    """
    if model.anatomy.norm_after(model.anatomy.attending[0]) is not None:
        raise ValueError(f"{score} is not defined where attention outputs are normalised before they are added")
    if not model.anatomy.writes_unchanged:
        raise ValueError(f"{score} is not defined where attention outputs are rescaled before they are added")
    if model.anatomy.projects_stream:
        raise ValueError(f"{score} is not defined where the stream is projected before the unembedding")
    final_norm(model)
