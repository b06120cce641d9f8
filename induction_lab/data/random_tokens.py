"""Random numbers into tokens: what the streams of `training_streams` are made of.

Everything is drawn from a generator that is passed in, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


def random_rows(
    shape: tuple[int, ...], concentration: float, generator: torch.Generator
) -> Float[Tensor, "*batch state next"]:
    """Rows (along the last axis) from a symmetric Dirichlet distribution, float64.

    They are normalised Gamma(a) numbers. These are drawn as Gamma(a + 1) times U^(1 / a), in logarithms, because for
    small `concentration` a whole row of them would be too small for a float.
    """
    shapes = torch.full(shape, concentration + 1, dtype=torch.float64)
    more = torch._standard_gamma(shapes, generator)  # pyright: ignore[reportPrivateImportUsage]
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (more.log() + (-uniform).log1p() / concentration).softmax(-1)


def draw_lengths(among: Sequence[int], generator: torch.Generator, n_prompts: int) -> Int[Tensor, " prompt"]:
    """One of the lengths for each prompt, all equally likely."""
    return torch.tensor(among)[torch.randint(len(among), (n_prompts,), generator=generator)]


def draw_tokens(generator: torch.Generator, n: int, d_vocab: int, exponent: float) -> Int[Tensor, " draw"]:
    """Independent tokens from 1 on, with probability ~ token^-exponent."""
    if exponent == 0:
        return torch.randint(1, d_vocab, (n,), generator=generator)
    weights = torch.arange(1, d_vocab, dtype=torch.float64) ** -exponent
    edges = (weights / weights.sum()).cumsum(0)[:-1]
    chances = torch.rand(n, generator=generator, dtype=torch.float64)
    return 1 + torch.searchsorted(edges, chances, right=True)


def row_starts(
    sizes: Int[Tensor, " draw"], lengths: Int[Tensor, " prompt"], copies: Int[Tensor, " prompt"]
) -> tuple[Int[Tensor, " prompt"], int]:
    """Where each row's numbers begin, and how many there are in all: its block, the sizes of its gaps, their tokens."""
    running = np.concatenate([[0], sizes.numpy().cumsum()])
    start, starts = 0, []
    for length, n_gaps in zip(lengths.tolist(), copies.tolist(), strict=True):
        starts.append(start)
        first = start + length
        start = first + n_gaps + int(running[first + n_gaps] - running[first])
    return torch.tensor(starts), start


def far_places(
    starts: Int[Tensor, " prompt"],
    sizes: Int[Tensor, " draw"],
    lengths: Int[Tensor, " prompt"],
    copies: Int[Tensor, " prompt"],
    n: int,
) -> Int[Tensor, "prompt place"]:
    """Which of the random numbers each of the first `n` tokens of a row is."""
    starts, lengths, copies = starts[:, None], lengths[:, None], copies[:, None]
    nth = torch.arange(int(copies.max()))  # where a row has fewer copies, what the others say is never reached
    gaps = sizes[(starts + lengths + nth).clamp(max=len(sizes) - 1)]
    ends = gaps.cumsum(1) + lengths * (nth + 1)  # of each copy
    places = torch.arange(n).expand(len(starts), -1).contiguous()
    complete = torch.searchsorted(ends, places, right=True)  # copies before
    in_block = places - ends.gather(1, complete) + lengths  # negative in the gap before a copy
    in_gaps = places - complete * lengths
    return torch.where(in_block >= 0, starts + in_block, starts + lengths + copies + in_gaps)


def with_bos(tokens: Int[Tensor, "prompt place"]) -> Int[Tensor, "prompt pos"]:
    """BOS, token 0, in front of each row."""
    return torch.nn.functional.pad(tokens, (1, 0), value=0)
