"""What prompts need to know of a model: its tokens, those to draw from, what stands in front, how long prompts may be.

Random tokens are drawn without replacement from the middle of the vocabulary: special tokens are left out and, in
vocabularies of a size where it matters, the most common 2 % and the least common 8 % of ids (byte-pair vocabularies are
ordered by frequency). Duplicates inside a block would put false targets into every score that looks for repeats.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab.runtime.machine import check_default_device
from induction_lab.runtime.whole_numbers import check_seed

LARGE_VOCABULARY = 2_000  # from here on the rarest and most common ids are left out
PERIOD = 50  # tokens of a repeated block, where there is room for it
Bos = int | Literal["model"] | None


@runtime_checkable
class Vocabulary(Protocol):
    """What prompts need to know of a model."""

    tokenizer: Any
    d_vocab: int
    n_ctx: int | None
    bos_token_id: int


def check_model(model: Vocabulary) -> None:
    """Refuse a model's name where prompts are made, which wants its tokenizer.

    Raises:
        ValueError: If that, or anything else without a vocabulary, is given.
    """
    if not hasattr(model, "d_vocab"):
        named = f"load_model({model!r})" if isinstance(model, str) else "load_model(name)"
        raise ValueError(f"Prompts are made for a model that is loaded, got {model!r:.60}. Write: model = {named}")


def n_real_tokens(model: Vocabulary) -> int:
    """How many rows of the embedding are tokens: those of the tokenizer, and no rows that pad to a round number."""
    return model.d_vocab if model.tokenizer is None else min(model.d_vocab, len(model.tokenizer))


def ordinary_tokens(model: Vocabulary) -> Int[Tensor, " token"]:
    """The token ids that random prompts are drawn from (see the module's first lines)."""
    size, special = n_real_tokens(model), {model.bos_token_id}
    if model.tokenizer is not None:
        special |= set(model.tokenizer.all_special_ids) | set(getattr(model.tokenizer, "added_tokens_decoder", {}))
    low, high = (int(0.02 * size), int(0.92 * size)) if size >= LARGE_VOCABULARY else (0, size)
    return torch.tensor([token for token in range(low, high) if token not in special])


def default_period(
    model: Vocabulary, *, n_repeats: int = 2, gap: int = 0, bos: Bos = "model", distinct: bool = False
) -> tuple[int, str]:
    """The period of `repeated_tokens` where none is asked for, and a sentence where that is less than `PERIOD`.

    Args:
        model: Whose context and vocabulary must have room for it.
        n_repeats: Copies.
        gap: Tokens between two copies.
        bos: What stands in front.
        distinct: Whether prompts of the same length that repeat nothing are wanted too (`chance_test`).
    """
    kinds, between = len(ordinary_tokens(model)), gap * max(n_repeats - 1, 0)
    room = PERIOD if model.n_ctx is None else (model.n_ctx - len(front(model, bos)) - between) // max(n_repeats, 1)
    drawn = (kinds - between) // (n_repeats if distinct and n_repeats > 1 else 1)
    period = max(1, min(PERIOD, room, drawn))
    if period == PERIOD:
        return period, ""
    why = f"the context holds {model.n_ctx} tokens" if room <= drawn else f"there are {kinds} tokens to draw from"
    return period, f"blocks of {period} tokens, not {PERIOD}: {why}"


def front(model: Vocabulary, bos: Bos) -> list[int]:
    """What stands in front of a prompt: one token, or none.

    Raises:
        ValueError: If that is no token of the vocabulary, or torch makes tensors elsewhere than on the CPU.
    """
    check_default_device()
    if bos is None:
        return []
    token = model.bos_token_id if bos == "model" else bos
    if not isinstance(token, int) or not 0 <= token < model.d_vocab:
        raise ValueError(f"`bos` must be 'model', None or a token in [0, {model.d_vocab}), got {bos!r}.")
    return [token]


def draw(model: Vocabulary, n_prompts: int, n_tokens: int, seed: int, front: list[int]) -> Int[Tensor, "prompt pos"]:
    """Rows of distinct random tokens, none of them the one in front.

    Raises:
        ValueError: If there are not so many.
    """
    ids = ordinary_tokens(model)
    if front and front != [model.bos_token_id]:
        ids = ids[ids != front[0]]
    if n_tokens > len(ids):
        raise ValueError(
            f"{n_tokens} distinct tokens are wanted, the vocabulary has {len(ids)} to draw from. Ask for fewer."
        )
    check_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([ids[torch.randperm(len(ids), generator=generator)[:n_tokens]] for _ in range(n_prompts)])


def check_context(model: Vocabulary, length: int, what: str, beyond: bool) -> None:
    """Refuse prompts that are longer than the model can read, or than it was trained on and nobody asked for that.

    Raises:
        ValueError: If they are.
    """
    if model.n_ctx is None or length <= model.n_ctx:
        return
    can = getattr(model, "extrapolates", False)
    if not beyond or not can:
        allow = " Or study just that: beyond_context=True." if can else ""
        learned = " Its positions end there, so beyond_context=True does not help." if beyond else allow
        raise ValueError(
            f"{what} makes prompts of {length} tokens (BOS included), the model's context holds {model.n_ctx}. "
            f"Choose a shorter period, fewer repeats or a smaller length.{learned}"
        )
