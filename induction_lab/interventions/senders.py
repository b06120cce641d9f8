"""What writes into the stream that a head reads: heads, MLPs, the embedding; and what each would change.

Senders are heads, whatever else a layer writes (`MLP16`: its MLP, and what mixes positions in a layer of a hybrid that
has no heads) and the embedding (`embed`): together they are all that a receiver reads, so what they contribute adds up
to the whole change of its input. Where heads are normalised together (Gemma 2 and 3, OLMo-2) that is the change with
these norms held at their scale in the clean run: what another scale would make of all heads together is no sender's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.internals.head_outputs import written_by_heads, written_together
from induction_lab.internals.reading import attention_layers, heads_of
from induction_lab.internals.residual_stream import ResidualStreams, refuse_hooked_patterns
from induction_lab.interventions.ablation_methods import OUTPUT_METHODS, listed
from induction_lab.interventions.prepared import PreparedBatch
from induction_lab.models.frozen_norms import refuse_gates
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import Head, HeadLike

Component = Literal["q", "k", "v"]


class Sender(NamedTuple):
    """What writes into the stream: a head, a layer's MLP (head -1), or the embedding (layer -1)."""

    layer: int
    head: int

    def __str__(self) -> str:
        """`L16H0`, `MLP16` or `embed`."""
        if self.head >= 0:
            return str(Head(*self))
        return f"MLP{self.layer}" if self.layer >= 0 else "embed"


def find_receivers(
    model: HookedModel, receivers: HeadLike | Iterable[HeadLike] | None, component: str
) -> tuple[list[Head], str]:
    """The receivers meant, and how to call them; none for the logits.

    Raises:
        ValueError: If a head is not there or given twice, or there is no such component.
    """
    if receivers is None:
        return [], "logits"
    if component not in get_args(Component):
        raise ValueError(f"`component` must be one of {', '.join(get_args(Component))}, got {component!r}.")
    chosen = heads_of(model, receivers)
    if not chosen:
        raise ValueError("Receivers are wanted, got none; for the logits give None.")
    return chosen, f"{component} of {' '.join(map(str, chosen))}"


def find_senders(
    model: HookedModel, senders: HeadLike | Iterable[HeadLike] | None, receivers: Sequence[Head]
) -> list[Sender]:
    """The senders meant, in the order of layers, so that each layer's outputs are made once; all by default.

    Raises:
        ValueError: If there is none, or one does not lie below a receiver.
    """
    top = max((head.layer for head in receivers), default=model.n_layers)
    if senders is None:
        every, attending = [Sender(-1, -1)], attention_layers(model)
        for layer in range(top):
            every += [Sender(layer, head) for head in range(model.n_heads) if layer in attending]
            every += [Sender(layer, -1)] * model.anatomy.has_mlps
        return every
    asked = heads_of(model, senders)
    above = [str(head) for head in asked if head.layer >= top]
    if above or not asked:
        raise ValueError(f"Senders must lie below a receiver (layer {top}), got {', '.join(above) or 'none'}.")
    return [Sender(*head) for head in sorted(asked)]


def check_patchable(model: HookedModel, method: str) -> None:
    """Refuse models whose heads' outputs cannot be told apart or replaced.

    Raises:
        ValueError: If the method is none of senders, or the model is one of those.
    """
    if method not in OUTPUT_METHODS:
        raise ValueError(f"Senders are replaced by {listed(OUTPUT_METHODS)}, got {method!r}.")
    if not model.anatomy.goes_through_interface:
        raise ValueError(
            f"{model.name} ({type(model.network).__name__}) attends out of sight of transformers' attention interface, "
            "so single paths cannot be patched; `ablate` works."
        )
    for layer in model.anatomy.attending:
        refuse_gates(model, layer)


def changes_of_stream(
    model: HookedModel, batch: PreparedBatch, senders: Sequence[Sender]
) -> Iterator[tuple[Sender, Float[Tensor, "prompt pos d_model"]]]:
    """What each sender adds to the stream when it is replaced, minus what it adds on its own."""
    streams, instead = batch.streams, batch.outputs
    nothing = torch.zeros((), dtype=torch.float32, device=model.device)

    def together(layer: int) -> Tensor | None:
        if layer not in instead.together:
            return None
        return instead.together[layer] - written_together(model, layer, streams.attention[layer].z)

    return _parts(
        streams,
        senders,
        lambda layer: instead.heads.get(layer, nothing) - streams.attention[layer].z,
        lambda layer: instead.streams.get(layer, nothing) - streams.before[layer],
        together,
    )


def written_by(
    streams: ResidualStreams, senders: Sequence[Sender]
) -> Iterator[tuple[Sender, Float[Tensor, "prompt pos d_model"]]]:
    """What each sender adds to the stream; an MLP's part has the biases of its layer in it."""
    return _parts(streams, senders, lambda layer: streams.attention[layer].z, lambda layer: streams.before[layer])


def _parts(
    streams: ResidualStreams,
    senders: Sequence[Sender],
    outputs: Callable[[int], Float[Tensor, "prompt head pos d_head"]],
    before: Callable[[int], Float[Tensor, "prompt pos d_model"]],
    together: Callable[[int], Float[Tensor, "prompt pos d_model"] | None] = lambda layer: None,
) -> Iterator[tuple[Sender, Float[Tensor, "prompt pos d_model"]]]:
    """Split the stream before each layer, or a change of it, into senders.

    `outputs` are those of a layer's heads; `together` says what these add to the stream, where that is not the sum of
    their parts: of a change, if a norm is held at its scale.
    """
    refuse_hooked_patterns(streams)
    model = streams.model
    for layer, same in itertools.groupby(senders, key=lambda sender: sender.layer):
        with torch.inference_mode():  # never across a `yield`
            if layer < 0:
                by_head, rest = before(0)[:, :0], before(0)
            elif layer not in streams.attention:  # of a hybrid, without heads
                by_head, rest = before(0)[:, :0], before(layer + 1) - before(layer)
            else:
                by_head = written_by_heads(model, layer, outputs(layer), at=streams.attention[layer].z)
                every = together(layer)
                rest = before(layer + 1) - before(layer) - (by_head.sum(1) if every is None else every)
        for sender in same:
            yield sender, by_head[:, sender.head] if sender.head >= 0 else rest
