"""How many prompts run at a time, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from induction_lab.data.prompts import Prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.whole_numbers import check_numbers

TOKENS_A_BATCH = 1024
LOGIT_BYTES = 2**27


def batches(model: HookedModel, prompts: Prompts, batch_size: int | None) -> Iterator[slice]:
    """Rows of prompts to run at a time: `batch_size`, else 1,024 tokens, fewer where their logits would be large.

    Raises:
        ValueError: If `batch_size` is less than 1.
    """
    check_numbers(batch_size=batch_size)
    tokens = min(TOKENS_A_BATCH, LOGIT_BYTES // (4 * model.d_vocab))
    step = batch_size or max(1, tokens // prompts.tokens.shape[1])
    return (slice(start, start + step) for start in range(0, len(prompts), step))


def chunks(prompts: int, tokens_each: int, *, most: int = 4096) -> Sequence[slice]:
    """Slices of prompts, of about `most` tokens each."""
    step = max(1, most // tokens_each)
    return [slice(start, min(start + step, prompts)) for start in range(0, prompts, step)]
