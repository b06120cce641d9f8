"""What a module does to a vector as `x W + b`, proven on a probe: its own weight, or what it makes of unit vectors.

So adapters (LoRA), hooks that change what it gives, and weights kept in fewer bits are seen as the forward pass sees
them; and what rounds, normalises or bends its input is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from induction_lab.attention.scopes import outside
from induction_lab.models.wiring.watching import evaluating

_LARGE = 1024.0  # multiplies unit vectors, so that a bias takes none of the weights' digits


class LinearMap(NamedTuple):
    """`x -> x @ W.mT + b`, `W` as torch keeps it."""

    W: Float[Tensor, "out in"]
    b: Float[Tensor, " out"] | None


def linear_map(module: nn.Module, name: str, *, width: int, like: Tensor) -> LinearMap:
    """The weight and bias by which a module acts.

    Args:
        module: A linear layer, or whatever stands in its place.
        name: How to call it where it is none.
        width: Of what it reads.
        like: A tensor of the type and on the device of what it reads.

    Raises:
        ValueError: If it is not linear.
    """
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 3, width, generator=generator, dtype=torch.float32).to(like)
    with outside(), torch.inference_mode(), evaluating(module):
        try:
            given = module(probe)[0]
        except (TypeError, RuntimeError) as error:
            raise ValueError(f"{name} ({type(module).__name__}) does not run on a vector alone: {error}.") from error
        for W in _own_weights(module, width, given.shape[-1]):
            own = LinearMap(W, _bias(module))
            if _acts_as(own, probe[0], given):
                return own
        none = module(torch.zeros_like(probe[:, :1]))[0, 0]
        rows = module(_LARGE * torch.eye(width, device=like.device, dtype=like.dtype)[None])[0]
        seen = LinearMap(((rows - none) / _LARGE).mT, none if none.any() else None)
    if not _acts_as(seen, probe[0], given):
        raise ValueError(
            f"{name} ({type(module).__name__}) does not multiply what it reads by a matrix: it rounds or changes it, "
            "or a hook on it does. What reads weights cannot be had of this model; scores from activations can."
        )
    return LinearMap(seen.W.clone(), None if seen.b is None else seen.b.clone())


def _own_weights(module: nn.Module, width: int, out: int) -> list[Tensor]:
    """The module's parameter, as it lies and transposed, where that has the right shape; none of modules with parts."""
    weight: Any = getattr(module, "weight", None)
    if next(module.children(), None) is not None or type(weight) not in (Tensor, nn.Parameter):
        return []
    weight = weight.detach()
    found = [W for W in (weight, weight.mT) if weight.ndim == 2 and W.shape == (out, width)]
    return found if weight.is_floating_point() else []


def _bias(module: nn.Module) -> Tensor | None:
    bias = getattr(module, "bias", None)
    return bias.detach() if isinstance(bias, Tensor) else None


def _acts_as(found: LinearMap, probe: Tensor, given: Tensor) -> bool:
    ours = probe.to(given) @ found.W.mT.to(given)
    ours = ours if found.b is None else ours + found.b.to(given)
    tolerance = max(1e-5, 4 * torch.finfo(given.dtype).eps)
    return bool(((ours - given).abs().max() <= tolerance * given.abs().max()).item())
