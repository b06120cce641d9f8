"""Of what a head's input is made, and its attention: the share of everything that writes into the stream it reads.

`input_shares` splits the change of its queries, keys or values when all that writes is replaced; `score_shares` splits
how far the score of its induction targets stands above that of other keys. Both hold the scale of every norm on the way
at what it is in the clean run: of the norm that the head reads through, and of one of what a layer's heads write
together (Gemma 2 and 3, OLMo-2). So what is split is linear in what embedding, heads and MLPs wrote. Source of the
split: Elhage et al. (2021), "K-composition", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Sequence

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
def score_shares(model: HookedModel, prompts: PromptsLike, receiver: HeadLike) -> pd.DataFrame:
    """The share of each sender in how far a head's score at its induction targets stands above its other keys.

    A softmax sees differences alone, so what counts is how far a target's score stands above the mean of the query's
    other keys (BOS, where heads rest, and keys out of its window left out), before a cap of scores (Gemma 2). Norms are
    held at their scale in the clean run: the one that heads read through, one of what a layer's heads write together
    (Gemma 2 and 3, OLMo-2), one of keys.

    >>> model = load_model()                                                            # doctest: +SKIP
    >>> score_shares(model, repeated_tokens(model), "L1H2")["sender"][0]                 # doctest: +SKIP
    'L0H3'

    Args:
        model: Any whose attention goes through transformers' interface, or an `AttentionOnlyTransformer`.
        prompts: Tokens of which some occur twice, such as `repeated_tokens`.
        receiver: The head whose keys are read. Queries are its own, whole.

    Returns:
        A table of `sender` (`embed`, heads, `MLP3`, and `bias`: of keys and norm), `layer`, `head`, `share` (mean over
        prompts; shares add up to 1 and may be negative) and `standard_error`, greatest first.

    Raises:
        ValueError: If the head is not there, nothing recurs in its sight, or the model's scores are no sum of what was
            written.
    """
    (head,) = heads_of(model, receiver)
    prompts = as_prompts(model, prompts)
    _check_scores(model, prompts, head)
    senders = find_senders(model, None, [head])
    found = []
    for row in range(len(prompts)):  # one at a time: all that was written, at once, is large
        tokens = prompts.tokens[row : row + 1]
        targets = attention_targets(prompts[row : row + 1], ["prefix_matching"])
        if len(targets.query):
            streams = residual_streams(model, tokens)
            found += _score_shares(streams, senders, head, targets.query, targets.key)
    if not found:
        raise ValueError(f"No induction target lies in the window that {head} sees: use prompts of a shorter period.")
    named = [(str(sender), sender) for sender in senders]
    return _table([*named, ("bias", Sender(-1, -1))], torch.stack(found))


def _score_shares(
    streams: ResidualStreams,
    senders: Sequence[Sender],
    head: Head,
    query: Int[Tensor, " pair"],
    key: Int[Tensor, " pair"],
) -> list[Float[Tensor, " part"]]:
    """On one prompt, the last part being the bias; none where no target is in sight."""
    model, written = streams.model, torch.cat([part for _, part in written_by(streams, senders)])
    attention, query, key = streams.attention[head.layer], query.to(model.device), key.to(model.device)
    weights = folded_weights(model, head.layer).W_K[..., : attention.k.shape[-1]]
    shared = key_head(head.head, model.n_heads, len(weights))
    with torch.inference_mode():
        sight = attention.scores(heads=torch.tensor([head.head], device=model.device), queries=query)[0, 0] > _UNSEEN
        sight[:, 0] = False
        kept = sight.gather(1, key[:, None])[:, 0] & (sight.sum(1) > 1)
        query, key, sight = query[kept], key[kept], sight[kept]
        if not len(query):
            return []
        width = attention.k.shape[-1]
        R = relative_rotations(model, range(written.shape[1]))[head.layer][:, :width, :width]
        own = attention.k[:, shared].to(model.wide)  # rotated, biases in
        scale = attention_scale(model, head.layer, streams.before[head.layer])
        read = written.to(model.wide) / scale[0] @ weights[shared] / _key_scale(streams, head.layer, shared, own)
        every = torch.cat([torch.einsum("cpd,pde->cpe", read, R), own])
        above = every[:, key] - _mean_of_others(every, query, key, sight)
        scores = (above * attention.q[0, head.head, query].to(model.wide)).sum((1, 2))
        return [(torch.cat([scores[:-1], scores[-1:] - scores[:-1].sum()]) / scores[-1]).cpu()]


def _key_scale(
    streams: ResidualStreams, layer: int, shared: int, own: Float[Tensor, "1 pos d_head"]
) -> Float[Tensor, "pos 1"]:
    """By what a norm divides the keys of one head, and a rotation that also stretches them (YaRN)."""
    model = streams.model
    W_K, b_K = model.anatomy.projection(layer, "k")
    stream = model.anatomy.norm_before(layer)(streams.before[layer]).to(model.wide)
    keys = torch.einsum("cpd,hde->cphe", stream, W_K.to(model.wide)) + (0.0 if b_K is None else b_K.to(model.wide))
    normalised, scale = head_normalised(model, layer, "k", keys)
    stretch = own.norm() / normalised[:, :, shared].norm()
    rounding = max(1e-4, torch.finfo(model.dtype).eps)
    stretch = torch.where((stretch - 1).abs() < rounding, 1.0, stretch)
    return scale.expand(*keys.shape[:-1], 1)[0, :, shared] / stretch


def _mean_of_others(
    rows: Float[Tensor, "part pos d_head"],
    query: Int[Tensor, " pair"],
    key: Int[Tensor, " pair"],
    sight: Bool[Tensor, "pair pos"],
) -> Float[Tensor, "part pair d_head"]:
    """Over the keys in the query's sight, without the target; BOS is out of it."""
    if (sight.sum(1) == query).all():  # no window
        upto = rows[:, 1:].cumsum(1)[:, query - 1]
        return (upto - rows[:, key]) / (query - 1)[:, None]
    others = sight.scatter(1, key[:, None], False).to(rows.dtype)
    return torch.einsum("ckd,pk->cpd", rows, others / others.sum(1, keepdim=True))


def _table(named: Sequence[tuple[str, Sender]], per_prompt: Float[Tensor, "prompt part"]) -> pd.DataFrame:
    """One row a part, the greatest share first."""
    share, error = mean_and_error(per_prompt)
    table = pd.DataFrame([(name, *sender) for name, sender in named], columns=pd.Index(["sender", "layer", "head"]))
    table = table.assign(share=share.tolist(), standard_error=error.tolist())
    return table.sort_values("share", ascending=False, ignore_index=True)


def _refuse_mixed_inputs(model: HookedModel) -> None:
    """Keys that are no linear function of the stream where they stand have no shares of its parts."""
    if not model.anatomy.keys_read_stream_only:
        what = "smeared keys" if model.anatomy.smeared_keys else "positions in queries and keys alone"
        raise ValueError(f"{model.name} has {what}, so what its heads read is not the stream: use patch_paths.")


def _check_scores(model: HookedModel, prompts: Prompts, head: Head) -> None:
    if not model.anatomy.goes_through_interface:
        raise ValueError(
            f"{model.name} attends out of sight of transformers' attention interface, so its scores cannot be split by "
            "head."
        )
    _refuse_mixed_inputs(model)
    if not len(attention_targets(prompts, ["prefix_matching"]).query):
        raise ValueError("No token occurs a second time, so there is no induction target: use repeated_tokens(model).")
