"""Markov chains: random ones, where they are in the long run, and what a prompt tells of them.

`P[state, next]` is the probability of going from one state to another; rows sum to 1. In prompts, state s is token
s + 1 and token 0 is BOS.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

TELEPORT = 1e-9  # chance of jumping anywhere: makes the long run unique where states cannot reach each other
TURNS, TOLERANCE = 128, 1e-6
TINY = 1e-30


def doubly_stochastic(matrices: Float[Tensor, "*batch state next"]) -> Float[Tensor, "*batch state next"]:
    """Scale rows and columns in turns until both sum to 1 (Sinkhorn & Knopp 1967).

    Nearly triangular matrices take very many turns: what these are short of after 128 is spread over their rows and
    columns (the rounding of Altschuler et al. 2017, https://arxiv.org/abs/1705.09634), so that all sums are exact.
    """
    scaled = matrices.clamp(min=TINY)
    for turn in range(TURNS):
        scaled = scaled / scaled.sum(-2, keepdim=True)
        rows = scaled.sum(-1, keepdim=True)
        if turn % 8 == 7 and bool(((rows - 1).abs() < TOLERANCE).all()):
            break
        scaled = scaled / rows
    scaled = scaled / scaled.sum(-1, keepdim=True).clamp(min=1)
    scaled = scaled / scaled.sum(-2, keepdim=True).clamp(min=1)
    row_lacks, column_lacks = (
        (1 - scaled.sum(dim, keepdim=True)).clamp(min=0) for dim in (-1, -2)
    )  # rounding left out
    lacking = row_lacks.sum((-2, -1), keepdim=True).clamp(min=TINY)
    return (scaled + row_lacks * column_lacks / lacking).clamp(min=0)


def stationary_distribution(matrices: Float[Tensor, "*batch state next"]) -> Float[Tensor, "*batch state"]:
    """How often a chain is in each state in the long run."""
    n_states = matrices.shape[-1]
    jumping = (1 - TELEPORT) * matrices + TELEPORT / n_states
    # x = x P and sum(x) = 1 together: x (I - P + J) = 1 with J all ones
    system = torch.eye(n_states, dtype=matrices.dtype) - jumping + 1
    ones = torch.ones(*matrices.shape[:-1], 1, dtype=matrices.dtype)
    frequencies = torch.linalg.solve(system.mT, ones)[..., 0].clamp(min=0)
    return frequencies / frequencies.sum(-1, keepdim=True)


def in_context_unigrams(
    tokens: Int[Tensor, "prompt pos"], n_states: int, *, concentration: float = 1.0
) -> Float[Tensor, "prompt pos state"]:
    """The next state's probabilities from how often each state occurred so far: counts + `concentration`, normalised.

    Edelman et al. (2024), https://arxiv.org/abs/2402.11004.

    Args:
        tokens: BOS counts for nothing.
        n_states: States are the tokens 1 to `n_states`.
        concentration: Of the prior; added to each count.

    Returns:
        At each position the prediction of what comes next, the position itself counted; uniform before any state.

    Raises:
        ValueError: If a token is no state and not BOS, or `concentration` is not positive.
    """
    return _posterior(_indicators(tokens, n_states).cumsum(1), concentration)


def in_context_bigrams(
    tokens: Int[Tensor, "prompt pos"], n_states: int, *, concentration: float = 1.0
) -> Float[Tensor, "prompt pos state"]:
    """The next state's probabilities from what followed the current state so far: counts + `concentration`, normalised.

    Where the rows of the chain were drawn from a Dirichlet distribution of this `concentration`, no prediction from
    the steps taken is better. Edelman et al. (2024), https://arxiv.org/abs/2402.11004.

    Args:
        tokens: BOS counts for nothing: not as a state, and not as a successor.
        n_states: States are the tokens 1 to `n_states`.
        concentration: Of the prior; added to each count.

    Returns:
        At each position the prediction of what comes next; uniform on BOS and on states that nothing followed yet.

    Raises:
        ValueError: If a token is no state and not BOS, or `concentration` is not positive.
    """
    states = _indicators(tokens, n_states)
    earlier = (states @ states.mT).tril(-1)  # [query, key]: 1 where an earlier position holds the current state
    return _posterior(earlier[:, :, :-1] @ states[:, 1:], concentration)


def _indicators(tokens: Int[Tensor, "prompt pos"], n_states: int) -> Float[Tensor, "prompt pos state"]:
    if n_states < 1 or not bool(((tokens >= 0) & (tokens <= n_states)).all()):
        raise ValueError(
            f"Tokens must be BOS (0) or a state, 1 to {n_states}, got tokens from {int(tokens.min())} to "
            f"{int(tokens.max())}. Is `n_states` right?"
        )
    return (tokens[..., None] == torch.arange(1, n_states + 1, device=tokens.device)).float()


def _posterior(counts: Float[Tensor, "prompt pos state"], concentration: float) -> Float[Tensor, "prompt pos state"]:
    if not concentration > 0:
        raise ValueError(f"`concentration` must be positive, got {concentration}.")
    weights = counts + concentration
    return weights / weights.sum(-1, keepdim=True)
