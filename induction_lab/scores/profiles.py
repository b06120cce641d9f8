"""Where heads look, position by position and around the earlier occurrence of the current token; all heads at once.

Only the engine's probabilities at the (query, key) pairs in question are read, no matrices. For a query `t` whose token
occurred before, last at `s`, the lag profile is the attention to `s + lag`: an induction head peaks at lag 1, a
duplicate-token head at 0. The profiles of what a model *expects* there: `behaviour.expected_tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attention.hooks import Enough
from induction_lab.data.occurrences import LAGS, Pairs, Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.reading import attention_layers, read_attention
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.statistics import mean_and_error

PLACES = {
    "followed": "the token that followed its earlier occurrence",
    "previous": "the token before",
    "duplicate": "its own earlier occurrence",
    "first": "the first position",
    "itself": "itself",
}
TOKENS_A_BATCH = 4096


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


def attention_profiles(
    model: HookedModel,
    prompts: PromptsLike,
    *,
    lags: Sequence[int] = LAGS,
    at_end: Callable[[int, Float[Tensor, "prompt pos d_model"]], None] | None = None,
) -> AttentionProfiles:
    """Read the profiles of all heads in one forward pass.

    Args:
        model: Any supported model.
        prompts: `Prompts`, tokens or text.
        lags: Distances from the earlier occurrence.
        at_end: Shown each batch of prompts: the number of its first, and the normalised stream before the unembedding.

    Raises:
        ValueError: If no lag is given.
    """
    prompts = as_prompts(model, prompts)
    if not lags:
        raise ValueError("At least one lag is wanted, got none.")
    (n_prompts, n_pos), shape = prompts.tokens.shape, (model.n_layers, model.n_heads)
    by_position = {name: torch.zeros(*shape, n_pos, dtype=torch.float32) for name in PLACES}
    by_lag = torch.zeros(*shape, len(lags), n_prompts, dtype=torch.float32)
    at_position = {name: torch.zeros(n_pos, dtype=torch.long) for name in PLACES}
    at_lag = torch.zeros(len(lags), n_prompts, dtype=torch.long)
    step = max(1, TOKENS_A_BATCH // n_pos)
    for start in range(0, n_prompts, step):
        some, rows = prompts[start : start + step], slice(start, start + step)
        places, around = _pairs(Recurrences(some), lags)
        for name, (_, query, _) in places.items():
            at_position[name] += torch.bincount(query, minlength=n_pos)
        for count, (prompt, _, _) in zip(at_lag, around, strict=True):
            count[rows] = torch.bincount(prompt, minlength=len(some))
        normalised = _add_attention(model, some, places, by_position, around, by_lag[..., rows], at_end is not None)
        if at_end is not None and normalised is not None:
            at_end(start, normalised)
    absent = sorted(set(range(model.n_layers)) - set(attention_layers(model)))
    for values in (*by_position.values(), by_lag):
        values[absent] = torch.nan
    for name, count in at_position.items():
        by_position[name] = torch.where(count > 0, by_position[name] / count.clamp(min=1), torch.nan)
    per_lag = [
        mean_and_error((total[..., count > 0] / count[count > 0]).movedim(-1, 0))
        for total, count in zip(by_lag.unbind(2), at_lag, strict=True)
    ]
    means, errors = (torch.stack(part, -1) for part in zip(*per_lag, strict=True))
    return AttentionProfiles(by_position, means, tuple(lags), errors)


def _add_attention(
    model: HookedModel,
    prompts: Prompts,
    places: dict[str, Pairs],
    by_position: dict[str, Float[Tensor, "layer head pos"]],
    around: Sequence[Pairs],
    by_lag: Float[Tensor, "layer head lag prompt"],
    to_the_end: bool,
) -> Float[Tensor, "prompt pos d_model"] | None:
    """Add the attention of some prompts at the pairs of `places` to `by_position`, at those of `around` to `by_lag`.

    Gives the normalised stream at the end, where the run goes so far.
    """
    every = [*places.values(), *around]
    prompt, query, key = (torch.cat(part).to(model.device) for part in zip(*every, strict=True))
    sizes = [len(pairs[0]) for pairs in every]

    def look(attention: AttentionReading) -> None:
        layer, parts = attention.layer, attention.probabilities(prompt, query, key).float().cpu().split(sizes)
        for (name, (_, position, _)), part in zip(places.items(), parts, strict=False):
            by_position[name][layer].index_add_(1, position, part.T)
        for i, ((row, _, _), part) in enumerate(zip(around, parts[len(places) :], strict=True)):
            by_lag[layer, :, i].index_add_(1, row, part.T)
        if layer == model.n_layers - 1 and not to_the_end:
            raise Enough

    if sum(sizes) or to_the_end:
        return read_attention(model, prompts.tokens.to(model.device), look).normalised
    return None


def _pairs(seen: Recurrences, lags: Sequence[int]) -> tuple[dict[str, Pairs], list[Pairs]]:
    """(prompt, query, key) of each of `PLACES`, and of each lag."""
    (prompt, query, earlier), (rows, at), first = seen.latest, seen.queries, seen.prompts.first
    later = at >= 1 + first  # the token before the second one is BOS
    places = {
        "followed": (prompt, query, earlier + 1),
        "previous": (rows[later], at[later], at[later] - 1),
        "duplicate": (prompt, query, earlier),
        "first": (rows, at, torch.zeros_like(at)),
        "itself": (rows, at, at),
    }
    around = []
    for lag in lags:
        key = earlier + lag
        keep = (key >= first) & (key <= query)
        around.append((prompt[keep], query[keep], key[keep]))
    return places, around
