"""Change what a model's heads put out while it runs, and start it from any layer.

An edit sees each layer's attention and returns what goes on in its place; it works on the network at full speed, with
the engine's exact numbers and per query head in grouped-query models. Nothing below the first edited layer need be
computed again: `Streams` stores the residual stream before every layer and lets runs begin with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention import Edit, HeadOutputs, MaterialisedAttention, editing, has_edits
from induction_lab.attention_only import AttentionLayer, AttentionOnlyTransformer
from induction_lab.clamping import clamp_for_good
from induction_lab.models import HookedModel
from induction_lab.reading import goes_through_interface, on_engine


@contextmanager
def edit_attention(model: HookedModel, edit: Edit) -> Iterator[None]:
    """Let `edit` change what every layer's heads of `model.network` pass on, inside the context.

    It is given an `Attention` (a `MaterialisedAttention` where somebody hooks the pattern of a small model), or only
    `HeadOutputs` where an architecture attends out of sight, and returns what goes on.
    """
    with ExitStack() as stack:
        if isinstance(model.network, AttentionOnlyTransformer):
            layers = [module for module in model.network.modules() if isinstance(module, AttentionLayer)]
            stack.enter_context(editing(layers, edit))
        elif goes_through_interface(model):
            layers = [module for module in model.network.modules() if hasattr(module, "layer_idx")]
            stack.enter_context(editing(layers, edit))
            stack.enter_context(on_engine(model))
        else:
            for layer in range(model.n_layers):
                projection = output_projection(model, layer)
                handle = projection.register_forward_pre_hook(_before_projection(model, layer, edit))
                stack.callback(handle.remove)
        yield


def is_edited(model: HookedModel) -> bool:
    """Whether the network's attention is being edited now."""
    return any(has_edits(module) for module in model.network.modules())


def block_modules(model: HookedModel) -> list[nn.Module]:
    """The network's own blocks, one a layer.

    Raises:
        ValueError: If TransformerLens cannot say where they are.
    """
    if isinstance(model.network, AttentionOnlyTransformer):
        return list(model.network.blocks)
    return [model.network.get_submodule(block.name) for block in model.hooked.blocks]


def output_projection(model: HookedModel, layer: int) -> nn.Module:
    """The module of a transformers network that reads a layer's heads, side by side."""
    block = model.hooked.blocks[layer]
    return model.network.get_submodule(".".join((block.name, block.attn.name, block.attn.o.name)))


def unhooked(model: HookedModel) -> HookedModel:
    """The same parameters as a model of its own, which nobody has hooked or edited."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*model.network.parameters(), *model.network.buffers())}
    for module in model.network.modules():  # hooks may hold on to much: they are not even copied
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            memo[id(hooks)] = type(hooks)()
    network = copy.deepcopy(model.network, memo=memo)
    if isinstance(network, AttentionOnlyTransformer):
        network.reset_hooks(including_permanent=True)
        clamp_for_good(network, getattr(network, "clamps", {}))  # what it was trained with is part of it
    return HookedModel(network.eval(), model.tokenizer, name=model.name, revision=model.revision)


class Streams:
    """The residual stream of some prompts, and runs that go on from any layer of it.

    Args:
        model: Any supported model.
        tokens: Prompts of one length.

    Attributes:
        before: The stream before each layer, and last before the final norm.
        normalised: After the final norm.
        attention: By layer, its attention; only `HeadOutputs` where an architecture attends out of sight.
    """

    def __init__(self, model: HookedModel, tokens: Int[Tensor, "prompt pos"]) -> None:
        """Run the model once."""
        self.model, self.tokens = model, tokens.to(model.device)
        self.blocks = block_modules(model)
        self.before: list[Float[Tensor, "prompt pos d_model"]] = []
        self.attention: dict[int, Any] = {}
        self._tuples: list[int] = []
        with ExitStack() as stack:
            for module in (*self.blocks, model.final_norm):
                keep = module.register_forward_pre_hook(self._keep_input, with_kwargs=True)
                stack.callback(keep.remove)
            for block in self.blocks:
                look = block.register_forward_hook(self._look_at_output)
                stack.callback(look.remove)
            stack.enter_context(edit_attention(model, self._keep_attention))
            self.normalised = model.hidden(self.tokens)

    def run(
        self,
        layer: int,
        edit: Edit | None = None,
        *,
        prompts: Int[Tensor, " row"] | None = None,
        stream: Float[Tensor, "row pos d_model"] | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """The normalised end of the stream, layers below `layer` left as they were.

        Args:
            layer: The first layer to be run; with `n_layers` the final norm alone.
            edit: What to change in this layer and above, see `edit_attention`.
            prompts: Which prompt each row is; all, once, by default.
            stream: What enters `layer`; by default what did.
        """
        rows = slice(None) if prompts is None else prompts.to(self.tokens.device)
        stream = self.before[layer][rows] if stream is None else stream
        if layer == len(self.blocks):
            with torch.inference_mode():
                return self.model.final_norm(stream)
        with ExitStack() as stack:
            stack.enter_context(self._starting_at(layer, stream))
            stack.enter_context(edit_attention(self.model, edit or _as_it_is))  # on the engine, as the clean run was
            return self.model.hidden(self.tokens[rows])

    @contextmanager
    def _starting_at(self, layer: int, stream: Tensor) -> Iterator[None]:
        def skip(*_: Any, **__: Any) -> Any:
            return (stream, *[None] * (self._tuples[0] - 1)) if self._tuples[0] else stream

        before = [block.__dict__.get("forward") for block in self.blocks[:layer]]
        handle = self.blocks[layer].register_forward_pre_hook(_entering(stream), with_kwargs=True)
        try:
            for block in self.blocks[:layer]:
                block.forward = skip
            yield
        finally:
            handle.remove()
            for block, forward in zip(self.blocks[:layer], before, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward

    def _keep_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.before.append(args[0] if args else kwargs["hidden_states"])

    def _keep_attention(self, attention: Any) -> Any:
        self.attention[attention.layer] = attention
        return attention

    def _look_at_output(self, module: nn.Module, args: Any, output: Any) -> None:
        self._tuples.append(len(output) if isinstance(output, tuple) else 0)


def _as_it_is(attention: Any) -> Any:
    return attention


def refuse_hooked_patterns(streams: Streams) -> None:
    """Attention that a small model materialised for somebody's hook has no queries and keys to go on with.

    Raises:
        ValueError: If there is such a hook.
    """
    if any(isinstance(seen, MaterialisedAttention) for seen in streams.attention.values()):
        raise ValueError(
            f"Somebody hooks hook_pattern or hook_attn_scores of {streams.model.name}: remove the hook "
            "(model.hooked.reset_hooks()) before its patterns are held or its paths are patched."
        )


def _entering(stream: Tensor) -> Callable[..., Any]:
    def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return ((stream, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": stream})

    return enter


def _before_projection(model: HookedModel, layer: int, edit: Edit) -> Callable[..., Any]:
    def change(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        z = args[0].unflatten(-1, (model.n_heads, -1)).transpose(1, 2)
        return (edit(HeadOutputs(layer, z)).z.transpose(1, 2).flatten(2), *args[1:])

    return change


def chunks(prompts: int, tokens_each: int, *, most: int = 4096) -> Sequence[slice]:
    """Prompts in turns of about `most` tokens."""
    step = max(1, most // tokens_each)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]
