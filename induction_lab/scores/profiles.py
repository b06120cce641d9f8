"""Where heads look, position by position and around the earlier occurrence of the current token; all heads at once.

Only the engine's probabilities at the (query, key) pairs in question are read, no matrices. For a query `t` whose token
occurred before, last at `s`, the lag profile is the attention to `s + lag`: an induction head peaks at lag 1, a
duplicate-token head at 0. The profiles of what a model *expects* there: `induction_lab.lags`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.occurrences import occurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.reading import Enough, read_attention
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.statistics import mean_and_error

PLACES = {
    "followed": "the token that followed its earlier occurrence",
    "previous": "the token before",
    "duplicate": "its own earlier occurrence",
    "first": "the first position (BOS)",
    "itself": "itself",
}
LAGS = tuple(range(-5, 6))
TOKENS_A_BATCH = 4096
Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Int[Tensor, " pair"]]


class AttentionProfiles(NamedTuple):
    """Of every head, means over prompts.

    Attributes:
        by_position: For each of `PLACES` the attention to it from every position; NaN where there is no such key.
        by_lag: Attention to the tokens around the latest earlier occurrence: means over a prompt's queries, then over
            prompts.
        lags: Their distances from it.
        lag_errors: Standard errors of `by_lag` over prompts; NaN of one prompt.
    """

    by_position: dict[str, Float[Tensor, "layer head pos"]]
    by_lag: Float[Tensor, "layer head lag"]
    lags: tuple[int, ...]
    lag_errors: Float[Tensor, "layer head lag"]


def attention_profiles(model: HookedModel, prompts: PromptsLike, *, lags: Sequence[int] = LAGS) -> AttentionProfiles:
    """Read the profiles of all heads in one forward pass.

    Args:
        model: Any supported model.
        prompts: `Prompts`, tokens with BOS first, or text.
        lags: Distances from the earlier occurrence.

    Raises:
        ValueError: If no lag is given.
    """
    prompts = as_prompts(model, prompts)
    if not lags:
        raise ValueError("At least one lag is wanted, got none.")
    (n_prompts, n_pos), lags = prompts.tokens.shape, tuple(lags)
    read = _pairs(prompts, lags)
    shape = (model.n_layers, model.n_heads)
    by_position = {name: torch.zeros(*shape, n_pos) for name in PLACES}
    by_lag = torch.zeros(*shape, len(lags), n_prompts)
    step = max(1, TOKENS_A_BATCH // n_pos)
    for start in range(0, n_prompts, step):
        here = {name: _within(pairs, start, start + step) for name, pairs in read.items()}
        prompt, query, key = (torch.cat(part).to(model.device) for part in zip(*here.values(), strict=True))
        sizes = [len(pairs[0]) for pairs in here.values()]

        def look(attention: AttentionReading, start: int = start, here: dict[str, Pairs] = here) -> None:
            values = attention.probabilities(prompt, query, key).float().cpu()  # noqa: B023
            for (name, pairs), part in zip(here.items(), values.split(sizes), strict=True):  # noqa: B023
                if name in by_position:
                    by_position[name][attention.layer].index_add_(1, pairs[1], part.T)
                else:
                    by_lag[attention.layer, :, lags.index(int(name))].index_add_(1, pairs[0] + start, part.T)
            if attention.layer == model.n_layers - 1:
                raise Enough

        if sum(sizes):
            read_attention(model, prompts.tokens[start : start + step].to(model.device), look)
    for name, mean in by_position.items():
        count = torch.bincount(read[name][1], minlength=n_pos)
        by_position[name] = torch.where(count > 0, mean / count.clamp(min=1), torch.nan)
    return AttentionProfiles(by_position, *_over_prompts(by_lag, read, lags))


def _over_prompts(
    totals: Float[Tensor, "layer head lag prompt"], read: dict[str, Pairs], lags: tuple[int, ...]
) -> tuple[Float[Tensor, "layer head lag"], tuple[int, ...], Float[Tensor, "layer head lag"]]:
    means, errors = (torch.full(totals.shape[:-1], torch.nan) for _ in range(2))
    for i, lag in enumerate(lags):
        count = torch.bincount(read[str(lag)][0], minlength=totals.shape[-1])
        per_prompt = totals[:, :, i, count > 0] / count[count > 0]
        means[..., i], errors[..., i] = mean_and_error(per_prompt.movedim(-1, 0))
    return means, lags, errors


def _pairs(prompts: Prompts, lags: tuple[int, ...]) -> dict[str, Pairs]:
    """(prompt, query, key) of each place and of each lag, by its number."""
    prompt, query, earlier, latest = occurrences(prompts)
    prompt, query, earlier = prompt[latest], query[latest], earlier[latest]
    rows, at = prompts.real.nonzero(as_tuple=True)
    rows, at = rows[at >= 1], at[at >= 1]
    later = at >= 2  # the token before the second one is BOS
    read = {
        "followed": (prompt, query, earlier + 1),
        "previous": (rows[later], at[later], at[later] - 1),
        "duplicate": (prompt, query, earlier),
        "first": (rows, at, torch.zeros_like(at)),
        "itself": (rows, at, at),
    }
    for lag in lags:
        key = earlier + lag
        keep = (key >= 1) & (key <= query)
        read[str(lag)] = (prompt[keep], query[keep], key[keep])
    return read


def _within(pairs: Pairs, first: int, last: int) -> Pairs:
    """Those of the prompts first … last - 1, which are counted from first."""
    prompt, query, key = pairs
    keep = (prompt >= first) & (prompt < last)
    return prompt[keep] - first, query[keep], key[keep]
