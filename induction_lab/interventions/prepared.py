"""Prompts in batches that fit in memory, each with all that interventions on it need."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import LayerAttention
from induction_lab.behaviour.metrics import Measure, MetricLike, as_metric, name_of
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.batches import chunks
from induction_lab.internals.head_outputs import adds_linearly, written_together
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.interventions.ablation_methods import find_method
from induction_lab.interventions.edits import OtherOutputs, Substitute
from induction_lab.interventions.outputs import Outputs
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import about_prompts, provenance

TOKENS_A_RUN = 4096


class PreparedBatch(NamedTuple):
    """Some prompts: their clean streams, what heads put out instead, and what the effect is measured by.

    `gradients` keeps what `racing.first_order` worked out: by number of parts, then by layer. `metric` keeps what
    `clean` and `clean_parts` did, by number of parts.
    """

    prompts: Prompts
    streams: ResidualStreams
    substitute: Substitute
    measure: Measure
    gradients: dict[int, dict[int, Tensor]]
    metric: dict[int | None, Tensor]

    @property
    def outputs(self) -> Outputs:
        """What is put out instead, of the methods that put out something else (`OUTPUT_METHODS`)."""
        assert isinstance(self.substitute, OtherOutputs)
        return self.substitute.outputs

    @property
    def clean(self) -> Float[Tensor, " prompt"]:
        """The metric of each prompt with nothing changed; NaN where it has none. Worked out once."""
        if None not in self.metric:
            self.metric[None] = self.measure.clean(self.streams.normalised)
        return self.metric[None]

    def clean_parts(self, n_parts: int) -> Float[Tensor, "prompt part"]:
        """What consecutive parts of the tokens that are read add to it (`Measure.parts`). Worked out once."""
        if n_parts not in self.metric:
            with torch.inference_mode():
                every = torch.arange(len(self.prompts))
                self.metric[n_parts] = self.measure.parts(self.streams.normalised, every, n_parts).cpu()
        return self.metric[n_parts]


class PreparedPrompts:
    """All prompts, a batch at a time; means are over all of them, and others are drawn from all, not from a batch.

    Args:
        model: Any supported model.
        prompts: What to measure on.
        method: What heads put out instead.
        metric: What is measured.
        reference: Other prompts for `mean` and `resample`.
        seed: Of what `resample` draws.
        whole_streams: Substitutes for the stream before each layer as well, and for what a layer's heads add together.

    Attributes:
        prompts: All of them, read.
        measure: The metric, ready for all of them.
        reference: Those that outputs are taken from, or None where the prompts lend them to each other.

    Raises:
        ValueError: If the method is unknown or not to be had, or the reference is shorter than the prompts.
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
        refuse_on_disk(model, "An intervention on each head", model.n_layers * model.n_heads)
        kind = find_method(model, method)
        prompts = as_prompts(model, prompts)
        reference = None if reference is None else as_prompts(model, reference)
        self.model, self.method, self.metric, self.seed = model, method, as_metric(metric), seed
        self.whole_streams = whole_streams
        self._substitutes = kind(self, reference=reference, seed=seed)
        self._read(prompts)

    def _read(self, prompts: Prompts) -> None:
        self.prompts = prompts
        self.slices = chunks(*prompts.tokens.shape, most=TOKENS_A_RUN)
        self.measure = Measure(self.model, self.metric, prompts)
        self._substitutes = self._substitutes.prepared(prompts)
        self._substitutes.runs = self
        self.reference = self._substitutes.reference
        self._streams: ResidualStreams | None = None  # of the batch at hand
        self._kept: dict[int, PreparedBatch] = {}  # where all prompts fit in one batch

    def in_stages(self) -> PreparedPrompts:
        """The same, the first batches of 1, 1, 2, 4, 8, … prompts."""
        n = len(self.prompts)
        step = chunks(*self.prompts.tokens.shape, most=TOKENS_A_RUN)[0].stop
        ends = [0, *itertools.takewhile(lambda end: end < n, (2**i for i in itertools.count())), n]
        slices = [
            slice(start, min(start + step, end))
            for begin, end in itertools.pairwise(ends)
            for start in range(begin, end, step)
        ]
        if self.slices == slices:
            return self
        other = copy.copy(self)
        other.slices = slices
        other._substitutes = self._substitutes.prepared(self.prompts)
        other._substitutes.runs, other._kept = other, {}
        return other

    def on(self, prompts: Prompts) -> PreparedPrompts:
        """The same for other prompts, as long as these: what is known of the reference is not worked out again."""
        other = copy.copy(self)
        other._read(prompts)
        return other

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.slices)

    def __iter__(self) -> Iterator[PreparedBatch]:
        """Each batch, run anew unless all fit into one."""
        keep = len(self) == 1 or self.prompts.tokens.numel() <= TOKENS_A_RUN
        for rows in self.slices:
            if rows.start in self._kept:
                yield self._kept[rows.start]
                continue
            part = self.prompts[rows]
            streams = self._streams = residual_streams(self.model, part.tokens)
            batch = PreparedBatch(part, streams, self._substitutes.on(rows), self.measure.of(rows), {}, {})
            if keep:
                self._kept[rows.start] = batch
            yield batch

    def provenance(self) -> dict[str, Any]:
        """What another lab needs to repeat an intervention on them."""
        other = None if self.reference is None else about_prompts(self.reference)
        how = {"method": self.method, "metric": name_of(self.metric), "seed": self.seed, "reference": other}
        return provenance(self.model, self.prompts) | how

    def outputs(self, prompts: Prompts) -> Outputs:
        """What heads put out on some prompts and, if wanted, what stands before each layer."""
        streams = self._run(prompts)
        heads = {layer: seen.z for layer, seen in streams.attention.items()}
        if not self.whole_streams:
            return Outputs(heads)
        normalised = [layer for layer in heads if not adds_linearly(self.model, layer)]
        together = {layer: written_together(self.model, layer, heads[layer]) for layer in normalised}
        return Outputs(heads, dict(enumerate(streams.before)), together)

    def attention(self, prompts: Prompts) -> dict[int, LayerAttention]:
        """By layer, the attention on some prompts."""
        return self._run(prompts).attention

    def _run(self, prompts: Prompts) -> ResidualStreams:
        """The batch at hand has been run already."""
        known = self._streams
        if known is not None and torch.equal(known.tokens, prompts.tokens.to(known.tokens)):
            return known
        return residual_streams(self.model, prompts.tokens)
