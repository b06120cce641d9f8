"""How long a match must be before a head looks for what followed it, and whether other repeats before it help.

Source: the k-gram heads of Akyürek et al. (2024), https://arxiv.org/abs/2401.12973, and Edelman et al. (2024),
https://arxiv.org/abs/2402.11004, on prompts of our own: random tokens, and at the end the last tokens of a fragment
that stood among them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import draw, front
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import AttentionScore

LENGTHS = tuple(range(1, 7))
N_PROMPTS, BLOCK, BETWEEN = 32, 40, 8


class MatchLength(AttentionScore):
    """Attention to what followed the only earlier occurrence of a prompt's last m tokens, from the last one.

    The token before the m is new, so no longer match is to be had. In repeats, the tokens in between are another
    fragment of the block and one new token; else they are all new, so that nothing was repeated yet.

    Args:
        length: m.
        in_repeats: Whether another fragment was repeated just before.
    """

    source = "Akyürek et al. (2024), arxiv.org/abs/2401.12973; prompts: induction_lab"

    def __init__(self, length: int, *, in_repeats: bool = False) -> None:
        """Name it after both."""
        self.length, self.in_repeats = length, in_repeats
        self.name = f"match_{length}{'_in_repeats' if in_repeats else ''}"
        self.title = f"Match of {length}{' in repeats' if in_repeats else ''}"
        before = "after other repeats" if in_repeats else "where nothing was repeated before"
        what = "token that occurred" if length == 1 else f"{length} tokens that occurred together"
        self.meaning = f"Attention to what followed the last {what} before, {before}."
        self.measured_on = f"match {length}{', in repeats' if in_repeats else ''}"

    def own_prompts(self, model: HookedModel, *, seed: int = 0) -> Prompts:
        """32 prompts `BOS, 40 tokens, 8 tokens between, m tokens`."""
        begin = front(model, "model")
        rows = draw(model, N_PROMPTS, BLOCK + BETWEEN, seed, begin)
        block, between = rows[:, :BLOCK], rows[:, BLOCK:].clone()
        generator = torch.Generator().manual_seed(seed)
        half = BLOCK // 2  # what is repeated before comes from one half, the fragment from the other
        starts = torch.randint(1, half - max(LENGTHS) - 1, (N_PROMPTS, 2), generator=generator)
        swapped = torch.randint(2, (N_PROMPTS, 1), generator=generator)
        own, other = (starts + half * torch.cat([swapped, 1 - swapped], 1)).unbind(1)
        fragment = block.gather(1, own[:, None] + torch.arange(self.length))
        if self.in_repeats:
            between[:, :-1] = block.gather(1, other[:, None] + torch.arange(BETWEEN - 1))
        bos = torch.tensor(begin).expand(N_PROMPTS, -1)
        return Prompts(torch.cat([bos, block, between, fragment], 1), kind="match", seed=seed)

    def pairs(self, tokens: Int[Tensor, " pos"]) -> Iterable[tuple[int, int]]:
        """From the last token to what followed it before."""
        last = len(tokens) - 1
        return [(last, int(s) + 1) for s in (tokens[1:last] == tokens[last]).nonzero()[:, 0] + 1]


MATCH_LENGTHS = tuple(MatchLength(m, in_repeats=mode) for mode in (False, True) for m in LENGTHS)
