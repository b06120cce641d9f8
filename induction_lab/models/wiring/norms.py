"""A normalisation at frozen scale, found by what it does to a few vectors, whatever it is called.

With its scale held fixed a LayerNorm or RMSNorm is linear: it removes the mean (LayerNorm), and multiplies by its gain.
Source: Elhage et al. (2021), "Handling layer normalization", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FrozenNorm(NamedTuple):
    """A normalisation at frozen scale: `x -> gain * (x - mean(x) if centred else x) / scale + bias`."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool

    def fold(self, readers: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Directions `r'` with `x @ r' = (norm(x) * scale) @ r`, bias left out."""
        folded = readers * self.gain
        return folded - folded.mean(-1, keepdim=True) if self.centred else folded

    def apply(self, x: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """`norm(x) * scale`, bias left out."""
        return (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain

    def scale(
        self, x: Float[Tensor, "*batch d_model"], normalised: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch"]:
        """By what each row of `x` was divided to give `normalised`; 1 where nothing is done or there is nothing."""
        inner = self.apply(x)
        size = inner.square().sum(-1)
        return torch.where(size == 0, 1.0, size / (inner * (normalised - self.bias)).sum(-1))


def frozen_norm(norm: nn.Module | None, d_model: int, *, like: Tensor) -> FrozenNorm:
    """Find a normalisation's gain, bias and centring by what it does to a few vectors, whatever it is called.

    An alternating vector of +1 and -1 has mean 0 and root mean square 1, so a norm only multiplies it by its gain;
    LayerNorm sends a constant vector to its bias.

    Raises:
        ValueError: If it does neither what LayerNorm nor what RMSNorm does.
    """
    zeros = torch.zeros(d_model, device=like.device, dtype=like.dtype)
    if norm is None or isinstance(norm, nn.Identity):
        zeros = zeros.to(torch.promote_types(like.dtype, torch.float32))
        return FrozenNorm(zeros + 1, zeros, False)
    signs = (1 - 2 * (torch.arange(d_model, device=like.device) % 2)).to(like.dtype)
    signs = signs - signs.mean() if d_model % 2 else signs
    large = 1e3  # so that epsilon vanishes
    with torch.inference_mode():
        try:
            bias = norm(zeros)
        except TypeError as error:
            raise ValueError(f"{type(norm).__name__} reads more than a vector, so it cannot be folded.") from error
        gain = (norm(large * signs) - norm(-large * signs)) / 2 / signs * signs.square().mean().sqrt()
        constant = norm(large * (zeros + 1)) - bias
    if not gain.isfinite().all():
        raise ValueError(f"{type(norm).__name__} has weights that are not finite: has the training diverged?")
    tolerance = 1e-2 * float(gain.abs().max())
    centred = bool(constant.abs().max() < tolerance)
    if not centred and not torch.allclose(constant, gain, atol=tolerance):
        raise ValueError(f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, so it cannot be folded.")
    wide = torch.promote_types(like.dtype, torch.float32)
    return FrozenNorm(gain.clone().to(wide), bias.clone().to(wide), centred)
