"""Path patching: what one head tells another directly, through its queries, keys or values, or tells the logits.

A sender's output is replaced (by its mean over other prompts, say) on one edge only: the receiver's query, key or value
is worked out from a residual stream in which nothing but the sender's own contribution has changed, the norm before it
included, and everything else, the sender's other readers too, is as in the clean run up to the receiver. From there on
the model runs as it will. Each query head can be a receiver by itself, also where several share a key head. Source:
Wang et al. (2022), https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al. (2023), https://arxiv.org/abs/2304.05969.

Senders are heads, a layer's MLP (`MLP16`) and the embedding (`embed`): together they are all that a receiver reads, so
what they contribute adds up to the whole change of its input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention_only import AttentionOnlyTransformer
from induction_lab.editing import Streams, refuse_hooked_patterns
from induction_lab.effects import Effects, effect_row, effects_table
from induction_lab.head_weights import head_weights
from induction_lab.heads import Head, HeadLike, parse_heads
from induction_lab.metrics import MetricLike, name_of
from induction_lab.models import HookedModel
from induction_lab.norms import attention_scale, folded_weights, output_norm, residual_factor
from induction_lab.progress import Ticker, progress_bar
from induction_lab.prompts import PromptsLike
from induction_lab.provenance import provenance
from induction_lab.reading import Enough, goes_through_interface
from induction_lab.turns import TOKENS_A_RUN, Turn, Turns

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
        method: `mean`, `resample` or `zero`, as in `ablate`.
        metric: As in `ablation_sweep`.
        reference: As there.
        seed: As there.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If a head is not there or given twice, no sender lies below a receiver, or the model's attention or
            what its heads write cannot be reached.
    """
    chosen, to = _receivers(model, receivers, component)
    every = _senders(model, senders, chosen)
    _check(model, method)
    turns = Turns(model, prompts, method, metric, reference=reference, seed=seed, whole_streams=True)
    effects: dict[Sender, list[Tensor]] = {sender: [] for sender in every}
    clean: list[Tensor] = []
    with progress_bar(len(every) * len(turns.prompts), "patching paths", shown=progress) as tick:
        for turn in turns:
            clean.append(turn.measure.clean(turn.streams.normalised))
            for sender, values in _patched(turn, every, chosen, component, tick):
                effects[sender].append(values)
    what = (f"{method} patch to {to}", name_of(turns.metric), torch.cat(clean))
    rows = {
        str(sender): effect_row(model.name, str(sender), _as_heads(sender), *what, torch.cat(values))
        for sender, values in effects.items()
    }
    facts = provenance(model, turns.prompts) | {"receivers": [str(head) for head in chosen], "component": component}
    return Effects(effects_table(rows, [str(sender) for sender in every]), facts)


def input_shares(
    model: HookedModel,
    prompts: PromptsLike,
    receiver: HeadLike,
    component: Component | str = "k",
    *,
    method: str = "mean",
    reference: PromptsLike | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the change of a receiver's query, key or value each sender brings, when all of them are replaced.

    With the norm's scale held at what it is on the clean run, the change is linear in the senders: a sender's share is
    the inner product of its part with the whole change over the whole change's square, summed over positions. Shares
    add up to 1 and may be negative. Queries and keys are taken before rotation.

    Returns:
        A table of `sender`, `layer`, `head`, `share` (mean over prompts) and `standard_error`, greatest first.

    Raises:
        ValueError: As in `patch_paths`, and for an own model with smeared keys or `shortformer` positions.
    """
    _refuse_mixed_inputs(model)
    (head,), _ = _receivers(model, receiver, component)
    every = _senders(model, None, [head])
    _check(model, method)
    weights = getattr(folded_weights(model, head.layer), f"W_{component.upper()}")
    W = weights[head.head // (model.n_heads // len(weights))]
    shares = []
    for turn in Turns(model, prompts, method, "loss", reference=reference, seed=seed, whole_streams=True):
        scale = attention_scale(model, head.layer, turn.streams.before[head.layer])
        parts = {sender: change / scale @ W for sender, change in _changes(model, turn, every)}
        whole = sum(parts.values(), torch.zeros(()))
        size = whole.square().sum((1, 2))
        shares.append(torch.stack([(part * whole).sum((1, 2)) / size for part in parts.values()], 1).cpu())
    per_prompt = torch.cat(shares)
    error = per_prompt.std(0) / len(per_prompt) ** 0.5 if len(per_prompt) > 1 else per_prompt[0] * math.nan
    table = pd.DataFrame(
        {"sender": map(str, every), "layer": [s.layer for s in every], "head": [s.head for s in every]}
    )
    table = table.assign(share=per_prompt.mean(0).tolist(), standard_error=error.tolist())
    return table.sort_values("share", ascending=False, ignore_index=True)


def _patched(
    turn: Turn, senders: Sequence[Sender], receivers: Sequence[Head], component: str, tick: Ticker
) -> Iterator[tuple[Sender, Tensor]]:
    """The metric of each prompt with one sender's path cut."""
    streams = turn.streams
    model, most = streams.model, max(1, TOKENS_A_RUN // turn.prompts.tokens.numel())
    rows = torch.arange(len(turn.prompts))
    below = itertools.groupby(_changes(model, turn, senders), key=lambda pair: _reached(pair[0], receivers))
    for reached, pairs in below:
        for batch in _batched(pairs, most):
            change = torch.cat([x for _, x in batch]).to(streams.before[0].dtype)
            several = rows.repeat(len(batch))
            with torch.inference_mode():
                if reached:
                    hidden = _run_patched(streams, several, change, reached, component)
                else:
                    hidden = streams.run(model.n_layers, stream=streams.before[-1][several] + change)
            values = turn.measure(hidden, several).chunk(len(batch))
            yield from zip([sender for sender, _ in batch], values, strict=True)
            tick(len(several))


def _run_patched(
    streams: Streams, rows: Int[Tensor, " row"], change: Tensor, receivers: Sequence[Head], component: str
) -> Tensor:
    """Each receiver's component from a stream with nothing but `change` in it, the rest of the model on its own."""
    by_layer: dict[int, list[int]] = {}
    for receiver in receivers:
        by_layer.setdefault(receiver.layer, []).append(receiver.head)
    told = {
        layer: _component(streams, rows, layer, change, heads, component) for layer, heads in sorted(by_layer.items())
    }

    def tell(attention: Any) -> Any:
        if attention.layer not in told:
            return attention
        heads = torch.tensor(by_layer[attention.layer], device=attention.z.device)
        z = attention.z.clone()
        z[:, heads] = attention.mix(heads=heads, **{component: told[attention.layer]})
        return replace(attention, z=z)

    return streams.run(min(by_layer), tell, prompts=rows)


def _component(
    streams: Streams, rows: Int[Tensor, " row"], layer: int, change: Tensor, heads: list[int], component: str
) -> Float[Tensor, "row head pos d_head"]:
    """The heads' queries, keys or values in a layer whose input has changed; the layers below are left out."""
    found: list[Tensor] = []

    def look(attention: Any) -> Any:
        if attention.layer != layer:
            return attention
        own = getattr(attention, component)
        shared = torch.tensor(heads, device=own.device) // (attention.q.shape[1] // own.shape[1])
        found.append(own.index_select(1, shared).clone())
        raise Enough

    try:
        streams.run(layer, look, prompts=rows, stream=streams.before[layer][rows] + change)
    except Enough:
        pass
    return found[0]


def _changes(
    model: HookedModel, turn: Turn, senders: Sequence[Sender]
) -> Iterator[tuple[Sender, Float[Tensor, "prompt pos d_model"]]]:
    """What each sender adds to the stream when it is replaced, less what it adds on its own."""
    streams, instead = turn.streams, turn.substitute.outputs
    refuse_hooked_patterns(streams)

    def heads(layer: int) -> Float[Tensor, "prompt head pos d_model"]:
        z = streams.attention[layer].z
        W_O = head_weights(model, layer).W_O
        return (instead.get(layer, torch.zeros((), device=z.device)) - z) @ W_O * residual_factor(model)

    def stream(layer: int) -> Tensor:
        before = streams.before[layer]
        other = instead.get(("stream", layer))
        return (torch.zeros((), device=before.device) if other is None else other[:, 0]) - before

    for layer, same in itertools.groupby(senders, key=lambda sender: sender.layer):
        with torch.inference_mode():  # never across a `yield`
            by_head = heads(layer) if layer >= 0 else stream(0)[:, None]
            rest = stream(layer + 1) - stream(layer) - by_head.sum(1) if layer >= 0 else by_head[:, 0]
        for sender in same:
            yield sender, by_head[:, sender.head] if sender.head >= 0 else rest


def _refuse_mixed_inputs(model: HookedModel) -> None:
    """Keys that are no linear function of the stream where they stand have no shares of its parts."""
    config = model.network.cfg if isinstance(model.network, AttentionOnlyTransformer) else None
    if config is not None and (config.smeared_keys or config.positions == "shortformer"):
        what = "smeared keys" if config.smeared_keys else "positions in queries and keys alone"
        raise ValueError(f"{model.name} has {what}, so what its heads read is not the stream: use patch_paths.")


def _receivers(
    model: HookedModel, receivers: HeadLike | Iterable[HeadLike] | None, component: str
) -> tuple[list[Head], str]:
    if receivers is None:
        return [], "logits"
    if component not in get_args(Component):
        raise ValueError(f"`component` must be one of {', '.join(get_args(Component))}, got {component!r}.")
    chosen = parse_heads(receivers, n_layers=model.n_layers, n_heads=model.n_heads)
    if not chosen:
        raise ValueError("Receivers are wanted, got none; for the logits give None.")
    return chosen, f"{component} of {' '.join(map(str, chosen))}"


def _senders(
    model: HookedModel, senders: HeadLike | Iterable[HeadLike] | None, receivers: Sequence[Head]
) -> list[Sender]:
    """In the order of layers, so that each layer's outputs are made once."""
    top = max((head.layer for head in receivers), default=model.n_layers)
    if senders is None:
        has_mlps = not (isinstance(model.network, AttentionOnlyTransformer) and model.network.cfg.attn_only)
        every = [Sender(-1, -1)]
        for layer in range(top):
            every += [Sender(layer, head) for head in range(model.n_heads)] + [Sender(layer, -1)] * has_mlps
        return every
    asked = parse_heads(senders, n_layers=model.n_layers, n_heads=model.n_heads)
    above = [str(head) for head in asked if head.layer >= top]
    if above or not asked:
        raise ValueError(f"Senders must lie below a receiver (layer {top}), got {', '.join(above) or 'none'}.")
    return [Sender(*head) for head in sorted(asked)]


def _check(model: HookedModel, method: str) -> None:
    if method not in ("mean", "resample", "zero"):
        raise ValueError(f"Senders are replaced by their mean, by resample or by zero, got {method!r}.")
    if not goes_through_interface(model):
        raise ValueError(
            f"{model.name} ({type(model.network).__name__}) attends out of sight of transformers' attention interface, "
            "so single paths cannot be patched; `ablate` works."
        )
    if output_norm(model, 0) is not None:
        raise ValueError(
            f"{model.name} normalises what its heads write together, so that no head's share of it is its own: paths "
            "cannot be patched; `ablate` works."
        )


def _reached(sender: Sender, receivers: Sequence[Head]) -> tuple[Head, ...]:
    return tuple(head for head in receivers if head.layer > sender.layer)


def _batched(pairs: Iterable[tuple[Sender, Tensor]], most: int) -> Iterator[list[tuple[Sender, Tensor]]]:
    iterator = iter(pairs)
    while batch := list(itertools.islice(iterator, most)):
        yield batch


def _as_heads(sender: Sender) -> tuple[Head, ...]:
    return (Head(*sender),) if sender.head >= 0 else ()
