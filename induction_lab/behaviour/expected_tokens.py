"""The lag profile: which tokens a model expects after a token that it has seen before.

A query whose token occurred before asks, as it were, "what came around there?". The profile says how likely the model
finds the tokens at each distance (lag) from that earlier occurrence: an induction circuit expects lag +1. Source:
Ji-An et al. (2024), https://arxiv.org/abs/2405.14992, who compare it with human recall.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.occurrences import LAGS, Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.statistics import mean_and_error

_PROMPTS, _QUERIES, _LOGIT_BYTES = 4, 256, 2**28  # whose logits are there at once, at most


@takes_names
def lag_profile(model: HookedModel, prompts: PromptsLike, *, lags: Sequence[int] = LAGS) -> pd.DataFrame:
    """Mean probability of the tokens around the latest earlier occurrence of the current token.

    Args:
        model: Whose predictions.
        prompts: `Prompts`, tokens or text (`as_prompts`); on `repeated_tokens` each lag is another token.
        lags: Distances from the earlier occurrence; 0 is the token itself again.

    Returns:
        A row a lag: `lag`, `probability` in [0, 1] (mean over a prompt's queries, then over prompts), its
        `standard_error` over prompts, and `n_prompts`. Queries whose lag lies before the prompt's first token or after
        the query are left out; a prompt without any as well.

    Raises:
        ValueError: If no token occurs a second time, or no lag is given.
    """
    prompts = as_prompts(model, prompts)
    expected = ExpectedTokens(prompts, lags)
    step = max(1, min(_PROMPTS, _LOGIT_BYTES // (4 * prompts.tokens.shape[1] * model.d_vocab)))
    for start in range(0, len(prompts), step):
        logits = model.logits(prompts.tokens[start : start + step].to(model.device))
        expected.add(start, logits, lambda some: some)
    return expected.table()


class ExpectedTokens:
    """A lag profile in the making: prompts are added in order, as they are run.

    Args:
        prompts: All of them.
        lags: As `lag_profile` takes them.

    Raises:
        ValueError: As `lag_profile`.
    """

    def __init__(self, prompts: Prompts, lags: Sequence[int] = LAGS) -> None:
        """Find the tokens that are asked for."""
        if not lags:
            raise ValueError("At least one lag is wanted, got none.")
        self.tokens, self.first, self.lags = prompts.tokens.cpu(), prompts.first, lags
        self.prompt, self.query, self.earlier = Recurrences(prompts).latest
        if not len(self.prompt):
            raise ValueError(
                "No token occurs a second time in these prompts: use repeated_tokens(model), or longer text."
            )
        self.total, self.count = torch.zeros(2, len(prompts), len(lags), dtype=torch.float32)

    @torch.inference_mode()
    def add(self, start: int, seen: Float[Tensor, "prompt pos *rest"], logits_of: Callable[[Tensor], Tensor]) -> None:
        """Read what is expected in some prompts, from the one numbered `start` on.

        Args:
            start: Number of the first.
            seen: Of each of them, what logits are made of at every position.
            logits_of: Makes them, `[query, d_vocab]`, of the queries that are asked; a few prompts' at a time.
        """
        here = (self.prompt >= start) & (self.prompt < start + len(seen))
        prompt, query, earlier = self.prompt[here], self.query[here], self.earlier[here]
        for some in torch.arange(len(prompt)).split(_QUERIES):
            rows, at = prompt[some], query[some]
            asked = seen[(rows - start).to(seen.device), at.to(seen.device)]
            probabilities = logits_of(asked).float().softmax(-1).cpu()
            for i, lag in enumerate(self.lags):
                place = earlier[some] + lag
                keep = (place >= self.first) & (place <= at)
                expected = probabilities[keep].gather(1, self.tokens[rows[keep], place[keep]][:, None])[:, 0]
                self.total[:, i].index_add_(0, rows[keep], expected)
                self.count[:, i].index_add_(0, rows[keep], torch.ones_like(expected))

    def table(self) -> pd.DataFrame:
        """The profile of what was added."""
        rows = []
        for i, lag in enumerate(self.lags):
            defined = self.count[:, i] > 0
            means = self.total[defined, i] / self.count[defined, i]
            mean, error = map(float, mean_and_error(means))
            rows.append({"lag": lag, "probability": mean, "standard_error": error, "n_prompts": len(means)})
        return pd.DataFrame(rows)
