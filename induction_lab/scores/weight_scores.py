"""The scores that are read off the weights alone. What else weights say: `induction_lab.weights`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.models.frozen_norms import folded_weights
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_readers
from induction_lab.scores.score import ELHAGE, WeightScore
from induction_lab.weights.head_statistics import ov_copying
from induction_lab.weights.stream_sources import token_vectors


class OVCopying(WeightScore):
    """How far tokens on the whole raise themselves through a head's output circuit; see `ov_copying`."""

    name, title, source, low, high, chance = "ov_copying", "OV copying", ELHAGE, -1.0, 1.0, 0.0
    meaning = (
        "From the weights alone: Re(Σ λ) / Σ |λ| over the eigenvalues λ of the head's output circuit. 1 copies, −1 "
        "suppresses what it attends to, about 0 is random."
    )

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_circuits` refuses."""
        return why_no_circuits(model)

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """The positive share of each output circuit's eigenvalues."""
        return ov_copying(model)


def why_no_circuits(model: HookedModel) -> str | None:
    """Why heads' output circuits cannot be had, by their weights or by the way from there to the logits; None if."""
    try:
        for layer in set(model.anatomy.representatives) & set(model.anatomy.attending):
            folded_weights(model, layer) if model.anatomy.latents(layer) else head_weights(model, layer)
    except ValueError as error:
        return str(error)
    return why_no_readers(model)


def why_no_token_circuits(model: HookedModel) -> str | None:
    """Why output circuits cannot be had from what stands at single tokens (`token_vectors`) to logits; None if."""
    reason = why_no_circuits(model)
    try:
        token_vectors(model, 1, torch.tensor([model.bos_token_id]))
    except ValueError as error:
        return reason or str(error)
    return reason
