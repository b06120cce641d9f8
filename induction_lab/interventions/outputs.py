"""What heads put out on some prompts, sums and means of that over prompts, and the prompts to take them from."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import HeadOutputs, LayerAttention
from induction_lab.data.prompts import Prompts, distinct_tokens, ordinary_tokens
from induction_lab.internals.batches import chunks
from induction_lab.internals.editing import edit_attention
from induction_lab.internals.reading import attention_layers
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names

REFERENCE = 16  # prompts of random tokens, where prompts have no others


@dataclass(frozen=True)
class Outputs:
    """What the heads of some layers put out and, where asked for, the residual stream before each layer.

    Attributes:
        heads: By layer, one prompt (a mean) or all of them.
        streams: By layer, what stands before it; under the number of layers what stands before the final norm.
        together: By layer, what its heads add to the stream, where a norm makes that no sum over heads.
    """

    heads: dict[int, Float[Tensor, "prompt head pos d_head"]] = field(default_factory=dict)
    streams: dict[int, Float[Tensor, "prompt pos d_model"]] = field(default_factory=dict)
    together: dict[int, Float[Tensor, "prompt pos d_model"]] = field(default_factory=dict)

    def map(self, function: Callable[..., Tensor], *others: Outputs) -> Outputs:
        """`function` of each tensor and of those that stand in its place in `others`."""
        return Outputs(
            {layer: function(x, *(other.heads[layer] for other in others)) for layer, x in self.heads.items()},
            {layer: function(x, *(other.streams[layer] for other in others)) for layer, x in self.streams.items()},
            {layer: function(x, *(other.together[layer] for other in others)) for layer, x in self.together.items()},
        )


@dataclass(frozen=True)
class Sums:
    """Outputs summed over prompts, padding left out; in float32 or wider, where a long sum still grows.

    Attributes:
        total: The sums, as outputs of one prompt.
        count: How many prompts reach each position.
        dtype: Of the outputs, and of means.
    """

    total: Outputs
    count: Float[Tensor, "pos 1"]
    dtype: torch.dtype

    @classmethod
    def of(cls, outputs: Outputs, prompts: Prompts) -> Sums:
        """The sums over some prompts, given what was put out on them."""
        real = prompts.real.to(next(itertools.chain(outputs.heads.values(), outputs.streams.values())))
        wide = torch.promote_types(real.dtype, torch.float32)
        total = outputs.map(lambda x: (x * _shaped(real, x)).sum(0, keepdim=True, dtype=wide))
        return cls(total, real.sum(0, dtype=wide)[:, None], real.dtype)

    def __add__(self, other: Sums) -> Sums:
        """The sums over the prompts of both."""
        return Sums(self.total.map(operator.add, other.total), self.count + other.count, self.dtype)

    def mean(self) -> Outputs:
        """The mean over the prompts that reach each position.

        Raises:
            ValueError: If there is none somewhere.
        """
        self._check_count(1)
        return self.total.map(lambda total: (total / self.count).to(self.dtype))

    def mean_of_others(self, own: Outputs, prompts: Prompts) -> Outputs:
        """For each of some prompts that were summed, the mean over all others.

        Raises:
            ValueError: If one prompt alone reaches some position.
        """
        self._check_count(2)
        real = prompts.real.to(self.count)

        def others(x: Tensor, total: Tensor) -> Tensor:
            here = _shaped(real, x)
            return ((total - x * here) / (self.count - here)).to(self.dtype)

        return own.map(others, self.total)

    def _check_count(self, least: int) -> None:
        short = (self.count[:, 0] < least).nonzero()
        if len(short):
            raise ValueError(
                f"From position {int(short[0])} on fewer than {least} prompts of the reference are long enough to take "
                "a mean over. Use prompts of one length, or more of them."
            )


def sums_over(prompts: Prompts, look: Callable[[Prompts], Outputs]) -> Sums:
    """The sums over all prompts of what `look` sees, some prompts at a time."""
    parts = (prompts[some] for some in chunks(*prompts.tokens.shape))
    return functools.reduce(operator.add, (Sums.of(look(part), part) for part in parts))


def means_over_positions(model: HookedModel, reference: Prompts) -> Mapping[int, Float[Tensor, "head d_head"]]:
    """By layer, what each head puts out on average, over all prompts and all positions but the first and padding.

    The first position is left out because most models keep a sink there, which is like no other.
    """
    layers = attention_layers(model)

    def look(prompts: Prompts) -> Outputs:
        return Outputs({layer: seen.z for layer, seen in clean_run(model, prompts.tokens, layers).items()})

    sums = sums_over(reference, look)
    n = sums.count[1:].sum()
    return {layer: (total[0, :, 1:].sum(1) / n).to(sums.dtype) for layer, total in sums.total.heads.items()}


def cut_to(reference: Prompts, prompts: Prompts) -> Prompts:
    """A reference without what lies beyond the longest prompt, which no position of a prompt asks for.

    Raises:
        ValueError: If it is shorter than that.
    """
    n_pos, longest = prompts.tokens.shape[1], int(reference.real_lengths.max())
    if longest < n_pos:
        raise ValueError(
            f"The reference has prompts of {longest} tokens, those measured on have {n_pos}: it must be as long, or "
            f"longer. Give reference=distinct_tokens(model, length={length_of(prompts)}), or none."
        )
    lengths = reference.real_lengths.clamp(max=n_pos)
    return replace(reference, tokens=reference.tokens[:, :n_pos], lengths=None if (lengths == n_pos).all() else lengths)


def random_reference(model: HookedModel, prompts: Prompts) -> Prompts:
    """`REFERENCE` prompts of random tokens that begin as these do and are as long, for prompts that have no others.

    None occurs twice in as many tokens as the vocabulary has. Prompts of other lengths get the same beginnings, so that
    texts are given the same outputs together as one by one.
    """
    length, drawn = length_of(prompts), ordinary_tokens(model)
    most = len(drawn) if prompts.bos is None else int((drawn != prompts.bos).sum())
    how: dict[str, Any] = {"n_prompts": REFERENCE, "beyond_context": prompts.beyond_context}
    first = distinct_tokens(model, length=min(length, most), bos=prompts.bos, **how)
    more = [
        distinct_tokens(model, length=min(most, length - start), seed=seed, bos=None, **how).tokens
        for seed, start in enumerate(range(most, length, most), start=1)
    ]
    return replace(first, tokens=torch.cat([first.tokens, *more], 1)) if more else first


def length_of(prompts: Prompts) -> int:
    """Tokens of the longest prompt, BOS left out."""
    return prompts.tokens.shape[1] - prompts.first


@takes_names
def mean_outputs(model: HookedModel, reference: Prompts, *, layers: Iterable[int] | None = None) -> Outputs:
    """What every head puts out on average over prompts, position by position: a `reference` that `ablate` need not run.

    Args:
        model: Any supported model, with nothing ablated.
        reference: Prompts, of which at least one must reach every position.
        layers: Of the heads that are wanted; all layers by default.
    """
    wanted = attention_layers(model) if layers is None else list(layers)

    def look(prompts: Prompts) -> Outputs:
        return Outputs({layer: seen.z for layer, seen in clean_run(model, prompts.tokens, wanted).items()})

    return sums_over(reference, look).mean()


def clean_run(
    model: HookedModel, tokens: Int[Tensor, "prompt pos"], layers: Iterable[int] | None = None
) -> dict[int, LayerAttention]:
    """What every head attends to and puts out on these prompts; of the given layers only what it puts out."""
    found: dict[int, LayerAttention] = {}
    wanted = set(range(model.n_layers)) if layers is None else set(layers)

    def keep(attention: LayerAttention) -> LayerAttention:
        if attention.layer in wanted:
            found[attention.layer] = attention if layers is None else HeadOutputs(attention.layer, attention.z)
        return attention

    with edit_attention(model, keep):
        model.hidden(tokens)
    return found


def _shaped(real: Float[Tensor, "prompt pos"], x: Tensor) -> Tensor:
    """A mask of positions in the shape of heads' outputs, or of streams."""
    return real[:, None, :, None] if x.ndim == 4 else real[:, :, None]
