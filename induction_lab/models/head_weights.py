"""A layer's attention weights by head, in row convention: `x @ W`."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from induction_lab.models.hooked_model import HookedModel


class HeadWeights(NamedTuple):
    """One layer's heads; in grouped-query models several query heads read one key-value head (`attention.grouped`)."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


def head_weights(model: HookedModel, layer: int) -> HeadWeights:
    """One layer's weights; `hooked.W_Q` would stack those of all layers anew whenever it is asked for.

    Raises:
        ValueError: If TransformerLens cannot give this architecture's weights by head.
    """
    attention = model.hooked.blocks[layer].attn
    return HeadWeights(*(getattr(attention, name).detach() for name in HeadWeights._fields))
