"""Induction whatever the offset: how much a head attends around earlier occurrences, at the distance it likes best.

`prefix_matching` looks one token behind the earlier occurrence. A circuit that carries keys and values over other
offsets looks elsewhere, and is not seen by it.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import LOOKS
from induction_lab.scores.score import LayerScore

LAGS = tuple(range(-8, 9))


class DisplacedInduction(LayerScore):
    """The largest over j of the attention to `s + j`, summed over the earlier occurrences s of a query's token.

    j runs from -8 to 8. The largest of 17 numbers is biased upwards, so half of the prompts choose the j at which the
    other half is read, and the other way round; a prompt by itself chooses its own. Attention to the query itself does
    not count.
    """

    name, title, source, low, high = "displaced_induction", "Displaced induction", "induction_lab", 0.0, 1.0
    threshold: float | None = LOOKS
    meaning = (
        "Attention from a token that occurred before to tokens j away from its earlier occurrences, at the j from −8 "
        "to 8 where it is largest. Prefix matching is j = 1."
    )

    def defined(self, seen: Recurrences) -> Bool[Tensor, " prompt"]:
        """Prompts in which something occurs again."""
        found = torch.zeros(len(seen.prompts), dtype=torch.bool)
        found[seen.matches[0]] = True
        return found

    def reader(self, model: HookedModel, prompts: Prompts) -> _ByLag:
        """Prepare the pairs."""
        return _ByLag(model, prompts)

    def settled(self, values: Float[Tensor, "prompt layer head lag"]) -> Float[Tensor, "prompt layer head"]:
        """Each prompt's value at the j that the other half of the prompts chooses."""
        halves = [torch.arange(start, len(values), 2) for start in (0, 1)]
        found = torch.empty(values.shape[:-1], dtype=values.dtype)
        for own, other in (halves, halves[::-1]):
            chosen = values[other if len(other) else own].mean(0).argmax(-1)
            found[own] = values[own].gather(-1, chosen.expand(len(own), -1, -1)[..., None])[..., 0]
        return found


class InductionLag(DisplacedInduction):
    """The j of `displaced_induction` that all prompts together choose."""

    name, title, low, high, unit = "induction_lag", "Induction lag", float(LAGS[0]), float(LAGS[-1]), "tokens"
    threshold = None
    meaning = "How many tokens behind earlier occurrences of its token a head attends most; 1: an induction head."

    def settled(self, values: Float[Tensor, "prompt layer head lag"]) -> Float[Tensor, "prompt layer head"]:
        """The same for every prompt."""
        absent = values[0, ..., 0].isnan()
        lag = torch.tensor(LAGS, dtype=values.dtype)[values.mean(0).argmax(-1)]
        return lag.masked_fill(absent, torch.nan).expand(len(values), -1, -1).clone()


class _ByLag:
    """Each prompt's mean over queries of the attention at each lag."""

    def __init__(self, model: HookedModel, batch: Prompts) -> None:
        prompt, query, earlier = Recurrences(batch).matches
        asked = torch.zeros(batch.tokens.shape, dtype=torch.bool)
        asked[prompt, query] = True
        n_queries, lags = asked.sum(1).clamp(min=1), torch.tensor(LAGS)
        key = earlier[:, None] + lags
        match, lag = ((key >= batch.first) & (key < query[:, None])).nonzero(as_tuple=True)
        self.pairs = tuple(x.to(model.device) for x in (prompt[match], query[match], key[match, lag]))
        self.slot = (prompt[match] * len(LAGS) + lag).to(model.device)
        self.weight = (1 / n_queries[prompt[match]].float())[:, None].to(model.device)
        self.n_prompts = len(batch)
        shape = (len(batch), model.n_layers, model.n_heads, len(LAGS))
        self.found = torch.full(shape, torch.nan, dtype=torch.float32)

    def read(self, attention: AttentionReading) -> None:
        weighted = attention.probabilities(*self.pairs).float() * self.weight
        total = weighted.new_zeros(self.n_prompts * len(LAGS), weighted.shape[1]).index_add_(0, self.slot, weighted)
        self.found[:, attention.layer] = total.unflatten(0, (self.n_prompts, len(LAGS))).mT.cpu()

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head lag"]:
        return self.found
