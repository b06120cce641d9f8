"""Run a TransformerLens bridge, and what it shows at its hooks in the axes that the rest of the library uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.hooks import Enough
from induction_lab.attention.scopes import Scope
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.wiring.watching import evaluating

AttentionHooks = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]  # of values, pattern and outputs


@contextmanager
def bridge_run(model: HookedModel, *, gradients: bool = False) -> Iterator[Any]:
    """A model's TransformerLens surface, to be run once inside the context: dropout off, and no gradients by default.

    A hook that raises `Enough` ends the context. What the bridge keeps of the run is let go of afterwards.
    """
    hooked = model.hooked
    with torch.inference_mode(not gradients), evaluating(model.network), model.anatomy.reading_on():
        try:
            with suppress(Enough):
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


@contextmanager
def hooking_attention(bridge: Any, by_layer: Mapping[int, AttentionHooks]) -> Iterator[None]:
    """Forward hooks on the values, patterns and outputs of a bridge's layers, inside the context.

    A bridge that does not show these of one of the layers refuses to run there, for it would run unchanged.
    """

    def refuse(module: Any, args: Any) -> None:
        raise ValueError(
            "TransformerLens does not show values, patterns and outputs of this architecture, so its surface cannot be "
            "changed. Run `model.network`, which is, instead of `model.hooked`."
        )

    with Scope() as scope:
        for layer, hooks in by_layer.items():
            attention = getattr(bridge.blocks[layer], "attn", None)
            points = [getattr(attention, f"hook_{name}", None) for name in ("v", "pattern", "z")]
            if None in points:
                scope.before(bridge, refuse)
                break
            for point, hook in zip(points, hooks, strict=True):
                scope.after(point, hook)  # type: ignore[arg-type]
        yield
