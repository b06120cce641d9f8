"""Of what a head's input is made, and its attention: the share of everything that writes into the stream it reads.

`input_shares` splits the change of its queries, keys or values when all that writes is replaced; `score_shares` splits
how far the score of its induction targets stands above that of other keys. Both hold the scale of every norm on the way
at what it is in the clean run: of the norm that the head reads through, and of one of what a layer's heads write
together (Gemma 2 and 3, OLMo-2). So what is split is linear in what embedding, heads and MLPs wrote. Source of the
split: Elhage et al. (2021), "K-composition", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.attention.grouped import key_head
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.reading import heads_of
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.interventions.senders import (
    Component,
    Sender,
    changes_of_stream,
    check_patchable,
    find_receivers,
    find_senders,
    written_by,
)
from induction_lab.models.frozen_norms import attention_scale, folded_weights, head_normalised
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, HeadLike
from induction_lab.results.statistics import mean_and_error
from induction_lab.scores.attention_scores import attention_targets
from induction_lab.weights.rotary import relative_rotations

_UNSEEN = -1e30  # scores below are masked


@takes_names
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

    A sender's share is the inner product of its part with the whole change over the whole change's square, summed over
    positions. Shares add up to 1 and may be negative. Queries and keys are taken before rotation. Norms are held at
    their scale in the clean run, also one of what a layer's heads write together (Gemma 2 and 3, OLMo-2); of a norm of
    queries or keys the gain is taken in.

    Args:
        model: Any whose attention goes through transformers' interface, or an `AttentionOnlyTransformer`.
        prompts: What the model reads.
        receiver: The head whose input is split.
        component: `q`, `k` or `v` of it.
        method: What senders put out instead, `mean`, `resample` or `zero`, as in `ablate`.
        reference: As in `ablation_sweep`.
        seed: Of the choice that `resample` makes.

    Returns:
        A table of `sender` (`embed`, heads, `MLP3`), `layer`, `head`, `share` (mean over prompts) and `standard_error`,
        greatest first.

    Raises:
        ValueError: If the head is not there, has no sender below it or reads more than the stream (smeared keys,
            `shortformer` positions), or the model's attention or what its heads write cannot be reached.
    """
    _refuse_mixed_inputs(model)
    (head,), _ = find_receivers(model, receiver, component)
    if model.anatomy.latents(head.layer) is not None:
        raise ValueError(
            f"{head} of {model.name} makes its {component} of latents, whose norm divides a part of it anew at every "
            "token, so that what it reads has no shares by weights: use patch_paths."
        )
    senders = find_senders(model, None, [head])
    check_patchable(model, method)
    weights = getattr(folded_weights(model, head.layer), f"W_{component.upper()}")
    W = weights[key_head(head.head, model.n_heads, len(weights))]
    shares = []
    for batch in PreparedPrompts(model, prompts, method, "loss", reference=reference, seed=seed, whole_streams=True):
        scale = attention_scale(model, head.layer, batch.streams.before[head.layer])
        real = batch.prompts.real[..., None].to(model.device)
        parts = [change / scale @ W * real for _, change in changes_of_stream(model, batch, senders)]
        whole = sum(parts, torch.zeros((), dtype=torch.float32))
        size = whole.square().sum((1, 2))
        shares.append(torch.stack([(part * whole).sum((1, 2)) / size for part in parts], 1).cpu())
    return _table([(str(sender), sender) for sender in senders], torch.cat(shares))


@takes_names
def score_shares(
    model: HookedModel,
    prompts: PromptsLike,
    receiver: HeadLike,
    component: Component | str = "k",
    *,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> pd.DataFrame:
    """The share of each sender in how far a head's score at its induction targets stands above its other keys.

    A softmax sees differences alone, so what counts is how far a target's score stands above the mean of the query's
    other keys (BOS, where heads rest, and keys out of its window left out), before a cap of scores (Gemma 2). Norms are
    held at their scale in the clean run: the one that heads read through, one of what a layer's heads write together
    (Gemma 2 and 3, OLMo-2), one of queries or keys.

    >>> model = load_model()                                                            # doctest: +SKIP
    >>> score_shares(model, repeated_tokens(model), "L1H2")["sender"][0]                 # doctest: +SKIP
    'L0H3'

    Args:
        model: Any whose attention goes through transformers' interface, or an `AttentionOnlyTransformer`.
        prompts: Tokens of which some occur twice, such as `repeated_tokens`; any, where pairs are given.
        receiver: The head whose scores are split.
        component: `k`: by who wrote what the keys are made of, the queries being its own, whole; `q`: the other way.
        pairs: Query and key, as positions, of the scores to split, in place of the induction targets.

    Returns:
        A table of `sender` (`embed`, heads, `MLP3`, and `bias`: of the projection and the norm), `layer`, `head`,
        `share` (mean over prompts; shares add up to 1 and may be negative), `standard_error`, and `score`: the same as
        parts of the scaled score, mean over pairs and prompts; greatest share first.

    Raises:
        ValueError: If the head is not there, nothing recurs in its sight, a pair is none of a query and an earlier key,
            or the model's scores are no sum of what was written.
    """
    (head,) = heads_of(model, receiver)
    if component not in ("q", "k"):
        raise ValueError(f"`component` must be q or k, a score being their product, got {component!r}.")
    prompts = as_prompts(model, prompts)
    given = None if pairs is None else _pairs(pairs, prompts)
    _check_scores(model, None if given else prompts, head)
    senders = find_senders(model, None, [head])
    found = []
    for row in range(len(prompts)):  # one at a time: all that was written, at once, is large
        tokens = prompts.tokens[row : row + 1]
        query, key = given or _induction_pairs(prompts[row : row + 1])
        if len(query):
            streams = residual_streams(model, tokens)
            found += _score_parts(streams, senders, head, query, key, "q" if component == "q" else "k")
    if not found:
        raise ValueError(
            f"No induction target lies in the window that {head} sees: use prompts of a shorter period."
            if given is None
            else f"No pair lies in the window that {head} sees, with another key but the first beside it."
        )
    parts = torch.stack(found)
    named = [*((str(sender), sender) for sender in senders), ("bias", Sender(-1, -1))]
    return _table(named, parts / parts.sum(1, keepdim=True), score=parts.mean(0).tolist())


def _induction_pairs(prompt: Prompts) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    targets = attention_targets(prompt, ["prefix_matching"])
    return targets.query, targets.key


def _pairs(pairs: Iterable[tuple[int, int]], prompts: Prompts) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """Queries and keys; a ValueError where one is none."""
    several, shortest = [tuple(pair) for pair in pairs], int(prompts.real_lengths.min())
    for pair in several:
        if len(pair) != 2 or not 0 < pair[1] <= pair[0] < shortest:
            raise ValueError(f"A pair is (query, key), 0 < key <= query < {shortest}, got {pair}.")
    if not several:
        raise ValueError("Pairs of query and key are wanted, got none: leave `pairs` out for the induction targets.")
    query, key = torch.tensor(several).T
    return query, key


def _score_parts(
    streams: ResidualStreams,
    senders: Sequence[Sender],
    head: Head,
    query: Int[Tensor, " pair"],
    key: Int[Tensor, " pair"],
    component: Component,
) -> list[Float[Tensor, " part"]]:
    """On one prompt, means over pairs, the last part being the bias; none where no target is in sight."""
    model, written = streams.model, torch.cat([part for _, part in written_by(streams, senders)])
    attention, query, key = streams.attention[head.layer], query.to(model.device), key.to(model.device)
    shared, width = key_head(head.head, model.n_heads, attention.k.shape[1]), attention.k.shape[-1]
    read = shared if component == "k" else head.head
    W = getattr(folded_weights(model, head.layer), f"W_{component.upper()}")[read][:, :width]
    with torch.inference_mode():
        sight = attention.scores(heads=torch.tensor([head.head], device=model.device), queries=query)[0, 0] > _UNSEEN
        sight[:, 0] = False
        kept = sight.gather(1, key[:, None])[:, 0] & (sight.sum(1) > 1)
        query, key, sight = query[kept], key[kept], sight[kept]
        if not len(query):
            return []
        R = relative_rotations(model, range(written.shape[1]))[head.layer][:, :width, :width]
        keys, queries = attention.k[:, shared].to(model.wide), attention.q[:, head.head].to(model.wide)  # biases in
        own = keys if component == "k" else queries
        scale = attention_scale(model, head.layer, streams.before[head.layer])
        parts = written.to(model.wide) / scale[0] @ W / _head_scale(streams, head.layer, component, read, own)
        every = torch.cat([torch.einsum("cpd,pde->cpe", parts, R), own])
        if component == "k":
            scores = (_above(every, query, key, sight) * queries[0, query]).sum(2)
        else:
            scores = (_above(keys, query, key, sight) * every[:, query]).sum(2)
        scores = scores.mean(1) * attention.scale
        return [torch.cat([scores[:-1], scores[-1:] - scores[:-1].sum()]).cpu()]


def _head_scale(
    streams: ResidualStreams, layer: int, component: Component, head: int, own: Float[Tensor, "1 pos d_head"]
) -> Float[Tensor, "pos 1"]:
    """By what a norm divides the queries or keys of one head, and a rotation that also stretches them (YaRN)."""
    model = streams.model
    W, b = model.anatomy.projection(layer, component)
    stream = model.anatomy.norm_before(layer)(streams.before[layer]).to(model.wide)
    made = torch.einsum("cpd,hde->cphe", stream, W.to(model.wide)) + (0.0 if b is None else b.to(model.wide))
    normalised, scale = head_normalised(model, layer, component, made)
    stretch = own.norm() / normalised[:, :, head].norm()
    rounding = max(1e-4, torch.finfo(model.dtype).eps)
    none = stretch.isnan() | ((stretch - 1).abs() < rounding)  # a head without queries or keys shows none
    stretch = torch.where(none, 1.0, stretch)
    return scale.expand(*made.shape[:-1], 1)[0, :, head] / stretch


def _above(
    rows: Float[Tensor, "part pos d_head"],
    query: Int[Tensor, " pair"],
    key: Int[Tensor, " pair"],
    sight: Bool[Tensor, "pair pos"],
) -> Float[Tensor, "part pair d_head"]:
    """Each pair's key, less the mean over the other keys in the query's sight; BOS is out of it."""
    if (sight.sum(1) == query).all():  # no window
        upto = rows[:, 1:].cumsum(1)[:, query - 1]
        return rows[:, key] - (upto - rows[:, key]) / (query - 1)[:, None]
    others = sight.scatter(1, key[:, None], False).to(rows.dtype)
    return rows[:, key] - torch.einsum("ckd,pk->cpd", rows, others / others.sum(1, keepdim=True))


def _table(
    named: Sequence[tuple[str, Sender]], per_prompt: Float[Tensor, "prompt part"], **columns: list[float]
) -> pd.DataFrame:
    """One row a part, the greatest share first."""
    share, error = mean_and_error(per_prompt)
    table = pd.DataFrame([(name, *sender) for name, sender in named], columns=pd.Index(["sender", "layer", "head"]))
    table = table.assign(share=share.tolist(), standard_error=error.tolist(), **columns)
    return table.sort_values("share", ascending=False, ignore_index=True)


def _refuse_mixed_inputs(model: HookedModel) -> None:
    """Keys that are no linear function of the stream where they stand have no shares of its parts."""
    if not model.anatomy.keys_read_stream_only:
        what = "smeared keys" if model.anatomy.smeared_keys else "positions in queries and keys alone"
        raise ValueError(f"{model.name} has {what}, so what its heads read is not the stream: use patch_paths.")


def _check_scores(model: HookedModel, prompts: Prompts | None, head: Head) -> None:
    if not model.anatomy.goes_through_interface:
        raise ValueError(
            f"{model.name} attends out of sight of transformers' attention interface, so its scores cannot be split by "
            "head."
        )
    _refuse_mixed_inputs(model)
    if prompts is not None and not len(_induction_pairs(prompts)[0]):
        raise ValueError("No token occurs a second time, so there is no induction target: use repeated_tokens(model).")
