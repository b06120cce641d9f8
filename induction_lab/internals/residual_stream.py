"""The residual streams of a batch of prompts, kept, so that a run can start at any layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.exact import LayerAttention, MaterialisedAttention
from induction_lab.attention.hooks import Edit, Enough
from induction_lab.attention.scopes import Scope, alone
from induction_lab.internals.editing import FIRST_LAYER, edit_attention
from induction_lab.models.hooked_model import HookedModel


@dataclass(frozen=True, eq=False)
class ResidualStreams:
    """The residual stream of some prompts, and runs that go on from any layer of it.

    Attributes:
        model: What was run.
        tokens: Prompts of one length.
        before: The stream before each layer, and last before the final norm.
        normalised: After the final norm.
        attention: By layer, its attention; only `HeadOutputs` where an architecture attends out of sight.
        tuple_sizes: By layer, how many values its block returns in a tuple; 0 where it returns the stream alone.
    """

    model: HookedModel
    tokens: Int[Tensor, "prompt pos"]
    before: list[Float[Tensor, "prompt pos d_model"]]
    normalised: Float[Tensor, "prompt pos d_model"]
    attention: dict[int, Any]
    tuple_sizes: list[int]

    def run(
        self,
        layer: int,
        edit: Edit | None = None,
        *,
        prompts: Int[Tensor, " row"] | None = None,
        stream: Float[Tensor, "row pos d_model"] | None = None,
        tokens: Int[Tensor, "row pos"] | None = None,
    ) -> Float[Tensor, "row pos d_model"]:
        """The normalised end of the stream, layers below `layer` left as they were.

        Args:
            layer: The first layer to be run; with `n_layers` the final norm alone.
            edit: What to change in this layer and above, see `edit_attention`.
            prompts: Which prompt each row is; all, once, by default.
            stream: What enters `layer`; by default what did.
            tokens: What each row reads; by default its prompt.
        """
        rows = slice(None) if prompts is None else prompts.to(self.tokens.device)
        stream = self.before[layer][rows] if stream is None else stream
        if layer == self.model.n_layers:
            with torch.inference_mode():
                return self.model.final_norm(stream)
        # Also a run without an edit is one on the engine, as the clean run was.
        with self._starting_at(layer, stream), edit_attention(self.model, edit or _as_it_is):
            return self.model.hidden(self.tokens[rows] if tokens is None else tokens)

    def attention_at(
        self, layer: int, stream: Float[Tensor, "row pos d_model"], *, prompts: Int[Tensor, " row"]
    ) -> LayerAttention:
        """One layer's attention where this stream enters it. Nothing else of the model is run."""
        found: list[LayerAttention] = []

        def look(attention: LayerAttention) -> LayerAttention:
            found.append(attention)
            raise Enough

        with suppress(Enough):
            self.run(layer, look, prompts=prompts, stream=stream)
        return found[0]

    @contextmanager
    def _starting_at(self, layer: int, stream: Tensor) -> Iterator[None]:
        blocks = [getattr(block, "_orig_mod", block) for block in self.model.anatomy.blocks]  # not compiled ones
        skipped = (stream, *[None] * (self.tuple_sizes[0] - 1)) if self.tuple_sizes[0] else stream
        with alone(self.model.network), Scope({(FIRST_LAYER, self.model.network): layer}) as scope:
            scope.before(blocks[layer], _entering(stream), with_kwargs=True)
            for block in blocks[:layer]:
                scope.callback(_put_back, block, block.__dict__.get("forward"))
                block.forward = _skipping(block.forward, skipped, scope)
            yield


def residual_streams(model: HookedModel, tokens: Int[Tensor, "prompt pos"]) -> ResidualStreams:
    """Run any supported model once on prompts of one length, and keep its residual stream before every layer."""
    before: list[Tensor] = []
    attention: dict[int, LayerAttention] = {}
    tuple_sizes: list[int] = []

    def keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
        before.append(args[0] if args else kwargs["hidden_states"])

    def look_at_output(module: nn.Module, args: Any, output: Any) -> None:
        tuple_sizes.append(len(output) if isinstance(output, tuple) else 0)

    def keep_attention(seen: LayerAttention) -> LayerAttention:
        attention[seen.layer] = seen
        return seen

    tokens, blocks = tokens.to(model.device), model.anatomy.blocks
    with Scope() as scope, edit_attention(model, keep_attention):
        for module in (*blocks, model.final_norm):
            scope.before(module, keep_input, with_kwargs=True)
        for block in blocks:
            scope.after(block, look_at_output)
        normalised = model.hidden(tokens)
    return ResidualStreams(model, tokens, before, normalised, attention, tuple_sizes)


def _skipping(own: Callable[..., Any], skipped: Any, scope: Scope) -> Callable[..., Any]:
    return lambda *args, **kwargs: skipped if scope.holds else own(*args, **kwargs)


def _put_back(block: nn.Module, forward: Any) -> None:
    if forward is None:
        del block.forward
    else:
        block.forward = forward


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
