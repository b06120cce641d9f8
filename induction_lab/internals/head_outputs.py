"""What heads add to the residual stream, or along given directions of it, whatever stands between them and it.

A norm of what a layer's heads write together (Gemma 2 and 3, OLMo-2) is held at the scale that it has, so that the
shares of the heads add up; a factor in its place (Granite) is taken in. Source: Elhage et al. (2021), "Handling layer
normalization", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.models.frozen_norms import head_normalised, output_norm, output_weights, refuse_gates
from induction_lab.models.head_weights import output_weight
from induction_lab.models.hooked_model import HookedModel


def heads_along(
    model: HookedModel,
    layer: int,
    z: Float[Tensor, "*place head d_head"],
    directions: Float[Tensor, "*place d_model"],
    *,
    added: Float[Tensor, "*place d_model"] | None = None,
) -> tuple[Float[Tensor, "*place head"], Float[Tensor, "*place"]]:
    """How far each head of a layer, and the bias of their output, move the stream along a direction at each place.

    No `[place, head, d_model]` is ever made.

    Args:
        model: Any that TransformerLens can hook.
        layer: Whose heads.
        z: What the output projection reads of them (`read_by_projection`).
        directions: One a place.
        added: What the layer's heads added to the stream there, if that is at hand; it tells the scale of a norm of
            their sum, which is run on what they write otherwise.

    Returns:
        The heads' shares and the bias's: their sum is `added @ direction`.
    """
    W_O, b_O = model.anatomy.projection(layer, "o")
    z, W_O = z.to(model.wide), W_O.to(model.wide)
    b_O = torch.zeros_like(W_O[0, 0]) if b_O is None else b_O.to(model.wide)
    norm, factor = output_norm(model, layer), model.anatomy.output_factor
    directions, bias = directions * factor, 0.0
    if norm is not None:
        written = z.flatten(-2) @ W_O.flatten(0, 1) + b_O
        normalised = _normalised(model, layer, written) if added is None else added.to(model.wide) / factor
        bias = directions @ norm.bias
        directions = norm.fold(directions) / norm.scale(written, normalised)[..., None]
    asked = torch.einsum("...d,nhd->...nh", directions, W_O)
    return (z * asked).sum(-1), bias + directions @ b_O


def read_by_projection(
    model: HookedModel, layer: int, z: Float[Tensor, "*place head d_head"]
) -> Float[Tensor, "*place head d_head"]:
    """What the output projection reads of what a layer's heads put out: that itself, or normalised (BitNet).

    Raises:
        ValueError: If a gate multiplies it on the way.
    """
    refuse_gates(model, layer)
    norm = model.anatomy.head_norm(layer, "z")
    if norm is None:
        return z
    with torch.inference_mode():
        return norm(z.flatten(-2)).unflatten(-1, z.shape[-2:])


def adds_linearly(model: HookedModel, layer: int) -> bool:
    """Whether what a head adds to the stream depends on its own output alone: no norm of several heads on the way."""
    return model.anatomy.norm_after(layer) is None and model.anatomy.head_norm(layer, "z") is None


def written_by_heads(
    model: HookedModel,
    layer: int,
    z: Float[Tensor, "prompt head pos d_head"],
    *,
    at: Float[Tensor, "prompt head pos d_head"],
) -> Float[Tensor, "prompt head pos d_model"]:
    """What each head of a layer adds to the stream when heads put out `z`, or how that changes when theirs does by `z`.

    A norm on the way is held at the scale that it has where heads put out `at`: a head's part is `gain * part / scale`,
    so that the parts of `at` and the biases add up to what the layer's heads add together.

    Args:
        model: Any but those with a gate.
        layer: Whose heads.
        z: What heads put out, or a change of it.
        at: What they put out in the run whose scale is held.

    Raises:
        ValueError: If a gate multiplies what heads put out, or a norm is none that can be folded.
    """
    refuse_gates(model, layer)
    factor = model.anatomy.output_factor
    if adds_linearly(model, layer):
        return z @ output_weight(model, layer) * factor
    norm, scale = output_norm(model, layer), head_normalised(model, layer, "z", at.transpose(1, 2)).scale
    by_head = (z.to(model.wide) / scale.transpose(1, 2)) @ output_weights(model, layer) * factor
    if norm is None:
        return by_head
    written = _projected(model, layer, at)
    scale = norm.scale(written, _normalised(model, layer, written))
    return norm.apply(by_head) / scale[:, None, :, None]


def written_together(
    model: HookedModel, layer: int, z: Float[Tensor, "prompt head pos d_head"]
) -> Float[Tensor, "prompt pos d_model"]:
    """What a layer's heads add to the stream when they put out `z`, every norm on the way at the scale that it has."""
    written = _projected(model, layer, z)
    written = written if model.anatomy.norm_after(layer) is None else _normalised(model, layer, written)
    return written * model.anatomy.output_factor


def _projected(
    model: HookedModel, layer: int, z: Float[Tensor, "prompt head pos d_head"]
) -> Float[Tensor, "prompt pos d_model"]:
    """What the output projection makes of it."""
    W_O, b_O = model.anatomy.projection(layer, "o")
    read = read_by_projection(model, layer, z.transpose(1, 2)).to(model.wide)
    written = read.flatten(-2) @ W_O.to(model.wide).flatten(0, 1)
    return written if b_O is None else written + b_O.to(model.wide)


def _normalised(
    model: HookedModel, layer: int, written: Float[Tensor, "*place d_model"]
) -> Float[Tensor, "*place d_model"]:
    norm = model.anatomy.norm_after(layer)
    assert norm is not None
    with torch.inference_mode():
        return norm(written.to(model.dtype)).to(model.wide)
