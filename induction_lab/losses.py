"""Logits to numbers: cross-entropy per token, in nats, and what it is on first and on later copies."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def loss_per_token(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch predicted"]:
    """Cross-entropy of each next token in nats; entry `t` is the loss on token `t + 1`. A uniform guess: ln d_vocab."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    ).view(tokens.shape[0], -1)


def copy_masks(period: int, n_repeats: int, *, gap: int = 0) -> list[Bool[Tensor, " predicted"]]:
    """For each copy of the block the entries of `loss_per_token` that predict it, its first token left out.

    The first token of a later copy cannot be foreseen (nothing says that the block ends there), so it is left out of
    every copy alike.
    """
    n_predicted = period * n_repeats + gap * (n_repeats - 1)
    position = torch.arange(n_predicted)
    starts = [repeat * (period + gap) for repeat in range(n_repeats)]
    return [(position > start) & (position < start + period) for start in starts]
