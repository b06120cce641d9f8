"""The loss that training minimises, without logits of the whole batch in memory."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS = 1024  # predictions at a time in training: their logits stay in the processor's cache
_GPU_LOGITS = 2**27  # at a time there, where every round costs the start of some kernels


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
        rows = _ROWS if x.device.type == "cpu" else max(_ROWS, _GPU_LOGITS // unembedding.shape[1])
        for start in range(0, len(x), rows):
            some = slice(start, start + rows)
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
