"""From which layer on tokens are known, by kind: means, texts drawn anew, kinds shuffled, equal final probability."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from experiments.essay.prose import KINDS

RANK = 10  # a token is known where no more than so many are held likelier
DRAWS = 2000


class Tokens(NamedTuple):
    """What is known of every token that settles: its text, kind, layer, and third by final log-probability."""

    text: np.ndarray
    kind: np.ndarray
    layer: np.ndarray
    third: np.ndarray


def settles(rank: np.ndarray) -> np.ndarray:
    """The first layer (-1: the embedding) from which on ranks stay at most `RANK`; -2 where the last one is not."""
    bad = rank > RANK
    last_bad = len(rank) - 1 - np.argmax(bad[::-1], 0)
    return np.where(bad[-1], -2, np.where(bad.any(0), last_bad, -1))


def sums(tokens: Tokens, n_texts: int, kind: np.ndarray | None = None) -> np.ndarray:
    """Sum and count of settling layers, `[2, text, kind, third]`."""
    made = np.zeros((2, n_texts, len(KINDS), 3))
    at = (tokens.text, tokens.kind if kind is None else kind, tokens.third)
    np.add.at(made[0], at, tokens.layer)
    np.add.at(made[1], at, 1)
    return made


def resampled(made: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same of texts drawn with replacement, `[2, draw, kind, third]`."""
    weight = rng.multinomial(made.shape[1], np.full(made.shape[1], 1 / made.shape[1]), DRAWS)
    return np.einsum("dt,stkh->sdkh", weight, made)


def means(made: np.ndarray) -> np.ndarray:
    """Mean settling layer by kind (last axis); NaN where there is no such token."""
    total, count = made.sum(-1)
    return total / np.where(count, count, np.nan)


def alike(made: np.ndarray, low: int, high: int) -> np.ndarray:
    """How much higher one kind settles than another among tokens that end up equally likely (mean over thirds)."""
    mean = made[0] / np.where(made[1], made[1], np.nan)
    weight = np.where(np.isnan(mean[..., low, :] + mean[..., high, :]), 0, made[1][..., low, :])
    gap = np.nan_to_num(mean[..., high, :] - mean[..., low, :])
    return (gap * weight).sum(-1) / np.where(weight.sum(-1), weight.sum(-1), np.nan)


def shuffled(tokens: Tokens, low: int, high: int, n_texts: int, rng: np.random.Generator) -> np.ndarray:
    """The difference between two kinds when these two are shuffled within each text."""
    some = np.flatnonzero((tokens.kind == low) | (tokens.kind == high))
    found = []
    for _ in range(DRAWS // 4):
        kind = tokens.kind.copy()
        for text in range(n_texts):
            own = some[tokens.text[some] == text]
            kind[own] = rng.permutation(kind[own])
        mean = means(sums(tokens, n_texts, kind).sum(1))
        found.append(mean[high] - mean[low])
    return np.array(found)
