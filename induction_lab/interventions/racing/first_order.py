"""Gradients of a metric by what heads put out, part by part, and what they say of interventions, to first order.

Source: Nanda (2023), neelnanda.io/attribution-patching.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import LayerAttention
from induction_lab.internals.editing import edit_attention
from induction_lab.interventions.ablation_methods import OUTPUT_METHODS
from induction_lab.interventions.prepared import TOKENS_A_RUN, PreparedBatch, PreparedPrompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.wiring.watching import evaluating
from induction_lab.results.heads import Head


def ablations_predicted(
    prepared: PreparedPrompts, groups: Sequence[Sequence[Head]]
) -> Callable[[PreparedBatch, int], Float[Tensor, "group prompt part"]] | None:
    """What ablating each group changes the metric by, from gradients; None where there are none to be had."""
    model = prepared.model
    if prepared.method not in OUTPUT_METHODS or not has_gradients(model):
        return None

    def predict(batch: PreparedBatch, n_parts: int) -> Tensor:
        gradients, by_layer = output_gradients(model, batch, n_parts), {}
        for layer, gradient in gradients.items():
            instead, z = batch.outputs.heads.get(layer), batch.streams.attention[layer].z
            change = -z if instead is None else instead - z
            by_layer[layer] = (gradient * change).sum((-2, -1))  # part, prompt, head
        found = [sum(by_layer[head.layer][:, :, head.head] for head in group) for group in groups]
        return torch.stack([torch.as_tensor(each).T for each in found])

    return predict


def has_gradients(model: HookedModel) -> bool:
    """Whether weights can be differentiated through: not those that were made in inference mode."""
    return not any(parameter.is_inference() for parameter in model.network.parameters())


def output_gradients(
    model: HookedModel, batch: PreparedBatch, n_parts: int
) -> dict[int, Float[Tensor, "part prompt head pos d_head"]]:
    """By layer, the gradient of each part of the metric by what each head puts out, at every position; kept."""
    if n_parts in batch.gradients:
        return batch.gradients[n_parts]
    step = max(1, TOKENS_A_RUN // 4 // batch.prompts.tokens.shape[1])  # all layers and logits are kept for it
    found = [
        _gradients_of_some(model, batch, torch.arange(start, min(start + step, len(batch.prompts))), n_parts)
        for start in range(0, len(batch.prompts), step)
    ]
    batch.gradients[n_parts] = {layer: torch.cat([some[layer] for some in found], 1) for layer in found[0]}
    return batch.gradients[n_parts]


def _gradients_of_some(model: HookedModel, batch: PreparedBatch, rows: Tensor, n_parts: int) -> dict[int, Tensor]:
    added: dict[int, Tensor] = {}

    def watched(attention: LayerAttention) -> LayerAttention:
        added[attention.layer] = torch.zeros_like(attention.z, requires_grad=True)
        return replace(attention, z=attention.z + added[attention.layer])

    # Of tensors that were made in inference mode no gradient passes, so the tokens are copied outside of it.
    with torch.inference_mode(False), torch.enable_grad(), evaluating(model.network), edit_attention(model, watched):
        hidden = model.anatomy.hidden(batch.prompts.tokens[rows].clone().to(model.device))
        values = batch.measure.parts(hidden, rows, n_parts).sum(0)
        last = len(values) - 1
        by_part = [
            torch.autograd.grad(value, list(added.values()), retain_graph=i < last, materialize_grads=True)
            for i, value in enumerate(values)
        ]
    return {
        layer: torch.stack(gradients).detach()
        for layer, gradients in zip(added, zip(*by_part, strict=True), strict=True)
    }
