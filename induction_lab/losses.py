"""Logits to numbers: cross-entropy per token, in nats, on first and on later copies, and how it falls with context."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_ROWS = 1024  # predictions at a time in training: their logits stay in the processor's cache


def loss_per_token(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch predicted"]:
    """Cross-entropy of each next token in nats; entry `t` is the loss on token `t + 1`. A uniform guess: ln d_vocab."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    ).view(tokens.shape[0], -1)


def training_loss(
    hidden: Float[Tensor, "prediction d_model"],
    unembedding: Float[Tensor, "d_model d_vocab"],
    answers: Int[Tensor, " prediction"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy of `hidden @ unembedding`, in nats, its gradient taken on the way.

    The logits of all predictions are never there at once, and each is made once: what they owe to the stream and to the
    unembedding is added up while they are in the cache.
    """
    return _TrainingLoss.apply(hidden, unembedding, answers)  # type: ignore[return-value]


class _TrainingLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, unembedding: Tensor, answers: Tensor) -> Tensor:
        narrow = torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else None
        x, weights = (hidden, unembedding) if narrow is None else (hidden.to(narrow), unembedding.to(narrow))
        d_hidden, d_weights = torch.empty_like(x), torch.zeros_like(unembedding)
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(x), _ROWS):
            some = slice(start, start + _ROWS)
            answer = answers[some, None]
            slope = (x[some] @ weights).float().log_softmax(1)
            total -= slope.gather(1, answer).sum()
            slope = slope.exp_().scatter_add_(1, answer, slope.new_full(answer.shape, -1.0)).to(x.dtype)
            torch.mm(slope, weights.T, out=d_hidden[some])
            d_weights += x[some].T @ slope
        ctx.save_for_backward(d_hidden, d_weights)
        ctx.dtype, ctx.count = hidden.dtype, len(x)
        return total / len(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        d_hidden, d_weights = ctx.saved_tensors
        share = gradients[0] / ctx.count
        return d_hidden.to(ctx.dtype) * share, d_weights * share, None


def copy_masks(period: int, n_repeats: int, *, gap: int = 0) -> list[Bool[Tensor, " predicted"]]:
    """For each copy of the block the entries of `loss_per_token` that predict it, its first token left out.

    The first token of a later copy cannot be foreseen (nothing says that the block ends there), so it is left out of
    every copy alike.
    """
    n_predicted = period * n_repeats + gap * (n_repeats - 1)
    position = torch.arange(n_predicted)
    starts = [repeat * (period + gap) for repeat in range(n_repeats)]
    return [(position > start) & (position < start + period) for start in starts]


def loss_derivative(loss: Float[Tensor, " predicted"], *, factor: float = 1.5) -> Float[Tensor, " predicted"]:
    """`d L_i / d ln i`: how the loss changes as the context grows, in nats per e-fold of context; in float64.

    `i` is the index of the predicted token, BOS being 0: entry `t` of the loss is that of index `t + 1`. Each
    derivative is the slope of the least-squares line of the loss against `ln i` over the indices from `i / factor` to
    `i * factor`, and at least over the two neighbours. About 0 where more context does not help, negative where it
    does. Source: Olsson et al. (2022), "Loss derivatives", https://arxiv.org/abs/2209.11895.

    Args:
        loss: Mean loss at each predicted position; NaN entries are passed over.
        factor: How far the window reaches on either side.

    Returns:
        One slope an index; NaN where fewer than two entries are in reach.

    Raises:
        ValueError: If `factor` is not above 1.
    """
    if not factor > 1:
        raise ValueError(f"`factor` must be above 1, got {factor}.")
    n, known = len(loss), loss.isfinite()
    index = torch.arange(1, n + 1, dtype=torch.float64, device=loss.device)
    first = torch.minimum((index / factor - 1e-9).ceil(), index - 1).clamp(min=1).long()
    last = torch.maximum((index * factor + 1e-9).floor(), index + 1).clamp(max=n).long()

    def over_window(x: Tensor) -> Tensor:
        total = torch.nn.functional.pad((x * known).cumsum(0), (1, 0))
        return total[last] - total[first - 1]

    x, y = index.log(), loss.double().nan_to_num(0.0)
    count = over_window(torch.ones_like(x))
    mean_x, mean_y = over_window(x) / count, over_window(y) / count
    slope = (over_window(x * y) - count * mean_x * mean_y) / (over_window(x * x) - count * mean_x.square())
    return slope.masked_fill(count < 2, torch.nan)
