"""The lag profile: which tokens a model expects after a token that it has seen before.

A query whose token occurred before asks, as it were, "what came around there?". The profile says how likely the model
finds the tokens at each distance (lag) from that earlier occurrence: an induction circuit expects lag +1. Source:
Ji-An et al. (2024), https://arxiv.org/abs/2405.14992, who compare it with human recall.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from induction_lab.data.occurrences import LAGS, Recurrences
from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.statistics import mean_and_error

_PROMPTS, _LOGIT_BYTES = 4, 2**28  # whose logits are there at once, at most


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
    if not lags:
        raise ValueError("At least one lag is wanted, got none.")
    n_prompts, tokens = len(prompts), prompts.tokens.cpu()
    prompt, query, earlier = Recurrences(prompts).latest
    if not len(prompt):
        raise ValueError("No token occurs a second time in these prompts: use repeated_tokens(model), or longer text.")
    total, count = torch.zeros(2, n_prompts, len(lags), dtype=torch.float32)
    step = max(1, min(_PROMPTS, _LOGIT_BYTES // (4 * tokens.shape[1] * model.d_vocab)))
    for start in range(0, n_prompts, step):
        some = slice(start, start + step)
        probabilities = model.logits(prompts[some].tokens.to(model.device)).float().softmax(-1).cpu()
        here = (prompt >= start) & (prompt < start + step)
        for i, lag in enumerate(lags):
            place = earlier[here] + lag
            keep = (place >= prompts.first) & (place <= query[here])
            row, at = prompt[here][keep], query[here][keep]
            expected = probabilities[row - start, at, tokens[row, place[keep]]]
            total[:, i].index_add_(0, row, expected)
            count[:, i].index_add_(0, row, torch.ones_like(expected))
    rows = []
    for i, lag in enumerate(lags):
        defined = count[:, i] > 0
        means = total[defined, i] / count[defined, i]
        mean, error = map(float, mean_and_error(means))
        rows.append({"lag": lag, "probability": mean, "standard_error": error, "n_prompts": len(means)})
    return pd.DataFrame(rows)
