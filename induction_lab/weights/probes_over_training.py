"""What the weights alone say of each head as it forms: composition, matching, and associative memories.

Bietti et al. (2023) read an induction circuit as three memories, each of which recalls by its largest entry:

    output_memory     share of tokens `k` that raise themselves most: `argmax_v (W_E W_V W_O W_U)[k, v] = k`
    key_memory        share of tokens whose query prefers, of the keys that tell the token before, its own
    position_memory   share of positions t >= 2 whose query prefers, of all position vectors up to t, that of t - 1

Beside them the greatest `composition_Q`, `_K`, `_V` of a head with any earlier one, above random matrices;
`qk_matching`, which asks by eigenvalues what `key_memory` counts; and `preferred_offset`, which rotary models have in
place of `position_memory`: how many tokens back their mean query prefers the mean key. Norms are folded in at frozen
scale and biases left out, but for `preferred_offset`. NaN where there is no earlier layer to read. Both memories of
tokens are asked about a sample of them, and so is the preferred offset of a vocabulary above 65,536: with their errors.
Source: https://arxiv.org/abs/2306.00802, section 4 ("memory recall probes").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import to_query_heads
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.weights.composition import composition_scores
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import ov_self_copying, qk_diagonal, qk_matching
from induction_lab.weights.queries_keys import preference_and_parts, some_rows

PROBES = (
    "composition_Q",
    "composition_K",
    "composition_V",
    "qk_matching",
    "output_memory",
    "key_memory",
    "position_memory",
    "preferred_offset",
)
_TOKENS = 256  # of the vocabulary that the memories are asked about
_OFFSETS = 64  # the farthest that `preferred_offset` looks
_PARTS = 8  # of sampled rows, whose preferred offsets say how sure that of all is


class Probed(NamedTuple):
    """What was found, its standard error (0 where nothing was sampled), and what this model has not, and why."""

    values: dict[str, Float[Tensor, "layer head"]]
    errors: dict[str, Float[Tensor, "layer head"]]
    left_out: dict[str, str]


@takes_names
def weight_probes(
    model: HookedModel,
    probes: Sequence[str] = PROBES,
    *,
    previous_token: Float[Tensor, "layer head"] | None = None,
    offset: int = 0,
    folded: FoldedWeights | None = None,
) -> Probed:
    """Probe every head's weights.

    >>> weight_probes(HookedModel(induction_circuit()), ["position_memory"]).values   # doctest: +SKIP
    {'position_memory': tensor([[1., 0.],
            [0., 0.]])}

    Args:
        model: Any whose projections are linear maps of the normalised stream.
        probes: Names from `PROBES`.
        previous_token: Weight of each head as a previous-token head, `score_heads(…)["previous_token"]`, which
            `qk_matching` and `key_memory` need.
        offset: Query less key position at which rotary queries are matched with keys.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If a probe is unknown.
    """
    kept = FoldedWeights.of(model, folded)
    unknown = [name for name in probes if name not in PROBES]
    if unknown:
        raise ValueError(f"Unknown probes {unknown}; there are {', '.join(PROBES)}.")
    by_name: dict[str, Callable[[], Tensor | tuple[Tensor, Tensor]]] = {
        **{f"composition_{kind}": lambda kind=kind: _strongest(kept, kind) for kind in "QKV"},
        "qk_matching": lambda: _above_first(qk_matching(model, _given(previous_token), offset=offset, folded=kept)),
        "output_memory": lambda: _with_error(model, ov_self_copying(model, n_tokens=_TOKENS, folded=kept)),
        "key_memory": lambda: _with_error(
            model,
            _above_first(qk_diagonal(model, _given(previous_token), n_tokens=_TOKENS, offset=offset, folded=kept)),
        ),
        "position_memory": lambda: position_memory(model, folded=kept),
        "preferred_offset": lambda: _preferred_offset(kept),
    }
    values, errors, left_out = {}, {}, {}
    for name in probes:
        try:
            found = by_name[name]()
        except ValueError as error:
            left_out[name] = str(error)
            continue
        found, error = found if isinstance(found, tuple) else (found, torch.zeros_like(found))
        values[name], errors[name] = found.float().cpu(), error.float().cpu()
    return Probed(values, errors, left_out)


def position_memory(model: HookedModel, *, folded: FoldedWeights | None = None) -> Float[Tensor, "layer head"]:
    """Share of positions `t >= 2` for which the best key among the position vectors up to `t` is that of `t - 1`.

    In [0, 1]; a previous-token head scores 1, chance is the mean of `1 / (t + 1)`. Ties lose.

    Raises:
        ValueError: If the model has no position vectors, too few of them, or its keys mix two positions.
    """
    if model.anatomy.smeared_keys:
        raise ValueError("Smeared keys mix two positions, so no position has a key of its own.")
    folded = FoldedWeights.of(model, folded)
    rows = folded.rows("positions")
    n = len(rows)
    if n < 3:
        raise ValueError(f"Positions from 2 on are asked for, {model.name} has only {n}.")
    position = torch.arange(2, n, device=rows.device)
    future = torch.arange(n, device=rows.device) > position[:, None]
    found = []
    for layer in range(model.n_layers):
        W_Q, W_K, _, _ = folded.layer(layer, start=0)
        keys = to_query_heads(rows @ W_K, model.n_heads, dim=0)
        scores = ((rows[2:] @ W_Q) @ keys.mT).masked_fill(future, -torch.inf)  # [head, query, key]
        before = scores.gather(2, (position - 1).expand(len(scores), -1)[..., None])
        share = ((scores >= before).sum(-1) == 1).float().mean(-1)
        found.append(share.where(before.isfinite().all(1)[:, 0], torch.nan))
    return torch.stack(found).cpu()


def _preferred_offset(folded: FoldedWeights) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """With its standard error by that of the parts of a sample; exact where nothing is sampled."""
    offsets, rows = range(min(folded.model.n_ctx or _OFFSETS, _OFFSETS)), some_rows(folded, "embedding")
    sampled = len(rows) < folded.model.d_vocab
    preference = preference_and_parts(folded.model, offsets, rows, -(-len(rows) // (_PARTS if sampled else 1)))
    known = preference.isfinite().all(1).all(0)
    best, *parts = preference.argmax(1).float().where(known, torch.nan)
    return best, torch.stack(parts).std(0) / _PARTS**0.5 if sampled else torch.zeros_like(best)


def _with_error(
    model: HookedModel, share: Float[Tensor, "layer head"]
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer head"]]:
    """A share of `_TOKENS` random tokens, and its standard error; exact where there are no more."""
    error = (share * (1 - share) / _TOKENS).sqrt()
    return share, error if model.d_vocab > _TOKENS else torch.zeros_like(share)


def _strongest(folded: FoldedWeights, kind: str) -> Float[Tensor, "layer head"]:
    """Of each later head, with whichever earlier head composes most with it."""
    scores = composition_scores(folded.model, kind, folded=folded)
    layers = torch.arange(folded.model.n_layers)
    earlier = layers[:, None] < layers
    return _above_first(scores.masked_fill(~earlier[:, None, :, None], -torch.inf).amax((0, 1)))


def _above_first(values: Float[Tensor, "layer head"]) -> Float[Tensor, "layer head"]:
    """NaN in the first layer, which no layer is earlier than."""
    if len(values) < 2:
        raise ValueError("there is no earlier layer to read")
    values = values.clone()
    values[0] = torch.nan
    return values


def _given(previous_token: Tensor | None) -> Tensor:
    if previous_token is None:
        raise ValueError("the heads' previous_token scores were not given")
    return previous_token
