"""Prompts in turns that fit in memory, each with all that interventions on it need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from induction_lab.behaviour.metrics import Measure, MetricLike, as_metric
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.batches import chunks
from induction_lab.internals.residual_stream import Streams
from induction_lab.interventions.substitutes import (
    Outputs,
    Substitute,
    check_method,
    drawn_shift,
    left_out_means,
    means,
    paired,
    refuse_padding,
    substitute,
    totals,
)
from induction_lab.models.hooked_model import HookedModel

TOKENS_A_RUN = 4096


class Turn(NamedTuple):
    """Some prompts: their clean streams, what heads put out instead, and what the effect is measured by."""

    prompts: Prompts
    streams: Streams
    substitute: Substitute
    measure: Measure


class Turns:
    """All prompts, a turn at a time; means are over all of them, and others are drawn from all, not from a turn.

    Args:
        model: Any supported model.
        prompts: What to measure on.
        method: What heads put out instead.
        metric: What is measured.
        reference: Other prompts for `mean` and `resample`.
        seed: Of what `resample` draws.
        whole_streams: Substitutes for the stream before each layer as well, under the keys `("stream", layer)`.

    Attributes:
        prompts: All of them, read.
        reference: Likewise, or None.

    Raises:
        ValueError: If the method is unknown or not to be had, or the reference is of another length.
    """

    def __init__(
        self,
        model: HookedModel,
        prompts: PromptsLike,
        method: str,
        metric: MetricLike,
        *,
        reference: PromptsLike | None = None,
        seed: int = 0,
        whole_streams: bool = False,
    ) -> None:
        """Check the arguments; the prompts are not run yet."""
        check_method(model, method)
        prompts = as_prompts(model, prompts)
        reference = None if reference is None else as_prompts(model, reference)
        if reference is not None and reference.tokens.shape[1] != prompts.tokens.shape[1]:
            raise ValueError(
                f"The reference has prompts of {reference.tokens.shape[1]} tokens, those measured on have "
                f"{prompts.tokens.shape[1]}: they must be as long."
            )
        self.model, self.prompts, self.method, self.metric = model, prompts, method, as_metric(metric)
        self.reference, self.seed, self.whole_streams = reference, seed, whole_streams
        self.slices = chunks(*prompts.tokens.shape, most=TOKENS_A_RUN)
        self._measure = Measure(model, self.metric, prompts)
        self._partners = self._others() if method == "resample" and len(self) > 1 else reference
        self._mean: Substitute | None = None
        self._total: tuple[Outputs, Tensor] | None = None
        self._only: Turn | None = None  # where all prompts fit in one turn

    def __len__(self) -> int:
        """Number of turns."""
        return len(self.slices)

    def __iter__(self) -> Iterator[Turn]:
        """Each turn, run anew unless it is the only one."""
        if self._only is not None:
            yield self._only
            return
        for some in self.slices:
            part = self.prompts[some]
            streams = Streams(self.model, part.tokens)
            turn = Turn(part, streams, self._substitute(some, streams), self._measure.of(some))
            if len(self) == 1:
                self._only = turn
            yield turn

    def _others(self) -> Prompts:
        """The prompt from which each resamples."""
        if self.reference is not None:
            return paired(self.prompts, self.reference, seed=self.seed)
        refuse_padding(self.prompts)
        shift = drawn_shift(len(self.prompts), seed=self.seed)
        return Prompts(self.prompts.tokens.roll(shift, 0))

    def _substitute(self, some: slice, streams: Streams) -> Substitute:
        part, reference = self.prompts[some], self._partners
        if self.method == "mean" and reference is not None:
            self._mean = means(*totals(reference, self._look)) if self._mean is None else self._mean
            return self._mean
        if self.method == "mean" and len(self) > 1:
            self._total = totals(self.prompts, self._look) if self._total is None else self._total
            return left_out_means(self._outputs(streams), *self._total, part)
        if reference is not None and len(reference) == len(self.prompts):
            reference = reference[some]  # one to one
        return substitute(
            self.model,
            self.method,
            part,
            lambda prompts: self._outputs(streams) if prompts is part else self._look(prompts),
            reference=reference,
            clean=streams.attention,
            seed=self.seed,
        )

    def _look(self, prompts: Prompts) -> Outputs:
        return self._outputs(Streams(self.model, prompts.tokens))

    def _outputs(self, streams: Streams) -> Outputs:
        outputs: Outputs = {layer: seen.z for layer, seen in streams.attention.items()}
        if self.whole_streams:
            outputs |= {("stream", layer): stream[:, None] for layer, stream in enumerate(streams.before)}
        return outputs
