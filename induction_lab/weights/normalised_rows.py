"""Means of rows as the norm before each layer leaves them, where many layers read the same rows.

The norms of a model differ by gain and bias, hardly ever by what they divide a row by. That is worked out once, and
looked at again in every layer on the rows where a difference would show.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.models.frozen_norms import attention_norm
from induction_lab.models.hooked_model import HookedModel

FEW = 64  # rows that are looked at in every layer: the smallest, where epsilon counts most
_TOLERANCE = 1e-5  # of what they are divided by


class NormalisedMeans:
    """Means over parts of some rows.

    Args:
        model: Any whose norms can be run by themselves.
        rows: What would stand in the stream.
        n_each: How many of them make a part.
    """

    def __init__(self, model: HookedModel, rows: Float[Tensor, "row d_model"], n_each: int) -> None:
        """Nothing is run yet."""
        self.model, self.parts = model, rows.split(n_each)
        self.few = rows[rows.norm(dim=-1).topk(min(FEW, len(rows)), largest=False).indices]
        self.known: tuple[Tensor, Tensor] | None = None  # what the few are divided by, and each part's mean

    def of(self, layer: int) -> Float[Tensor, "part d_model"]:
        """`norm(rows).mean(0)` of each part, by this layer's norm."""
        few = self._normalised(layer, self.few)
        if self.model.dtype not in (torch.float32, torch.float64) or few.device != self.few.device:
            return self._run(layer)  # which rounds every row, or stands on another GPU
        try:
            norm = attention_norm(self.model, layer)
        except ValueError:  # none that is linear at a held scale
            return self._run(layer)
        scale = norm.scale(self.few, few)
        if self.known is None:
            divided = [x / norm.scale(x, self._normalised(layer, x))[:, None] for x in self.parts]
            self.known = scale, torch.stack([x.mean(0) for x in divided])
        if not torch.allclose(scale, self.known[0], rtol=_TOLERANCE, atol=0.0):
            return self._run(layer)
        return norm.apply(self.known[1]) + norm.bias

    def _run(self, layer: int) -> Float[Tensor, "part d_model"]:
        return torch.stack([self._normalised(layer, x).mean(0) for x in self.parts])

    def _normalised(self, layer: int, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
        with torch.no_grad():
            return self.model.anatomy.norm_before(layer)(rows[None].to(self.model.dtype))[0].to(self.model.wide)
