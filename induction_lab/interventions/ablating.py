"""`ablate`: run a model with some of its heads put out of action, as a context manager.

Inside the context `model.network`, `model.hooked` and everything in this package run on the ablated model; afterwards
it is bit for bit what it was. How heads are replaced: see `induction_lab.interventions.ablation_methods`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import HeadOutputs, LayerAttention
from induction_lab.attention.scopes import Scope
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.bridge_hooks import AttentionHooks, by_head, hooking_attention
from induction_lab.internals.editing import edit_attention, unhooked
from induction_lab.internals.reading import attention_layers, heads_of
from induction_lab.interventions.ablation_methods import Known, Method, find_method
from induction_lab.interventions.edits import OtherOutputs, ScaledOutputs, Substitute
from induction_lab.interventions.outputs import Outputs, clean_run
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, HeadLike


@takes_names
@contextmanager
def ablate(
    model: HookedModel,
    heads: HeadLike | Iterable[HeadLike],
    *,
    method: str = "mean",
    reference: PromptsLike | Outputs | None = None,
    seed: int = 0,
) -> Iterator[HookedModel]:
    """Put heads out of action inside the context.

    >>> model = load_model("smollm2-135m")                                                       # doctest: +SKIP
    >>> prompts = repeated_tokens(model, n_prompts=4)                                            # doctest: +SKIP
    >>> with ablate(model, "L16H0"):                                                             # doctest: +SKIP
    ...     scores = score_heads(model, prompts, scores=["prefix_matching"])
    ...     print([round(loss, 1) for loss in scores.loss_by_copy])
    [13.7, 9.5]

    Contexts may be nested: `ablate(model, a)` inside `ablate(model, b)` ablates both, and means are always those of the
    model that nothing is done to. Of one head the inner context has its way; `pattern_preserving` must come first.
    Prompts are those that are run together. Where they cannot lend each other their outputs (one prompt, or one that is
    longer than all others), prompts of random tokens lend theirs. BOS at the end of a prompt is taken for padding, and
    an `attention_mask` for what it says.

    Args:
        model: Any supported model.
        heads: `"L16H0"`, `(16, 0)`, or several; query heads in grouped-query models.
        method: `mean` (of other prompts, position by position), `zero`, `resample` (another prompt's output),
            `pattern_preserving`, `ideal_previous_token` or `ideal_induction`: see `interventions.ablation_methods`.
        reference: For `mean` and `resample`, prompts whose outputs replace the heads' own, at least as long as those
            that are run inside; for `mean` also what `mean_outputs` found, where the same means are wanted again and
            again. By default the other prompts that are run together with each.
        seed: Of the choice that `resample` makes.

    Yields:
        The model itself.

    Raises:
        ValueError: If a head is not there or given twice, the method is unknown or not to be had of this architecture;
            inside the context, if what is run is longer than the reference, or padded on the left.
    """
    chosen = _wanted(model, heads)
    kind = find_method(model, method)
    if isinstance(reference, Outputs):
        if method != "mean":
            raise ValueError(f"What is known already are means: `mean` takes them, got method={method!r}.")
        made: Method = Known(OtherOutputs(reference))
    else:
        given = None if reference is None else as_prompts(model, reference)
        made = kind(_UnhookedRuns(model, {head.layer for head in chosen}), reference=given, seed=seed)
    with _replacing(model, chosen, made):
        yield model


@takes_names
@contextmanager
def scale_heads(model: HookedModel, heads: HeadLike | Iterable[HeadLike], by: float | int) -> Iterator[HookedModel]:
    """Multiply what heads put out inside the context: by 0 they are silent, by 1 as they are, by 2 twice as loud.

    Args:
        model: Any supported model.
        heads: As in `ablate`, in which this may be nested, and the other way round.
        by: The factor.

    Yields:
        The model itself.

    Raises:
        ValueError: If a head is not there or given twice, or `by` is no finite number.
    """
    if not (isinstance(by, int | float) and math.isfinite(by)):
        raise ValueError(f"`by` must be a finite number, got {by!r}.")
    with _replacing(model, _wanted(model, heads), Known(ScaledOutputs(float(by)))):
        yield model


def _wanted(model: HookedModel, heads: HeadLike | Iterable[HeadLike]) -> list[Head]:
    chosen = heads_of(model, heads)
    if not chosen:
        raise ValueError('Heads are wanted, got none. Write L16H0, or ["L16H0", "L18H6"].')
    return chosen


@contextmanager
def _replacing(model: HookedModel, heads: list[Head], method: Method) -> Iterator[None]:
    """The heads do what the method says, on the network and its TransformerLens surface."""
    _ = model.unembeds_by_parts  # both are found out once and kept: not on the ablated model
    _ = model.bridge
    ablation = _Ablation(model, heads, method)
    with edit_attention(model, ablation.edit), ablation.hooked():
        yield


@contextmanager
def constant_heads(
    model: HookedModel, heads: Iterable[Head], means: Mapping[int, Float[Tensor, "head d_head"]]
) -> Iterator[None]:
    """Let heads put out one vector at all positions but the first, which keeps its own: for prompts of any length.

    Where the vectors are means over positions of a reference (`means_over_positions`) and prompts begin with BOS,
    nothing of a prompt passes through the heads. The network alone is edited, not its TransformerLens surface.
    """
    chosen: dict[int, list[int]] = {}
    for head in heads:
        chosen.setdefault(head.layer, []).append(head.head)

    def edit(attention: LayerAttention) -> LayerAttention:
        here = chosen.get(attention.layer)
        if here is None:
            return attention
        z = attention.z.clone()
        z[:, here, 1:] = means[attention.layer][here][:, None].to(z)
        return replace(attention, z=z)

    with edit_attention(model, edit):
        yield


class _UnhookedRuns:
    """Runs of a copy of the model that no context has touched: means and clean patterns are taken from those."""

    def __init__(self, model: HookedModel, layers: set[int]) -> None:
        self.model, self.layers = unhooked(model), layers

    def outputs(self, prompts: Prompts) -> Outputs:
        return Outputs({layer: seen.z for layer, seen in clean_run(self.model, prompts.tokens, self.layers).items()})

    def attention(self, prompts: Prompts) -> dict[int, LayerAttention]:
        return clean_run(self.model, prompts.tokens)


class _Ablation:
    """The substitutes of one context, made anew for each batch of prompts where they depend on it."""

    def __init__(self, model: HookedModel, heads: list[Head], method: Method) -> None:
        self.model, self.heads, self.method = model, heads, method
        self.layers = {head.layer for head in heads}
        self.tokens: Tensor | None = None
        self.mask: Tensor | None = None
        self.fixed = None if method.needs_tokens else method.on(slice(None))
        self.substitute = self.fixed

    def _make(self, prompts: Prompts) -> Substitute:
        if not self.method.from_others:
            return self.method.prepared(prompts).on(slice(None))
        # A sweep runs the same prompts side by side, once a head: other prompts are those of other tokens.
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(row), len(numbers)) for row in prompts.tokens.tolist()]
        first = [which.index(number) for number in range(len(numbers))]
        lengths = None if prompts.lengths is None else prompts.lengths[first]
        made = self.method.prepared(replace(prompts, tokens=prompts.tokens[first], lengths=lengths)).on(slice(None))
        if len(first) == len(prompts):
            return made
        assert isinstance(made, OtherOutputs)
        return OtherOutputs(made.outputs.map(lambda x: x[which] if len(x) > 1 else x))

    def edit(self, attention: LayerAttention) -> LayerAttention:
        """As `edit_attention` wants it."""
        if attention.layer not in self.layers and not self.method.every_layer:
            return attention
        return self._now().edit(attention, [self.heads])

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Watch which tokens come, on the network and its TransformerLens surface, and edit the latter too."""
        model, bridge = self.model, self.model.bridge
        watched = [(model.anatomy.body, model.anatomy.embedding)]
        watched += [] if bridge is None else [(bridge, bridge.embed)]
        with Scope() as scope:
            for whole, embedding in watched:
                scope.before(whole, self._forget, with_kwargs=True)
                scope.before(embedding, self._see)
            if bridge is not None:
                hooks = {layer: self._bridge_hooks(layer) for layer in attention_layers(model)}
                scope.enter_context(hooking_attention(bridge, hooks))
            yield

    def _forget(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.tokens, self.mask, self.substitute = None, kwargs.get("attention_mask"), self.fixed
        if self.method.from_others and self.mask is not None and self.mask.ndim == 2 and not self.mask[:, 0].all():
            raise ValueError(
                f"Some prompts are padded on the left, so that `{self.method.name}` would mix positions up. Pad on the "
                "right: tokenizer.padding_side = 'right'."
            )

    def _see(self, module: Any, args: tuple[Any, ...]) -> None:
        self.tokens, self.substitute = args[0], self.fixed

    def _now(self) -> Substitute:
        if self.substitute is None:
            if self.tokens is None:
                raise ValueError(f"{self.method.name} must know the tokens; the model was run on embeddings.")
            self.substitute = self._make(self._prompts(self.tokens))
        return self.substitute

    def _prompts(self, tokens: Tensor) -> Prompts:
        """What is run, its padding found: where BOS stands at the end, or where a mask says so."""
        bos, n_pos = self.model.bos_token_id, tokens.shape[1]
        lengths = n_pos - (tokens == bos).long().flip(1).cumprod(1).sum(1)
        if self.mask is not None and self.mask.shape == tokens.shape:
            lengths = self.mask.long().sum(1)
        lengths = lengths.clamp(min=1).cpu()
        has_bos = bool((tokens[:, 0] == bos).all())
        return Prompts(tokens, lengths=None if bool((lengths == n_pos).all()) else lengths, has_bos=has_bos)

    def _bridge_hooks(self, layer: int) -> AttentionHooks:
        """A layer's values are kept, outputs changed, a forced pattern shown: some architectures attend with that."""
        values: list[Tensor] = []
        here = [head.head for head in self.heads if head.layer == layer]

        def keep(module: Any, args: Any, v: Tensor) -> None:
            values[:] = [by_head(v, self.model.n_kv_heads)]

        def force(module: Any, args: Any, pattern: Tensor) -> Tensor | None:
            return self._now().change_pattern(pattern, layer, here)

        def change(module: Any, args: Any, z: Tensor) -> Tensor | None:
            outputs = HeadOutputs(layer, by_head(z, self.model.n_heads), values.pop() if values else None)
            return self.edit(outputs).z.transpose(1, 2).reshape(z.shape)

        return keep, force, change
