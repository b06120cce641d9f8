"""Attention weighed by what it moves: `A[t, s] ‖v_s W_O‖` as a share of its sum over a query's keys.

Attention to a key of which a head writes nothing, such as a sink, no longer counts. Source: Kobayashi et al. (2020),
https://arxiv.org/abs/2004.10102. No matrix is made: `‖v_s W_O‖` is `‖R v_s‖` with `R` of the QR decomposition of
`W_O^T`, and a query's sum is one more pass of the same attention kernel, with sizes in place of values.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.grouped import by_group, to_query_heads
from induction_lab.models.frozen_norms import output_norm, output_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import Score, ScoreWords


class ValueSizes:
    """How much each head writes of each key, layer by layer; what is made of the weights is kept.

    Args:
        model: Any whose heads' outputs can be told apart.

    Raises:
        ValueError: If the weights by head cannot be had, or a gate changes what heads put out.
    """

    def __init__(self, model: HookedModel) -> None:
        """Ask the weights of every layer that attends; where they are on disk, of one of each kind."""
        self.model, self._factors = model, dict[int, Tensor]()
        attending = model.anatomy.attending
        for layer in model.anatomy.representatives:
            _ = self._factor(layer) if layer in attending else None

    def _factor(self, layer: int) -> Float[Tensor, "head d_head d_head"]:
        if layer not in self._factors:
            norm, W_O = output_norm(self.model, layer), output_weights(self.model, layer)
            W_O = W_O if norm is None else norm.apply(W_O)  # its scale at a query divides all of its keys alike
            self._factors[layer] = torch.linalg.qr(W_O.mT, mode="r").R
        return self._factors[layer]

    def of_keys(self, attention: AttentionReading) -> Float[Tensor, "prompt head key"]:
        """`‖v_s W_O‖` of every key, as each query head writes it."""
        factor = self._factor(attention.layer)
        v = to_query_heads(attention.v, self.model.n_heads, dim=1).to(factor.dtype)
        return (v @ factor.mT).norm(dim=-1)


def mean_size(
    attention: AttentionReading, sizes: Float[Tensor, "prompt head key"]
) -> Float[Tensor, "prompt head query"]:
    """`Σ_s A[t, s] sizes[s]` of every query; O(n) memory where the model attends on the engine."""
    if not isinstance(attention, Attention):
        return (attention.matrix.to(sizes.dtype) @ sizes[..., None])[..., 0]
    grouped = by_group(sizes.to(attention.v.dtype), attention.k.shape[1]).mT  # a column for each query head of a group
    n_columns, width = grouped.shape[-1], attention.q.shape[-1]
    columns = torch.nn.functional.pad(grouped, (0, max(0, width - n_columns)))  # flash kernels want values as wide
    mixed = by_group(attention.mix(v=columns)[..., :n_columns], attention.k.shape[1])
    return mixed.diagonal(dim1=2, dim2=-1).movedim(-1, 2).flatten(1, 2).to(sizes.dtype)


def weigh(
    attention: AttentionReading,
    sizes: ValueSizes,
    probabilities: Float[Tensor, "pair head"],
    prompt: Tensor,
    query: Tensor,
    key: Tensor,
) -> Float[Tensor, "pair head"]:
    """Attention probabilities at (prompt, query, key) as shares of all that each head moves to the query.

    0 where a head moves nothing at all.
    """
    of_keys = sizes.of_keys(attention)
    total = mean_size(attention, of_keys)[prompt, :, query]
    moved = probabilities.to(total.dtype) * of_keys[prompt, :, key]
    return (moved / total.clamp(min=torch.finfo(total.dtype).tiny)).to(probabilities.dtype)


def said_of(score: Score, *, weighed: bool) -> ScoreWords:
    """What a score says of itself; where its attention is weighed and that is not its definition, that too."""
    words = score.words
    if not weighed or getattr(score, "weighed", False):
        return words
    return words._replace(
        title=f"{words.title}, by values",
        definition=f"{words.definition} Attention counts by the size of what it moves, as a share of all moved.",
    )
