"""Path patching: what one head tells another directly, through its queries, keys or values, or tells the logits.

A sender's output is replaced (by its mean over other prompts, say) on one edge only: the receiver's query, key or value
is worked out from a residual stream in which nothing but the sender's own contribution has changed, the norm before it
included, and everything else, the sender's other readers too, is as in the clean run up to the receiver. From there on
the model runs as it will. Each query head can be a receiver by itself, also where several share a key head.

Where a norm stands behind the heads of a layer together (Gemma 2 and 3, OLMo-2; BitNet), a head's own contribution is
that at the norm's scale in the clean run (`head_outputs.written_by_heads`), and so is the change of it. Source:
Wang et al. (2022), https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al. (2023), https://arxiv.org/abs/2304.05969.
Of what the receiver's input is made: `attribution.shares`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import Attention, LayerAttention
from induction_lab.attention.grouped import key_head
from induction_lab.behaviour.metrics import MetricLike, name_of
from induction_lab.data.prompts import PromptsLike
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.interventions.effects import Effects, effect_row, effects_table, estimated_row
from induction_lab.interventions.prepared import TOKENS_A_RUN, PreparedBatch, PreparedPrompts
from induction_lab.interventions.racing.first_order import has_gradients, output_gradients
from induction_lab.interventions.racing.race import race, staged
from induction_lab.interventions.senders import (
    Component,
    Sender,
    changes_of_stream,
    check_patchable,
    find_receivers,
    find_senders,
)
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, HeadLike
from induction_lab.runtime.progress import Ticker, progress_bar


@takes_names
def patch_paths(
    model: HookedModel,
    prompts: PromptsLike,
    receivers: HeadLike | Iterable[HeadLike] | None,
    component: Component | str = "k",
    *,
    senders: HeadLike | Iterable[HeadLike] | None = None,
    method: str = "mean",
    metric: MetricLike = "copy_loss",
    reference: PromptsLike | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Effects:
    """Cut the direct path from each sender to the receivers' queries, keys or values, and measure what is lost.

    What a layer's heads write together may be normalised before it enters the stream (Gemma 2 and 3, OLMo-2). That
    norm's scale is held at what it is in the clean run: a head then changes the stream by `gain * change / scale`, and
    these changes add up over heads. `ablate` runs the norm anew, which rescales what the other heads write as well.

    >>> model = load_model()                                                                    # doctest: +SKIP
    >>> patch_paths(model, repeated_tokens(model, n_prompts=4), ["L1H2", "L1H3"], "k").top(1)   # doctest: +SKIP
    [('L0H1', 0.3800045886600856)]

    Args:
        model: Any whose attention goes through transformers' interface, or an `AttentionOnlyTransformer`.
        prompts: What to measure on.
        receivers: One head or several; of several in different layers each sender reaches those above it. None: the
            logits, through the final norm (`component` then means nothing).
        component: `q`, `k` or `v` of the receivers.
        senders: Heads; by default every earlier head, every earlier MLP and the embedding.
        method: What senders put out instead, `mean`, `resample` or `zero`, as in `ablate`.
        metric: As in `ablation_sweep`.
        reference: As in `ablation_sweep`.
        seed: Of the choice that `resample` makes.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If a head is not there or given twice, no sender lies below a receiver, or the model's attention or
            what its heads write cannot be reached.
    """
    find_senders(model, senders, find_receivers(model, receivers, component)[0])
    check_patchable(model, method)
    prepared = PreparedPrompts(model, prompts, method, metric, reference=reference, seed=seed, whole_streams=True)
    return patch_prepared(prepared, receivers, component, senders=senders, progress=progress)


def patch_prepared(
    prepared: PreparedPrompts,
    receivers: HeadLike | Iterable[HeadLike] | None,
    component: Component | str,
    *,
    senders: HeadLike | Iterable[HeadLike] | None = None,
    screen: float | None = None,
    progress: bool = False,
) -> Effects:
    """`patch_paths` on prompts that are prepared already, with whole streams; `screen` as in `ablation_sweep`.

    Raises:
        ValueError: As there.
    """
    model = prepared.model
    chosen, to = find_receivers(model, receivers, component)
    every = {str(sender): sender for sender in find_senders(model, senders, chosen)}
    check_patchable(model, prepared.method)
    what = (f"{prepared.method} patch to {to}", name_of(prepared.metric))
    facts = prepared.provenance() | {"receivers": [str(head) for head in chosen], "component": component}

    def run(batch: PreparedBatch, names: Iterable[str], n_parts: int | None) -> Iterator[tuple[str, Tensor]]:
        return _patched(batch, [every[name] for name in names], chosen, component, n_parts)

    with progress_bar(len(every) * len(prepared.prompts), "patching paths", shown=progress) as tick:
        if screen is None:
            clean, values = _all_patched(prepared, every, run, tick)
            rows = {
                name: effect_row(model.name, name, _as_heads(every[name]), *what, clean, torch.cat(changed))
                for name, changed in values.items()
            }
        else:
            predict = _predicted(prepared, list(every.values()), chosen, component)
            how = {"within": screen, "n_all": len(every), "predict": predict, "tick": tick}
            clean, raced = race(staged(prepared, screen), list(every), run, **how)
            rows = {
                name: estimated_row(model.name, name, _as_heads(every[name]), *what, clean, *found)
                for name, found in raced.items()
            }
    return Effects(effects_table(rows, list(every)), facts)


def _all_patched(
    prepared: PreparedPrompts, names: Iterable[str], run: Callable[..., Iterator[tuple[str, Tensor]]], tick: Ticker
) -> tuple[Float[Tensor, " prompt"], dict[str, list[Tensor]]]:
    """The metric of each prompt, and, batch by batch, with each sender's path cut."""
    clean: list[Tensor] = []
    changed: dict[str, list[Tensor]] = {name: [] for name in names}
    for batch in prepared:
        clean.append(batch.clean)
        for name, values in run(batch, changed, None):
            changed[name].append(values)
            tick(len(values))
    return torch.cat(clean), changed


def _patched(
    batch: PreparedBatch, senders: Sequence[Sender], receivers: Sequence[Head], component: str, n_parts: int | None
) -> Iterator[tuple[str, Tensor]]:
    """The metric of each prompt, or the parts that it is made of, with one sender's path cut."""
    streams, measure = batch.streams, batch.measure
    model, most = streams.model, max(1, TOKENS_A_RUN // batch.prompts.tokens.numel())
    rows = torch.arange(len(batch.prompts))
    changes = changes_of_stream(model, batch, senders)
    below = itertools.groupby(changes, key=lambda pair: _reached(pair[0], receivers))
    for reached, pairs in below:
        for together in _batched(pairs, most):
            change = torch.cat([x for _, x in together]).to(streams.before[0].dtype)
            several = rows.repeat(len(together))
            with torch.inference_mode():
                if reached:
                    hidden = _run_patched(streams, several, change, reached, component)
                else:
                    hidden = streams.run(model.n_layers, stream=streams.before[-1][several] + change)
                values = measure(hidden, several) if n_parts is None else measure.parts(hidden, several, n_parts)
            yield from zip([str(sender) for sender, _ in together], values.chunk(len(together)), strict=True)


def _predicted(
    prepared: PreparedPrompts, senders: Sequence[Sender], receivers: Sequence[Head], component: str
) -> Callable[[PreparedBatch, int], Float[Tensor, "sender prompt part"]] | None:
    """What cutting each path changes the metric by: what the receivers put out then, and from there on by gradients."""
    if not receivers or not has_gradients(prepared.model):
        return None

    def predict(batch: PreparedBatch, n_parts: int) -> Tensor:
        gradients, streams = output_gradients(prepared.model, batch, n_parts), batch.streams
        rows, found = torch.arange(len(batch.prompts)), []
        for sender, change in changes_of_stream(prepared.model, batch, senders):
            total = torch.zeros(len(rows), n_parts, dtype=torch.float64)
            for layer, heads in _by_layer(_reached(sender, receivers)).items():
                change = change.to(streams.before[0].dtype)
                told = _component(streams, rows, layer, change, heads, component)
                attention = streams.attention[layer]
                with torch.inference_mode():
                    z = attention.mix(heads=torch.tensor(heads, device=attention.z.device), **{component: told})
                    by_part = gradients[layer][:, :, heads] * (z - attention.z[:, heads])
                total += by_part.sum((2, 3, 4)).T.double().cpu()
            found.append(total)
        return torch.stack(found)

    return predict


def _by_layer(receivers: Sequence[Head]) -> dict[int, list[int]]:
    by_layer: dict[int, list[int]] = {}
    for receiver in receivers:
        by_layer.setdefault(receiver.layer, []).append(receiver.head)
    return by_layer


def _run_patched(
    streams: ResidualStreams, rows: Int[Tensor, " row"], change: Tensor, receivers: Sequence[Head], component: str
) -> Tensor:
    """Each receiver's component from a stream with nothing but `change` in it, the rest of the model on its own."""
    by_layer = _by_layer(receivers)
    told = {
        layer: _component(streams, rows, layer, change, heads, component) for layer, heads in sorted(by_layer.items())
    }

    def tell(attention: LayerAttention) -> LayerAttention:
        if attention.layer not in told:
            return attention
        assert isinstance(attention, Attention)  # other models are refused
        heads = torch.tensor(by_layer[attention.layer], device=attention.z.device)
        z = attention.z.clone()
        z[:, heads] = attention.mix(heads=heads, **{component: told[attention.layer]})
        return replace(attention, z=z)

    return streams.run(min(by_layer), tell, prompts=rows)


def _component(
    streams: ResidualStreams, rows: Int[Tensor, " row"], layer: int, change: Tensor, heads: list[int], component: str
) -> Float[Tensor, "row head pos d_head"]:
    """The heads' queries, keys or values in a layer whose input has changed; the layers below are left out."""
    attention = streams.attention_at(layer, streams.before[layer][rows] + change, prompts=rows)
    assert isinstance(attention, Attention)  # other models are refused
    own = getattr(attention, component)
    shared = key_head(torch.tensor(heads, device=own.device), attention.q.shape[1], own.shape[1])
    return own.index_select(1, shared)


def _reached(sender: Sender, receivers: Sequence[Head]) -> tuple[Head, ...]:
    return tuple(head for head in receivers if head.layer > sender.layer)


def _batched(pairs: Iterable[tuple[Sender, Tensor]], most: int) -> Iterator[list[tuple[Sender, Tensor]]]:
    iterator = iter(pairs)
    while batch := list(itertools.islice(iterator, most)):
        yield batch


def _as_heads(sender: Sender) -> tuple[Head, ...]:
    return (Head(*sender),) if sender.head >= 0 else ()
