"""The scores that are read off the weights alone. What else weights say: `induction_lab.weights`."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_readers
from induction_lab.scores.score import ELHAGE, WeightScore
from induction_lab.weights.head_statistics import ov_copying


class OVCopying(WeightScore):
    """How far tokens on the whole raise themselves through a head's output circuit; see `ov_copying`."""

    name, title, source, low, high, chance = "ov_copying", "OV copying", ELHAGE, -1.0, 1.0, 0.0
    meaning = (
        "From the weights alone: Re(Σ λ) / Σ |λ| over the eigenvalues λ of the head's output circuit. 1 copies, −1 "
        "suppresses what it attends to, about 0 is random."
    )

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_readers` refuses, and layers whose weights by head cannot be had."""
        try:
            for layer in model.anatomy.representatives:
                head_weights(model, layer)
        except ValueError as error:
            return str(error)
        return why_no_readers(model)

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """The positive share of each output circuit's eigenvalues."""
        return ov_copying(model)
