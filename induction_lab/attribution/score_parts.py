"""What makes a head look where it looks: its attention score at the induction targets, by who wrote what its keys read.

A softmax sees differences alone, so what counts is how far a target's score stands above the mean of the query's other
keys (BOS left out, where heads rest). With the query and the norm's scale held as they are, that is linear in what
embedding, heads and MLPs wrote where the keys stand. Source of the split: Elhage et al. (2021), "K-composition",
https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.residual_stream import Streams, refuse_hooked_patterns
from induction_lab.models.anatomy import goes_through_interface
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.norms import attention_scale, folded_weights, head_norm, output_norm, residual_factor
from induction_lab.results.heads import Head, HeadLike, parse_heads
from induction_lab.results.statistics import mean_and_error
from induction_lab.scores.targets import attention_targets
from induction_lab.weights.rotary import relative_rotations


def score_shares(model: HookedModel, prompts: PromptsLike, receiver: HeadLike) -> pd.DataFrame:
    """The share of each sender in how far a head's score at its induction targets stands above its other keys.

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
        ValueError: If the head is not there, nothing recurs, or the model's scores are no sum of what was written.
    """
    (head,) = parse_heads(receiver, n_layers=model.n_layers, n_heads=model.n_heads)
    prompts = as_prompts(model, prompts)
    _check(model, prompts, head)
    found = []
    for row in range(len(prompts)):  # one at a time: all that was written, at once, is large
        tokens = prompts.tokens[row : row + 1]
        targets = attention_targets(tokens, ["prefix_matching"])
        if len(targets.query):
            found.append(_shares(model, Streams(model, tokens), head, targets.query, targets.key).cpu())
    share, error = mean_and_error(torch.stack(found))
    who = [("embed", -1, -1)]
    for layer in range(head.layer):
        who += [(str(Head(layer, h)), layer, h) for h in range(model.n_heads)] + [(f"MLP{layer}", layer, -1)]
    table: Any = pd.DataFrame([*who, ("bias", -1, -1)], columns=["sender", "layer", "head"])
    table = table.assign(share=share.tolist(), standard_error=error.tolist())
    if model.hooked.cfg.attn_only:
        table = table[~table["sender"].str.startswith("MLP")]
    return table.sort_values("share", ascending=False, ignore_index=True)


def _shares(
    model: HookedModel, streams: Streams, head: Head, query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]
) -> Float[Tensor, " sender"]:
    refuse_hooked_patterns(streams)
    attention = streams.attention[head.layer]
    keys, n_pos = attention.k.shape[1], attention.k.shape[2]
    shared = head.head // (model.n_heads // keys)
    R = relative_rotations(model, range(n_pos))[head.layer]
    W_K = folded_weights(model, head.layer).W_K
    W_K = W_K[head.head // (model.n_heads // len(W_K))]
    with torch.inference_mode():
        scale = attention_scale(model, head.layer, streams.before[head.layer])
        read = _written(model, streams, head.layer).to(model.wide) / scale[0] @ W_K
        read = torch.einsum("cpd,pde->cpe", read, R)
        own = attention.k[:, shared].to(model.wide)  # turned, biases in
        every = torch.cat([read, own])
        above = every[:, key] - _mean_of_others(every, query, key)
        scores = (above * attention.q[0, head.head, query].to(model.wide)).sum((1, 2))
        return torch.cat([scores[:-1], scores[-1:] - scores[:-1].sum()]) / scores[-1]


def _mean_of_others(
    rows: Float[Tensor, "part pos d_head"], query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]
) -> Float[Tensor, "part pair d_head"]:
    """Over the query's keys without BOS and the target."""
    upto = rows[:, 1:].cumsum(1)[:, query - 1]
    return (upto - rows[:, key]) / (query - 1)[:, None]


def _written(model: HookedModel, streams: Streams, layer: int) -> Float[Tensor, "sender pos d_model"]:
    """Embedding, then each layer's heads and what else it wrote (its MLP and biases)."""
    parts = [streams.before[0]]
    for below in range(layer):
        z = streams.attention[below].z[0]
        heads = z @ head_weights(model, below).W_O * residual_factor(model)
        rest = streams.before[below + 1] - streams.before[below] - heads.sum(0)
        parts += [heads, rest]
    return torch.cat(parts)


def _check(model: HookedModel, prompts: Prompts, head: Head) -> None:
    if not goes_through_interface(model) or output_norm(model, 0) is not None:
        raise ValueError(
            f"{model.name} attends out of sight of transformers' attention interface or normalises what its heads "
            "write together, so its scores cannot be split by head."
        )
    if head_norm(model, head.layer, "k_norm") is not None:
        raise ValueError(f"{model.name} normalises its keys, so they are no sum of what they read: use input_shares.")
    config = getattr(model.network, "cfg", None)
    if getattr(config, "smeared_keys", False) or getattr(config, "positions", None) == "shortformer":
        raise ValueError(f"{model.name} makes its keys of more than the stream where they stand: use patch_paths.")
    targets = attention_targets(prompts.tokens, ["prefix_matching"])
    if not len(targets.query):
        raise ValueError("No token occurs a second time, so there is no induction target: use repeated_tokens(model).")
