"""Attention weighed by what it moves: `A[t, s] ‖v_s W_O‖` as a share of its sum over a query's keys.

Attention to a key of which a head writes nothing, such as a sink, no longer counts. Source: Kobayashi et al. (2020),
https://arxiv.org/abs/2004.10102. No matrix is made: `‖v_s W_O‖` is `‖R v_s‖` with `R` of the QR decomposition of
`W_O^T`, and a query's sum is made in the pass that is run anyway: sizes stand beside the values (`hooks.reading`).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.grouped import by_group, to_query_heads
from induction_lab.data.occurrences import Pairs
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

    def columns(self, layer: int, v: Float[Tensor, "prompt kv_head key d_head"]) -> Tensor:
        """`‖v_s W_O‖` of every key `[prompt, kv_head, key, query head of the group]`, as each query head writes it."""
        factor = self._factor(layer)
        sizes = (to_query_heads(v, self.model.n_heads, dim=1).to(factor.dtype) @ factor.mT).norm(dim=-1)
        return by_group(sizes, v.shape[1]).mT

    def shares(
        self, attention: AttentionReading, probabilities: Float[Tensor, "pair head"], pairs: Pairs
    ) -> Float[Tensor, "pair head"]:
        """Attention probabilities at (prompt, query, key) as shares of all that each head moves to the query.

        0 where a head moves nothing at all.
        """
        columns, means = self._moved(attention)
        prompt, query, key = pairs
        moved = probabilities * columns.mT.flatten(1, 2)[prompt, :, key].to(probabilities)
        own = by_group(means, columns.shape[1]).diagonal(dim1=2, dim2=-1)  # a query head's own column of its group's
        total = own.movedim(-1, 2).flatten(1, 2)[prompt, :, query].to(probabilities)
        return moved / total.clamp(min=torch.finfo(total.dtype).tiny)

    def _moved(self, attention: AttentionReading) -> tuple[Tensor, Tensor]:
        """The columns of a layer, and `Σ_s A[t, s] columns[s]` for every query."""
        if isinstance(attention, Attention) and attention.mixed is not None:
            columns, means, lse, v = attention.mixed
            if lse is attention.lse and v is attention.v:
                return columns, means
        columns = self.columns(attention.layer, attention.v)
        if not isinstance(attention, Attention):
            group = by_group(attention.matrix.to(columns.dtype), columns.shape[1])
            return columns, (group @ columns[:, :, None]).flatten(1, 2)
        return columns, attention.mix(v=columns.to(attention.v.dtype))


def check_weighing(weigh: str | None) -> None:
    """Refuse what attention cannot be weighed by; no model is needed.

    Raises:
        ValueError: If it is neither `values` nor None.
    """
    if weigh not in (None, "values"):
        raise ValueError(f"Attention is weighed by 'values', or not at all (None), got {weigh!r}.")


def said_of(score: Score, *, weighed: bool) -> ScoreWords:
    """What a score says of itself; where its attention is weighed and that is not its definition, that too."""
    words = score.words
    if not weighed or getattr(score, "weighed", False):
        return words
    return words._replace(
        title=f"{words.title}, by values",
        definition=f"{words.definition} Attention counts by the size of what it moves, as a share of all moved.",
    )
