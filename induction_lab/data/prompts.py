"""Prompts with known structure. Each begins with BOS, once, at position 0.

Random tokens are drawn without replacement from the middle of the vocabulary: special tokens are left out and, in
vocabularies of a size where it matters, the most common 2 % and the least common 8 % of ids (byte-pair vocabularies are
ordered by frequency). Duplicates inside a block would put false targets into every score that looks for repeats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lab.results.cards import html_card

LARGE_VOCABULARY = 2_000  # from here on the rarest and most common ids are left out


@runtime_checkable
class Vocabulary(Protocol):
    """What prompts need to know of a model."""

    tokenizer: Any
    d_vocab: int
    n_ctx: int | None
    bos_token_id: int


@dataclass(frozen=True)
class Prompts:
    """Tokens, and what is known about their structure.

    Attributes:
        tokens: `[prompt, pos]`; position 0 is BOS.
        lengths: Real tokens of each prompt; what follows is padding. None: all of them.
        kind: `repeated`, `distinct`, `text` or `given`.
        period: Length of the repeated block, where there is one.
        n_repeats: How often the block stands in the prompt.
        gap: Other tokens between two copies.
        seed: Of the random draw.
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"] | None = None
    kind: str = "given"
    period: int | None = None
    n_repeats: int | None = None
    gap: int = 0
    seed: int | None = None

    def _repr_html_(self) -> str:
        """Their structure and first tokens, for notebooks."""
        kind = f"{self.kind}, period {self.period}, {self.n_repeats} copies" if self.period else self.kind
        rows = [
            (i, int(n), " ".join(map(str, row[: min(n, 16)].tolist())) + (" …" if n > 16 else ""))
            for i, (row, n) in enumerate(zip(self.tokens[:4], self.real_lengths, strict=False))
        ]
        note = f"{len(self) - 4} more prompts" if len(self) > 4 else ""
        facts = f"{len(self)} x {self.tokens.shape[1]} tokens; {kind}"
        return html_card("Prompts", facts, ("prompt", "tokens", "begins with"), rows, note=note)

    def __len__(self) -> int:
        """Number of prompts."""
        return self.tokens.shape[0]

    @property
    def real_lengths(self) -> Int[Tensor, " prompt"]:
        """Tokens of each prompt, BOS included and padding left out; on the CPU."""
        return torch.full((len(self),), self.tokens.shape[1]) if self.lengths is None else self.lengths.cpu()

    @property
    def real(self) -> Bool[Tensor, "prompt pos"]:
        """Where tokens stand, not padding; on the CPU."""
        return torch.arange(self.tokens.shape[1]) < self.real_lengths[:, None]

    def __getitem__(self, which: slice) -> Prompts:
        """Some of the prompts."""
        lengths = None if self.lengths is None else self.lengths[which]
        return replace(self, tokens=self.tokens[which], lengths=lengths)

    def describe(self) -> dict[str, Any]:
        """What another lab needs to make the same prompts."""
        facts = {name: getattr(self, name) for name in ("kind", "period", "n_repeats", "gap", "seed")}
        return {
            **facts,
            "first_tokens": sorted(set(self.tokens[:, 0].tolist())),
            "n_prompts": len(self),
            "n_tokens": self.tokens.shape[1],
        }


def repeated_tokens(
    model: Vocabulary,
    *,
    n_prompts: int = 16,
    period: int = 50,
    n_repeats: int = 2,
    gap: int = 0,
    seed: int = 0,
) -> Prompts:
    """`[BOS, u_1 … u_period]`, the block `u` of distinct random tokens written `n_repeats` times.

    >>> repeated_tokens(load_model(), period=3, n_prompts=1).tokens   # doctest: +SKIP
    tensor([[  0, 195,  95, 191, 195,  95, 191]])

    Args:
        model: Whose vocabulary and BOS to use.
        n_prompts: Prompts, each with a block of its own.
        period: Tokens of the block.
        n_repeats: Copies, at least 2.
        gap: Other distinct tokens between two copies, so that no fixed offset finds the copy.
        seed: The same seed gives the same prompts.

    Raises:
        ValueError: If the prompt does not fit the context or the vocabulary has too few tokens.
    """
    for name, value, least in (
        ("n_prompts", n_prompts, 1),
        ("period", period, 1),
        ("n_repeats", n_repeats, 2),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    if gap < 0:
        raise ValueError(f"`gap` must not be negative, got {gap}.")
    length = 1 + period * n_repeats + gap * (n_repeats - 1)
    _check_context(model, length, f"{period=}, {n_repeats=}" + (f", {gap=}" if gap else ""))
    drawn = _draw(model, n_prompts, period + gap * (n_repeats - 1), seed)
    block, gaps = drawn[:, :period], drawn[:, period:]
    parts = [torch.full((n_prompts, 1), model.bos_token_id), block]
    for repeat in range(n_repeats - 1):
        parts += [gaps[:, repeat * gap : (repeat + 1) * gap], block]
    tokens = torch.cat(parts, 1)
    return Prompts(tokens, kind="repeated", period=period, n_repeats=n_repeats, gap=gap, seed=seed)


def distinct_tokens(model: Vocabulary, *, n_prompts: int = 16, length: int = 100, seed: int = 0) -> Prompts:
    """BOS and `length` random tokens, none of them twice: where there is nothing to copy.

    Raises:
        ValueError: As in `repeated_tokens`.
    """
    if n_prompts < 1 or length < 1:
        raise ValueError(f"`n_prompts` and `length` must be at least 1, got {n_prompts} and {length}.")
    _check_context(model, 1 + length, f"{length=}")
    drawn = _draw(model, n_prompts, length, seed)
    tokens = torch.cat([torch.full((n_prompts, 1), model.bos_token_id), drawn], 1)
    return Prompts(tokens, kind="distinct", seed=seed)


def text_prompts(
    model: Vocabulary, text: str | Sequence[str], *, n_prompts: int | None = None, length: int | None = None
) -> Prompts:
    """Text as prompts: BOS once, then the text's own tokens; long texts are cut, shorter ones padded on the right.

    Args:
        model: Must have a tokenizer.
        text: One text, cut into consecutive prompts, or several, each cut in the same way.
        n_prompts: Keep the first so many; all by default.
        length: Longest prompt in tokens, BOS included; by default 512, or the context if that is shorter.

    Raises:
        ValueError: If the model has no tokenizer, the text is empty or `length` is longer than the context.
    """
    if model.tokenizer is None:
        raise ValueError("This model has no tokenizer, so it reads tokens only: give a tensor [prompt, pos].")
    texts = [text] if isinstance(text, str) else list(text)
    length = min(512, model.n_ctx or 512) if length is None else length
    if length < 2:
        raise ValueError(f"`length` must be at least 2 (BOS and one token), got {length}.")
    _check_context(model, length, f"{length=}")
    pieces = []
    for one in texts:
        ids = model.tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]
        ids = ids[1:] if ids[:1] == [model.bos_token_id] else ids  # a text that spells its own BOS
        pieces += [ids[start : start + length - 1] for start in range(0, len(ids), length - 1)]
    pieces = pieces[:n_prompts]
    if not pieces:
        raise ValueError("The text is empty: there is no token to look at.")
    lengths = torch.tensor([1 + len(piece) for piece in pieces])
    tokens = torch.full((len(pieces), int(lengths.max())), model.bos_token_id)
    for row, piece in zip(tokens, pieces, strict=True):
        row[1 : 1 + len(piece)] = torch.tensor(piece)
    whole = bool((lengths == tokens.shape[1]).all())
    return Prompts(tokens, lengths=None if whole else lengths, kind="text")


PromptsLike = Prompts | Tensor | str | Sequence[str]


def as_prompts(model: Vocabulary, prompts: PromptsLike) -> Prompts:
    """Whatever a user gives where prompts are wanted: `Prompts`, tokens (taken as they are), or text.

    Raises:
        ValueError: If tokens lie outside the vocabulary, are no whole numbers, or do not fit the context.
    """
    if isinstance(prompts, Prompts):
        return _checked(model, prompts)
    if isinstance(prompts, Tensor):
        tokens = prompts[None] if prompts.ndim == 1 else prompts
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise ValueError(f"Tokens are whole numbers [prompt, pos], got {tuple(prompts.shape)} of {prompts.dtype}.")
        return _checked(model, Prompts(tokens.long()))
    if isinstance(prompts, str) or (
        isinstance(prompts, Sequence) and prompts and all(isinstance(p, str) for p in prompts)
    ):
        return text_prompts(model, prompts)
    raise ValueError(f"Prompts are `Prompts`, a tensor of tokens or text, got {type(prompts).__name__}.")


def ordinary_tokens(model: Vocabulary) -> Int[Tensor, " token"]:
    """The token ids that random prompts are drawn from (see the module's first lines)."""
    size, special = model.d_vocab, {model.bos_token_id}
    if model.tokenizer is not None:
        size = min(size, len(model.tokenizer))
        special |= set(model.tokenizer.all_special_ids) | set(getattr(model.tokenizer, "added_tokens_decoder", {}))
    low, high = (int(0.02 * size), int(0.92 * size)) if size >= LARGE_VOCABULARY else (0, size)
    return torch.tensor([token for token in range(low, high) if token not in special])


def _draw(model: Vocabulary, n_prompts: int, n_tokens: int, seed: int) -> Int[Tensor, "prompt pos"]:
    ids = ordinary_tokens(model)
    if n_tokens > len(ids):
        raise ValueError(
            f"{n_tokens} distinct tokens are wanted, the vocabulary has {len(ids)} to draw from. Ask for fewer."
        )
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([ids[torch.randperm(len(ids), generator=generator)[:n_tokens]] for _ in range(n_prompts)])


def _check_context(model: Vocabulary, length: int, what: str) -> None:
    if model.n_ctx is not None and length > model.n_ctx:
        raise ValueError(
            f"{what} makes prompts of {length} tokens (BOS included), the model's context holds {model.n_ctx}. "
            "Choose a shorter period, fewer repeats or a smaller length."
        )


def _checked(model: Vocabulary, prompts: Prompts) -> Prompts:
    tokens = prompts.tokens
    if tokens.numel() == 0 or tokens.shape[1] < 2:
        raise ValueError(f"Prompts need at least one token after BOS, got shape {tuple(tokens.shape)}.")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.d_vocab:
        raise ValueError(f"Tokens must lie in [0, {model.d_vocab}), got {low} … {high}.")
    _check_context(model, tokens.shape[1], "What was given")
    return prompts
