"""Activations off a network's own modules, for architectures that no TransformerLens bridge shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn

from induction_lab.attention.hooks import Enough
from induction_lab.models.hooked_model import HookedModel

MODULE_NAMES = ("q", "k", "resid_pre", "resid_post")


def read_modules(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    wanted: Iterable[tuple[str, int]],
    keep: Callable[[tuple[str, int], Tensor], None],
    *,
    logits: bool,
) -> Tensor | None:
    """Run a network once and hand over queries, keys and streams of layers as they pass.

    Args:
        model: A model of transformers.
        tokens: Prompts of one length.
        wanted: Names from `MODULE_NAMES` and layers.
        keep: Called with each: queries and keys before rotation and norms `[batch, pos, head, d_head]`, the stream
            before and after a block `[batch, pos, d_model]`.
        logits: Whether they are wanted; else nothing above the last wanted layer runs.

    Returns:
        The logits, if wanted.

    Raises:
        ValueError: If queries or keys of a layer are not made by one projection.
    """
    wanted = list(wanted)
    last = max((layer for _, layer in wanted), default=-1)
    with ExitStack() as stack, suppress(Enough):
        for name, layer in wanted:
            module = model.anatomy.blocks[layer]
            if name in ("q", "k"):
                module, by_head = model.anatomy.maker(layer, name)  # type: ignore[arg-type]
            else:
                by_head = _itself
            hook = _hook((name, layer), keep, by_head)
            register = module.register_forward_pre_hook if name == "resid_pre" else module.register_forward_hook
            stack.callback(register(hook, with_kwargs=True).remove)
        if logits:
            return model.logits(tokens)
        if wanted:
            stack.callback(model.anatomy.blocks[last].register_forward_hook(_stop).remove)
            model.hidden(tokens)
    return None


def _itself(x: Tensor) -> Tensor:
    return x


def _stop(*_: Any) -> None:
    raise Enough


def _hook(
    key: tuple[str, int], keep: Callable[[tuple[str, int], Tensor], None], by_head: Callable[[Tensor], Tensor]
) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        x = (args[0] if args else kwargs["hidden_states"]) if key[0] == "resid_pre" else output
        keep(key, by_head(x[0] if isinstance(x, tuple) else x))

    return hook
