"""Successor heads: attending to Monday raises Tuesday, attending to 3 raises 4.

Source: Gould et al. (2023), https://arxiv.org/abs/2312.09230.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import to_query_heads
from induction_lab.data.prompts import Prompts
from induction_lab.data.word_lists import load_words
from induction_lab.models.frozen_norms import final_norm, folded_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import WeightScore
from induction_lab.scores.weight_scores import why_no_token_circuits
from induction_lab.weights.stream_sources import token_vectors

FEWEST = 20


class Order(NamedTuple):
    """A list's words that are single tokens: which, in order, and the places in `tokens` that the successor follows."""

    tokens: tuple[int, ...]
    asked: tuple[int, ...]


class Successor(WeightScore):
    """Share of ordinal tokens that raise, of their whole list, their successor most, where a head attends to them.

    Of each row of `E W_V W_O W_U`, `E` the effective embeddings (`weights.stream_sources`; of layer 0, the embeddings),
    norms folded in, only the tokens of the token's own list are compared: Monday with the days of the week. Of a list
    the words that are single tokens count, and those behind a space as a list of their own; the last has no successor.
    Gould et al. take what the first MLP writes by itself; here the embedding that it is added to is in `E` as well.

    Args:
        lists: Words in order, by the name of the order; those of the package by default.
    """

    name, source, low, high = "successor", "Gould et al. (2023), arxiv.org/abs/2312.09230", 0.0, 1.0
    threshold = 0.5  # of most tokens
    meaning = (
        "From the weights alone: share of ordinal tokens (numbers, days, months, letters) that raise, of their own "
        "list, their successor most, where the head attends to them."
    )

    def __init__(self, lists: Mapping[str, Sequence[str]] | None = None) -> None:
        """Take note of the lists."""
        self.lists = lists

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_token_circuits` refuses, and vocabularies with too few ordinals."""
        if model.tokenizer is None:
            return "it reads words, and this model has no tokenizer"
        n_asked = sum(len(order.asked) for order in self.orders(model))
        if n_asked < FEWEST:
            return f"only {n_asked} ordinals are single tokens here, as are their successors; {FEWEST} are wanted"
        return why_no_token_circuits(model)

    def chance_for(self, model: HookedModel) -> float:
        """Any token of the list."""
        each = [(len(order.asked), len(order.tokens)) for order in self.orders(model)]
        return sum(asked / n for asked, n in each) / sum(asked for asked, _ in each)

    def orders(self, model: HookedModel) -> list[Order]:
        """The lists as tokens of a model."""
        lists = load_words("ordinals") if self.lists is None else self.lists
        found = [_order(model.tokenizer, words, before) for words in lists.values() for before in ("", " ")]
        return [order for order in dict.fromkeys(found) if order.asked]

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """Compare each list's logits, layer by layer."""
        orders, norm = self.orders(model), final_norm(model)
        tokens = [torch.tensor(order.tokens, device=model.device) for order in orders]
        every, asked = torch.cat(tokens), [torch.tensor(order.asked, device=model.device) for order in orders]
        readers = norm.fold(model.unembedding[every].to(model.wide))
        first, above = (token_vectors(model, layer, every) for layer in (0, 1))
        found = torch.full((model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)
        for layer in model.anatomy.attending:
            _, _, W_V, W_O = folded_weights(model, layer)
            written = (above if layer else first) @ to_query_heads(W_V, model.n_heads, dim=0) @ W_O
            right = []
            start = 0
            for some, places in zip(tokens, asked, strict=True):
                own = slice(start, start := start + len(some))
                logits = written[:, own][:, places] @ readers[own].mT  # [head, token, token of the list]
                successor = logits.gather(-1, (places + 1).expand(len(logits), -1)[..., None])
                right.append((logits >= successor).sum(-1) == 1)
            share = torch.cat(right, 1).float().mean(1)
            found[layer] = share.masked_fill(~written.isfinite().all(-1).all(-1), torch.nan).cpu()
        return found


def _order(tokenizer: Any, words: Sequence[str], before: str) -> Order:
    """Words that several share a token with, such as the one for what is unknown, are none."""
    ids = [tokenizer(before + word, add_special_tokens=False, verbose=False)["input_ids"] for word in words]
    times = Counter(tuple(each) for each in ids)
    unknown = getattr(tokenizer, "unk_token_id", None)
    places = [
        place for place, each in enumerate(ids) if len(each) == 1 and each[0] != unknown and times[tuple(each)] == 1
    ]
    asked = tuple(i for i, (one, other) in enumerate(zip(places, places[1:], strict=False)) if other == one + 1)
    return Order(tuple(int(ids[place][0]) for place in places), asked)
