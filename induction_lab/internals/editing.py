"""Change what a model's heads put out while it runs, and start it from any layer.

An edit sees each layer's attention and returns what goes on in its place; it works on the network at full speed, with
the engine's exact numbers and per query head in grouped-query models. Nothing below the first edited layer need be
computed again: `ResidualStreams` stores the residual stream before every layer and lets runs begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from induction_lab.attention.exact import HeadOutputs, LayerAttention
from induction_lab.attention.hooks import Edit, editing, has_edits
from induction_lab.attention.scopes import Scope, said, uncompiled
from induction_lab.internals.reading import attention_layers, on_engine
from induction_lab.models.hooked_model import HookedModel

FIRST_LAYER = "first layer"  # what a scope says of a network of which it runs no more


@contextmanager
def edit_attention(model: HookedModel, edit: Edit) -> Iterator[None]:
    """Let `edit` change what every layer's heads of `model.network` pass on, inside the context.

    It is given an `Attention` (a `MaterialisedAttention` where somebody hooks the pattern of a small model), or only
    `HeadOutputs` where an architecture attends out of sight, and returns what goes on. It holds in the thread or task
    that opened the context (`attention.scopes`).

    Raises:
        ValueError: Inside, when the network has run and nothing was edited.
    """
    seen: set[int] = set()

    def noted(attention: LayerAttention) -> LayerAttention:
        seen.add(attention.layer)
        return edit(attention)

    def check(*_: Any) -> None:
        first = max(said((FIRST_LAYER, model.network)), default=0)
        if not seen and any(layer >= first for layer in model.anatomy.attending):
            raise ValueError(
                f"{model.name} ran without being edited, so the run was not what was asked for: is the network "
                "replaced by compiled, exported or copied code?"
            )

    # Asked outside: a bridge may have to be built for it, which runs the network.
    layers = [] if model.anatomy.goes_through_interface else attention_layers(model)
    with Scope() as scope, uncompiled():
        scope.before(model.anatomy.body, lambda *_: seen.clear())
        scope.after(model.anatomy.body, check)
        if model.anatomy.goes_through_interface:
            scope.enter_context(editing(model.anatomy.attention_modules, noted))
            scope.enter_context(on_engine(model))
        else:
            for layer in layers:
                scope.before(model.anatomy.output_projection(layer), _before_projection(model, layer, noted))
        yield


def is_edited(model: HookedModel) -> bool:
    """Whether the network's attention is being edited now."""
    return any(has_edits(module) for module in model.network.modules())


def unhooked(model: HookedModel) -> HookedModel:
    """The same parameters as a model of its own, which nobody has hooked or edited."""
    network = model.anatomy.copy_without_hooks()
    return HookedModel(network, model.tokenizer, name=model.name, revision=model.revision)


def _before_projection(model: HookedModel, layer: int, edit: Edit) -> Callable[..., Any]:
    def change(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].unflatten(-1, (model.n_heads, -1)).transpose(1, 2)
        return (edit(HeadOutputs(layer, z)).z.transpose(1, 2).flatten(2), *args[1:])

    return change
