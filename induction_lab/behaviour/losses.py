"""Logits to numbers: cross-entropy per token, in nats, on first and on later copies, and how it falls with context."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.internals.side_by_side import side_by_side
from induction_lab.models.hooked_model import HookedModel

LOGIT_BYTES = 2**26
TOKENS_A_BATCH = 4096


def loss_per_token(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch predicted"]:
    """Cross-entropy of each next token in nats; entry `t` is the loss on token `t + 1`. A uniform guess: ln d_vocab."""
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none"
    ).view(tokens.shape[0], -1)


def copy_masks(period: int, n_repeats: int, *, gap: int = 0, has_bos: bool = True) -> list[Bool[Tensor, " predicted"]]:
    """For each copy of the block the entries of `loss_per_token` that predict it, its first token left out.

    The first token of a later copy cannot be foreseen (nothing says that the block ends there), so it is left out of
    every copy alike. Of prompts without BOS the very first token is not predicted at all.
    """
    before = 0 if has_bos else 1
    n_predicted = period * n_repeats + gap * (n_repeats - 1) - before
    position = torch.arange(n_predicted)
    starts = [repeat * (period + gap) - before for repeat in range(n_repeats)]
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


def token_losses(
    model: HookedModel, batch: Prompts, hidden: Float[Tensor, "prompt pos d_model"]
) -> Float[Tensor, "prompt predicted"]:
    """Loss per predicted token in nats, logits made a few positions at a time; NaN at padding.

    Args:
        model: Whose loss.
        batch: The prompts.
        hidden: Its normalised stream on them, `model.hidden(batch.tokens)`.
    """
    tokens = batch.tokens.to(model.device)
    if model.unembeds_by_parts:
        step = max(1, LOGIT_BYTES // (4 * model.d_vocab * len(batch)))
        parts = []
        with torch.inference_mode():
            for start in range(0, tokens.shape[1] - 1, step):
                logits = model.unembed(hidden[:, start : start + step + 1])
                parts.append(loss_per_token(logits, tokens[:, start : start + step + 1]))
        losses = torch.cat(parts, 1).cpu()
    else:
        losses = loss_per_token(model.logits(tokens), tokens).cpu()
    return losses.masked_fill(~batch.real[:, 1:], torch.nan)


def losses_on(model: HookedModel, prompts: Prompts) -> Float[Tensor, "prompt predicted"]:
    """Loss per predicted token of any number of prompts in nats, read a few prompts at a time; NaN at padding."""
    size = max(1, TOKENS_A_BATCH // prompts.tokens.shape[1])
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    ends = side_by_side(model, [partial(model.hidden, batch.tokens) for batch in batches])
    return torch.cat([token_losses(model, batch, end) for batch, end in zip(batches, ends, strict=True)])
