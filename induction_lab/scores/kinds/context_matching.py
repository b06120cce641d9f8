"""Context matching: heads that look at earlier stretches of the same order, where the tokens alone are always the same.

Source: Saanum, Demircan, Gershman and Schulz (2025), https://arxiv.org/abs/2509.21534.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import check_context, draw, front
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import LayerScore

N_TOKENS, N_ORDERS, N_TIMES, N_PROMPTS = 8, 4, 10, 16
N_CHUNKS = N_ORDERS * N_TIMES


class ContextMatching(LayerScore):
    """Share of queries whose most attended earlier chunk has the order of their own.

    Prompts are `BOS` and 40 chunks, each the same 8 random tokens in one of 4 orders; every order comes 10 times, and
    which comes when is random. Attention to a chunk is the sum over its tokens. Queries are the tokens of chunks whose
    order came before; of those, taking any earlier chunk whatever its order, 1 in 4 is right. Unlike those of the
    source, orders are drawn until no token stands at the same place in two of them, so that every token tells the order
    to who knows its place.

    Args:
        n_prompts: How many, each one forward pass of 321 tokens.
    """

    name, low, high, chance = "context_matching", 0.0, 1.0, 1 / N_ORDERS
    source = "Saanum et al. (2025), arxiv.org/abs/2509.21534"
    meaning = (
        "Share of queries whose most attended earlier chunk has the order of their own, where 8 random tokens come in "
        "4 orders, again and again."
    )
    measured_on = "4 orders of 8 tokens"

    def __init__(self, *, n_prompts: int = N_PROMPTS) -> None:
        """Say how many prompts."""
        self.n_prompts = n_prompts

    def own_prompts(self, model: HookedModel, *, seed: int = 0) -> Prompts:
        """The prompts of 40 chunks.

        Raises:
            ValueError: If the context or the vocabulary has no room for them.
        """
        begin = front(model, "model")
        check_context(model, len(begin) + N_CHUNKS * N_TOKENS, "Its definition", False)
        tokens, generator = draw(model, self.n_prompts, N_TOKENS, seed, begin), torch.Generator().manual_seed(seed)
        rows = []
        for own in tokens:
            turn = torch.arange(N_ORDERS).repeat(N_TIMES)[torch.randperm(N_CHUNKS, generator=generator)]
            rows.append(own[_orders(generator)[turn]].flatten())
        bos = torch.tensor(begin).expand(self.n_prompts, -1)
        return Prompts(torch.cat([bos, torch.stack(rows)], 1), kind="orders", seed=seed, has_bos=bool(begin))

    def read(self, model: HookedModel, prompts: Prompts, attention: AttentionReading) -> Float[Tensor, "prompt head"]:
        """Which earlier chunk each query attends to most."""
        chunks = prompts.tokens[:, prompts.first :].unflatten(1, (N_CHUNKS, N_TOKENS)).to(model.device)
        same = (chunks[:, :, None] == chunks[:, None]).all(-1).tril(-1)  # [prompt, chunk, earlier chunk]
        counts = same.any(-1)
        found = []
        for head in torch.arange(model.n_heads, device=model.device).split(1):
            pattern = attention.pattern(heads=head)[:, 0, prompts.first :, prompts.first :].float()
            by_chunk = pattern.unflatten(2, (N_CHUNKS, N_TOKENS)).sum(-1).unflatten(1, (N_CHUNKS, N_TOKENS))
            later = torch.ones(N_CHUNKS, N_CHUNKS, dtype=torch.bool, device=model.device).triu()[:, None]
            most = by_chunk.masked_fill(later, -1.0).argmax(-1)  # [prompt, chunk, place]
            right = same.gather(2, most) & counts[..., None]
            found.append(right.sum((1, 2)) / (counts.sum(1) * N_TOKENS))
        return torch.stack(found, 1)


def _orders(generator: torch.Generator) -> Int[Tensor, "order place"]:
    """Orders of which no two have the same at any place."""
    found = [torch.randperm(N_TOKENS, generator=generator)]
    while len(found) < N_ORDERS:
        order = torch.randperm(N_TOKENS, generator=generator)
        if all(bool((order != other).all()) for other in found):
            found.append(order)
    return torch.stack(found)
