"""Run a TransformerLens bridge, and what it shows at its hooks in the axes that the rest of the library uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.hooks import Enough
from induction_lab.models.hooked_model import HookedModel, evaluating


@contextmanager
def bridge_run(model: HookedModel, *, gradients: bool = False) -> Iterator[Any]:
    """A model's TransformerLens surface, to be run once inside the context: dropout off, and no gradients by default.

    A hook that raises `Enough` ends the context. What the bridge keeps of the run is let go of afterwards.
    """
    hooked = model.hooked
    try:
        with torch.inference_mode(not gradients), evaluating(model.network), suppress(Enough):
            yield hooked
    finally:
        model.release()


def by_head(x: Float[Tensor, "batch pos *rest"], n_heads: int) -> Float[Tensor, "batch head pos d_head"]:
    """Values or outputs of a layer's heads, which bridges of some architectures show by head, of others side by side.

    A view where the tensor allows it.

    Args:
        x: `[batch, pos, head, d_head]` or `[batch, pos, head * d_head]`.
        n_heads: Query heads for outputs, key-value heads for values.
    """
    return x.flatten(2).unflatten(2, (n_heads, -1)).transpose(1, 2)
