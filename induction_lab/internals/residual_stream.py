"""The residual streams of a batch of prompts, kept, so that a run can start at any layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.exact import MaterialisedAttention
from induction_lab.attention.hooks import Edit
from induction_lab.internals.editing import edit_attention
from induction_lab.models.hooked_model import HookedModel


class ResidualStreams:
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
        self.blocks = model.anatomy.blocks
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


def refuse_hooked_patterns(streams: ResidualStreams) -> None:
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
