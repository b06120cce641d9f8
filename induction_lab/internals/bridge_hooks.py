"""What TransformerLens bridges show at their hooks, in the axes that the rest of the library uses."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def by_head(x: Float[Tensor, "batch pos *rest"], n_heads: int) -> Float[Tensor, "batch head pos d_head"]:
    """Values or outputs of a layer's heads, which bridges of some architectures show by head, of others side by side.

    A view where the tensor allows it.

    Args:
        x: `[batch, pos, head, d_head]` or `[batch, pos, head * d_head]`.
        n_heads: Query heads for outputs, key-value heads for values.
    """
    return x.flatten(2).unflatten(2, (n_heads, -1)).transpose(1, 2)
