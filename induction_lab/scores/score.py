"""What a head score is, and how to write one: what it says of itself, and what it reads.

Four kinds, a base class each:

    AttentionScore   mean attention to keys that follow from the tokens: say which (query, key) pairs
    LayerScore       anything read off a layer's attention as the model runs: values, outputs, patterns
    WeightScore      the weights alone, no prompt
    CausalScore      what changing one head at a time does, on prompts of its own

`score_heads` takes instances beside the names of the scores there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.occurrences import Pairs, Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import LOOKS

OLSSON = "Olsson et al. (2022), arxiv.org/abs/2209.11895"
ELHAGE = "Elhage et al. (2021), transformer-circuits.pub/2021/framework"
BIETTI = "Bietti et al. (2023), arxiv.org/abs/2306.00802"
WANG = "Wang et al. (2022), arxiv.org/abs/2211.00593"


class ScoreWords(NamedTuple):
    """One score, or another number that is measured.

    Attributes:
        title: Short, for headings.
        definition: What number it is.
        low: The least it can be; None where nothing bounds it.
        high: The most it can be; None where nothing bounds it.
        source: Where the definition comes from.
        unit: Where it has one: `nats`.
        threshold: From which value on people say that a head does this; None where nobody says one.
    """

    title: str
    definition: str = ""
    low: float | None = None
    high: float | None = None
    source: str = ""
    unit: str = ""
    threshold: float | None = None

    def axis(self, values: np.ndarray) -> tuple[float, float]:
        """The range to draw values on: its own, else from its lower bound to 1 or the largest; around 0 if signed."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        finite = values[np.isfinite(values)]
        largest = float(np.abs(finite).max(initial=0.0)) or 1.0
        if self.low is None or finite.min(initial=0.0) < 0:
            return -largest, largest
        return self.low, max(1.0, largest)

    def in_text(self) -> str:
        """The title inside a sentence: `prefix matching`, but `OV copying`."""
        return self.title[:1].lower() + self.title[1:] if self.title[1:2].islower() else self.title


class Score:
    """One number for every head of a model. Write your own as an `AttentionScore`, a `LayerScore` or a `WeightScore`.

    >>> class TwoBack(AttentionScore):
    ...     name = "two_back"
    ...     meaning = "Attention to the token before the previous one."
    ...     source = "this example"
    ...
    ...     def pairs(self, tokens):
    ...         return [(query, query - 2) for query in range(3, len(tokens))]
    >>> score_heads(load_model(), scores=["previous_token", TwoBack()]).top("two_back", 1)    # doctest: +SKIP
    [(L0H1, 0.550)]

    Attributes:
        name: How tables and files call it, such as `two_back`.
        title: For headings; by default the name in words.
        meaning: What number it is, in a sentence or two.
        low: The least it can be; None where nothing bounds it.
        high: The most it can be; None where nothing bounds it.
        source: Where the definition comes from.
        unit: Where it has one, such as `nats`.
        threshold: From which value on people say that a head does this (`HeadScores.above`); None: nobody says one.
        chance: What a head scores that prefers nothing; NaN where that is not known.
        measured_on: What the rows of a trajectory call its prompts, where it is not measured on those given.
    """

    name: str = ""
    title: str = ""
    meaning: str = ""
    low: float | None = None
    high: float | None = None
    source: str = ""
    unit: str = ""
    threshold: float | None = None
    chance: float = math.nan
    measured_on: str = ""

    @property
    def words(self) -> ScoreWords:
        """What it says of itself."""
        title = self.title or self.name.replace("_", " ").capitalize()
        return ScoreWords(title, self.meaning, self.low, self.high, self.source, self.unit, self.threshold)

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Why it cannot be had of this model on these prompts; None if it can."""
        return None

    def own_prompts(self, model: HookedModel, *, seed: int) -> Prompts | None:
        """The prompts that its definition asks for; None: those that are given.

        Raises:
            ValueError: If they cannot be made for this model.
        """
        return None


class AttentionScore(Score):
    """Attention from queries to keys that follow from the tokens alone.

    A prompt's score is the attention from a query to its keys, summed over the keys and averaged over the queries that
    have any; a head's the mean over prompts. So a head that always looks there scores 1. Prompts without such a query
    do not count. All attention scores together cost one forward pass; the attention matrices are never built.

    Attributes:
        finds_repeats: Whether it looks for what recurs, so that prompts without repeats are its null (`chance_test`).
        weighed: Whether its attention is always weighed by what it moves, see `score_heads(weigh="values")`.
    """

    low, high = 0.0, 1.0
    threshold: float | None = LOOKS
    finds_repeats: bool = False
    weighed: bool = False

    def pairs(self, tokens: Int[Tensor, " pos"]) -> Iterable[tuple[int, int]] | Int[Tensor, "pair 2"]:
        """All (query, key) of one prompt, each once, with `0 <= key <= query`; position 0 holds BOS.

        Args:
            tokens: The prompt, padding left out.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which `pairs` it reads.")

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """All (prompt, query, key) of many prompts; by default the `pairs` of one after another.

        Raises:
            ValueError: If `pairs` gives what are no pairs of its prompt.
        """
        found = [torch.zeros(0, 3, dtype=torch.long)]
        prompts = seen.prompts
        for i, (tokens, length) in enumerate(zip(prompts.tokens.cpu(), prompts.real_lengths.tolist(), strict=True)):
            row = tokens[:length].clone()
            pairs = _checked_pairs(self, self.pairs(row), length)
            if not torch.equal(row, tokens[:length]):
                raise ValueError(f"{self.name} changes the tokens that it is shown; work on a copy.")
            found.append(torch.cat([torch.full((len(pairs), 1), i), pairs], 1))
        prompt, query, key = torch.cat(found).unbind(1)
        return prompt, query, key


@runtime_checkable
class BatchReader(Protocol):
    """What a score gathers from one batch of prompts."""

    def read(self, attention: AttentionReading) -> None:
        """See one layer's attention; called once a layer, in order."""

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        """What was found, given the end of the residual stream (see `needs_end`)."""
        ...


@runtime_checkable
class StreamBatchReader(BatchReader, Protocol):
    """One that is shown the residual stream as well (`needs_stream`)."""

    def enter(self, layer: int, stream: Float[Tensor, "prompt pos d_model"]) -> None:
        """See what enters a layer, before `read` sees its attention."""


class LayerScore(Score):
    """Anything read off each layer's attention as the model runs, one number a prompt and head.

    Attributes:
        needs_end: Whether the end of the residual stream is wanted too; else the run stops at the last heads.
        needs_stream: Whether its `reader` is shown the residual stream before each layer, as a `StreamBatchReader`.
    """

    needs_end: bool = False
    needs_stream: bool = False

    def defined(self, seen: Recurrences) -> Bool[Tensor, " prompt"]:
        """Which prompts have a value; by default all. The others do not count."""
        return torch.ones(len(seen.prompts), dtype=torch.bool)

    def read(self, model: HookedModel, prompts: Prompts, attention: AttentionReading) -> Float[Tensor, "prompt head"]:
        """Each prompt's value of each head of one layer.

        Args:
            model: The model as it runs.
            prompts: The batch.
            attention: The layer: `attention.layer`, what the heads put out `attention.z` `[prompt, head, pos, d_head]`,
                values `attention.v` `[prompt, kv_head, pos, d_head]`, probabilities `attention.pattern()`
                `[prompt, head, query, key]` or at some pairs alone, `attention.probabilities(prompt, query, key)`
                `[pair, head]`. To be read, not changed.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what to `read` of a layer.")

    def reader(self, model: HookedModel, prompts: Prompts) -> BatchReader:
        """What gathers one batch; by default `read`, layer by layer. For what is made once a batch, or ends with it."""
        return _LayerByLayer(self, model, prompts)

    def settled(self, values: Float[Tensor, "prompt layer head *more"]) -> Float[Tensor, "prompt layer head"]:
        """What comes of all prompts' values together; by default themselves. For a choice that all prompts make."""
        return values


class WeightScore(Score):
    """One number a head from the weights alone: no prompts, so no standard error."""

    measured_on = "weights"

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """The value of every head."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to `measure`.")

    def chance_for(self, model: HookedModel) -> float:
        """What a head of this model scores that prefers nothing, where that depends on the model; else `chance`."""
        return self.chance


class CausalScore(Score):
    """What changing one head at a time does, one number a prompt and head, on prompts of its own.

    It costs about a forward pass a head; what changes heads: `internals.residual_stream`, `internals.editing`.
    """

    def measure(self, model: HookedModel, *, seed: int, progress: bool = False) -> Float[Tensor, "prompt layer head"]:
        """The value of every head on every prompt, or task; NaN in layers that do not attend."""
        raise NotImplementedError(f"{type(self).__name__} does not say what to `measure`.")


def checked_values(
    score: Score, values: Any, shape: tuple[int, ...], axes: str, *, layers: Sequence[int] | None = None
) -> Tensor:
    """What a score of a user's own found, on the CPU.

    Args:
        score: Which.
        values: What it gave.
        shape: What that should be.
        axes: In words.
        layers: Those that attend, where values are `[…, layer, head]`: in the others they may be NaN.

    Raises:
        ValueError: If it is no finite tensor of this shape.
    """
    if not isinstance(values, Tensor) or tuple(values.shape) != shape:
        got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{score.name} must give a tensor [{axes}] = {shape}, got {got}.")
    asked = values if layers is None else values[..., layers, :]
    if values.is_complex() or not bool(asked.isfinite().all()):
        raise ValueError(f"{score.name} gives numbers that are not finite, or not real: NaN, infinite or complex.")
    return values.float().cpu()


class _LayerByLayer:
    """A `LayerScore` read layer by layer; what it is shown is looked at again, so that no score changes a model."""

    def __init__(self, score: LayerScore, model: HookedModel, prompts: Prompts) -> None:
        self.score, self.model, self.prompts = score, model, prompts
        self.found = torch.full((len(prompts), model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)

    def read(self, attention: AttentionReading) -> None:
        before = _state(self.model, self.prompts, attention)
        values = self.score.read(self.model, self.prompts, attention)
        after = _state(self.model, self.prompts, attention)
        for name, old in before.items():
            if not bool(((old == after[name]) | old.isnan()).all()):
                raise ValueError(f"{self.score.name} changes {name} of the model that it reads; work on a copy.")
        shape = (len(self.prompts), self.model.n_heads)
        self.found[:, attention.layer] = checked_values(self.score, values, shape, "prompt, head")

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        return self.found


def _state(model: HookedModel, prompts: Prompts, attention: AttentionReading) -> dict[str, Tensor]:
    """What a score could change: copies of the layer's tensors, and how often weights were written to."""
    copies = {f"`{name}`": value.clone() for name, value in vars(attention).items() if isinstance(value, Tensor)}
    written = torch.tensor([parameter._version for parameter in model.network.parameters()])
    return {**copies, "the tokens": prompts.tokens.clone(), "the weights": written}


def _checked_pairs(score: AttentionScore, pairs: Any, n_pos: int) -> Int[Tensor, "pair 2"]:
    try:
        found = pairs.cpu() if isinstance(pairs, Tensor) else torch.tensor(list(pairs))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`pairs` of {score.name} must give (query, key) pairs: {error}") from error
    if not found.numel():
        return torch.zeros(0, 2, dtype=torch.long)
    if found.ndim != 2 or found.shape[1] != 2 or found.is_floating_point() or found.dtype == torch.bool:
        raise ValueError(
            f"`pairs` of {score.name} must give (query, key) pairs of whole numbers, "
            f"got shape {tuple(found.shape)} of {found.dtype}."
        )
    query, key = found.long().unbind(1)
    wrong = found[(key < 0) | (key > query) | (query >= n_pos)].tolist()
    if wrong:
        raise ValueError(
            f"`pairs` of {score.name} gives {tuple(wrong[0])} as (query, key) in a prompt of {n_pos} tokens: "
            "a key is no later than its query, and positions count from 0."
        )
    if len(found.unique(dim=0)) < len(found):
        raise ValueError(f"`pairs` of {score.name} gives a pair twice, which would count its attention twice.")
    return found.long()
