"""Prompts with known structure, and whatever people give as prompts. Each begins with BOS, once, at position 0.

Which tokens random prompts are drawn from is said in `data/vocabulary.py`. Prompts without BOS are made and taken as
well: then position 0 holds a token like the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lab.data.chat import is_text, texts_of
from induction_lab.data.given import begun, real_on_the_right, refuse_padding, refuse_table, token_rows, with_one_bos
from induction_lab.data.vocabulary import (
    Bos,
    Vocabulary as Vocabulary,
    check_context,
    check_model,
    default_period,
    draw,
    front,
    ordinary_tokens as ordinary_tokens,
)
from induction_lab.results.cards import html_card
from induction_lab.results.token_labels import token_labels
from induction_lab.runtime.machine import check_default_device
from induction_lab.runtime.whole_numbers import check_numbers


@dataclass(frozen=True, repr=False)
class Prompts:
    """Tokens, and what is known about their structure.

    Attributes:
        tokens: `[prompt, pos]`; position 0 is BOS, unless `has_bos` says otherwise.
        lengths: Real tokens of each prompt; what follows is padding. None: all of them.
        kind: `repeated`, `distinct`, `text` or `given`.
        period: Length of the repeated block, where there is one.
        n_repeats: How often the block stands in the prompt.
        gap: Other tokens between two copies.
        seed: Of the random draw.
        has_bos: Whether position 0 holds BOS, which is no token that recurs; else it is a token like the others.
        beyond_context: Whether they may be longer than the context that the model was trained on.
        note: How they differ from what was asked for, or from the usual.
        tokenizer: What shows them as words, where there is one.
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"] | None = None
    kind: str = "given"
    period: int | None = None
    n_repeats: int | None = None
    gap: int = 0
    seed: int | None = None
    has_bos: bool = True
    beyond_context: bool = False
    note: str = ""
    tokenizer: Any = field(default=None, compare=False)

    def __repr__(self) -> str:
        """Their structure, and how the first begins, in words where there is a tokenizer."""
        begins = f": {self._begins(0)!r}" if len(self) else ""
        return f"Prompts({self._facts()}{begins})"

    def _repr_html_(self) -> str:
        """Their structure and first tokens, for notebooks."""
        rows = [(i, int(self.real_lengths[i]), self._begins(i)) for i in range(min(len(self), 4))]
        note = f"{len(self) - 4} more prompts" if len(self) > 4 else ""
        return html_card("Prompts", self._facts(), ("prompt", "tokens", "begins with"), rows, note=note)

    def _facts(self) -> str:
        kind = f"{self.kind}, period {self.period}, {self.n_repeats} copies" if self.period else self.kind
        return f"{len(self)} x {self.tokens.shape[1]} tokens; {kind}"

    def _begins(self, row: int, most: int = 16) -> str:
        ids = self.tokens[row, : self.real_lengths[row]].tolist()
        shown = (["BOS"] if self.has_bos else []) + token_labels(self.tokenizer, ids[self.first : most])
        return "│".join(shown) + " …" * (len(ids) > most)

    def __len__(self) -> int:
        """Number of prompts."""
        return self.tokens.shape[0]

    @property
    def first(self) -> int:
        """Position of the first token that counts, behind BOS where there is one."""
        return int(self.has_bos)

    @property
    def bos(self) -> int | None:
        """The token at position 0 where that is BOS, to make other prompts that begin alike."""
        return int(self.tokens[0, 0]) if self.has_bos else None

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
        facts |= {} if self.has_bos else {"has_bos": False}
        facts |= {"beyond_context": True} if self.beyond_context else {}
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
    period: int | None = None,
    n_repeats: int = 2,
    gap: int = 0,
    seed: int = 0,
    bos: Bos = "model",
    beyond_context: bool = False,
    distinct: bool = False,
) -> Prompts:
    """`[BOS, u_1 … u_period]`, the block `u` of distinct random tokens written `n_repeats` times.

    >>> repeated_tokens(load_model(), period=3, n_prompts=1).tokens   # doctest: +SKIP
    tensor([[  0, 195,  95, 191, 195,  95, 191]])

    Args:
        model: Whose vocabulary and BOS to use.
        n_prompts: Prompts, each with a block of its own.
        period: Tokens of the block; by default 50, fewer (`note` says so) where the context or the vocabulary has no
            room for them.
        n_repeats: Copies, at least 2.
        gap: Other distinct tokens between two copies, so that no fixed offset finds the copy.
        seed: The same seed gives the same prompts.
        bos: What stands in front: the model's BOS, a token of your own, or None for nothing.
        beyond_context: Allow prompts longer than the context that the model was trained on; rotary positions only.
        distinct: Leave room, in the default period, for prompts of the same length that repeat nothing (`chance_test`).

    Raises:
        ValueError: If the prompt does not fit the context or the vocabulary has too few tokens.
    """
    check_model(model)
    note = ""
    check_numbers(n_prompts=n_prompts, period=period, n_repeats=n_repeats, gap=gap)
    if period is None:
        period, note = default_period(model, n_repeats=n_repeats, gap=gap, bos=bos, distinct=distinct)
    begin = front(model, bos)
    length = len(begin) + period * n_repeats + gap * (n_repeats - 1)
    check_context(model, length, f"{period=}, {n_repeats=}" + (f", {gap=}" if gap else ""), beyond_context)
    drawn = draw(model, n_prompts, period + gap * (n_repeats - 1), seed, begin)
    block, gaps = drawn[:, :period], drawn[:, period:]
    parts = [torch.tensor([begin]).long().expand(n_prompts, -1), block]
    for repeat in range(n_repeats - 1):
        parts += [gaps[:, repeat * gap : (repeat + 1) * gap], block]
    facts = {"n_repeats": n_repeats, "gap": gap, "seed": seed, "beyond_context": beyond_context, "note": note}
    facts |= {"period": period, "has_bos": bool(begin), "tokenizer": model.tokenizer}
    return Prompts(torch.cat(parts, 1), kind="repeated", **facts)


def distinct_tokens(
    model: Vocabulary,
    *,
    n_prompts: int = 16,
    length: int = 100,
    seed: int = 0,
    bos: Bos = "model",
    beyond_context: bool = False,
) -> Prompts:
    """BOS and `length` random tokens, none of them twice: where there is nothing to copy.

    Raises:
        ValueError: As in `repeated_tokens`.
    """
    check_model(model)
    check_numbers(n_prompts=n_prompts, length=length, least=1)
    begin = front(model, bos)
    check_context(model, len(begin) + length, f"{length=}", beyond_context)
    drawn = draw(model, n_prompts, length, seed, begin)
    tokens = torch.cat([torch.tensor([begin]).long().expand(n_prompts, -1), drawn], 1)
    how: dict[str, Any] = {"has_bos": bool(begin), "beyond_context": beyond_context, "tokenizer": model.tokenizer}
    return Prompts(tokens, kind="distinct", seed=seed, **how)


def text_prompts(
    model: Vocabulary,
    text: str | Path | Iterable[Any],
    *,
    n_prompts: int | None = None,
    length: int | None = None,
    bos: Bos = "model",
    beyond_context: bool = False,
) -> Prompts:
    """Text as prompts: BOS once, then the text's own tokens; long texts are cut, shorter ones padded on the right.

    Args:
        model: Must have a tokenizer.
        text: One text (a `Path`: what stands in the file), cut into consecutive prompts, or several, each cut in the
            same way. A list of chat messages (`role`, `content`) is one, as the tokenizer's chat template writes it.
        n_prompts: Keep the first so many; all by default.
        length: Longest prompt in tokens, BOS included; by default 512, or the context if that is shorter.
        bos: What stands in front of each prompt, as in `repeated_tokens`; a BOS that the text spells is not doubled.
        beyond_context: As in `repeated_tokens`.

    Raises:
        ValueError: If the model has no tokenizer, or no chat template for messages, the text is empty or `length` is
            longer than the context.
    """
    check_model(model)
    if model.tokenizer is None:
        raise ValueError("This model has no tokenizer, so it reads tokens only: give a tensor [prompt, pos].")
    texts = texts_of(model.tokenizer, text)
    length = min(512, model.n_ctx or 512) if length is None else length
    check_numbers(n_prompts=n_prompts, length=length)
    check_context(model, length, f"{length=}", beyond_context)
    begin, own = front(model, bos), {model.bos_token_id, getattr(model.tokenizer, "bos_token_id", None)}
    room, pieces = length - len(begin), []
    for one in texts:
        ids = model.tokenizer(one, add_special_tokens=False, verbose=False)["input_ids"]
        while ids and ids[0] in own:  # a text that spells its own BOS
            ids = ids[1:]
        pieces += [ids[start : start + room] for start in range(0, len(ids), room)]
    pieces = pieces[:n_prompts]
    if not pieces:
        raise ValueError("The text is empty: there is no token to look at.")
    lengths = torch.tensor([len(begin) + len(piece) for piece in pieces])
    tokens = torch.full((len(pieces), int(lengths.max())), model.bos_token_id)
    for row, piece in zip(tokens, pieces, strict=True):
        row[: len(begin) + len(piece)] = torch.tensor([*begin, *piece])
    whole = bool((lengths == tokens.shape[1]).all())
    how: dict[str, Any] = {"has_bos": bool(begin), "beyond_context": beyond_context, "tokenizer": model.tokenizer}
    return Prompts(tokens, lengths=None if whole else lengths, kind="text", **how)


PromptsLike = Prompts | Tensor | Path | Mapping[str, Any] | Iterable[Any]


def as_prompts(model: Vocabulary, prompts: PromptsLike) -> Prompts:
    """Whatever a user gives where prompts are wanted.

    That is `Prompts`; texts, text files (`Path`), chat messages; or tokens: a tensor, an array, a list or a column of
    rows of any lengths, or what a tokenizer returns, with its `attention_mask`. Tokens are taken as they are, except
    that every prompt is moved to begin at position 0, its padding behind it, and that of two BOS, the template's and
    the tokenizer's, one is left. Where position 0 holds no BOS, it counts as a token like the others.

    Raises:
        ValueError: If tokens lie outside the vocabulary, are no whole numbers, do not fit the context, or hold padding
            that no mask names.
    """
    check_default_device()
    if isinstance(prompts, Prompts):
        return _checked(model, _from_the_left(model, prompts))
    if not isinstance(prompts, str | Path | Iterable):
        raise ValueError(f"Prompts are `Prompts`, tokens or text, got {type(prompts).__name__}.")
    if not isinstance(prompts, list):  # which may be of messages
        refuse_table(prompts)
    given = prompts if isinstance(prompts, Tensor | np.ndarray | Mapping | str | Path) else list(prompts)
    if is_text(given):
        return text_prompts(model, given)
    tokens, real = token_rows(given)
    if not tokens.numel():
        raise ValueError(f"Prompts need at least one token after BOS, got shape {tuple(tokens.shape)}.")
    if real is None:
        refuse_padding(model, tokens)
    tokens, lengths = with_one_bos(model, tokens, torch.ones(tokens.shape).bool() if real is None else real)
    special = {model.bos_token_id, *getattr(model.tokenizer, "all_special_ids", ())}
    facts = {"has_bos": set(tokens[:, 0].tolist()) <= special, "tokenizer": model.tokenizer}
    return _checked(model, Prompts(tokens, lengths, **facts))


def as_repeats(model: Vocabulary, prompts: PromptsLike) -> Prompts:
    """As `as_prompts`; and of tokens that are blocks written again and again, the period is found."""
    found = as_prompts(model, prompts)
    body = found.tokens[:, found.first :]
    if not isinstance(prompts, Prompts) and found.lengths is None:
        for period in range(1, body.shape[1] // 2 + 1):
            if body.shape[1] % period == 0 and torch.equal(body[:, period:], body[:, :-period]):
                return replace(found, kind="repeated", period=period, n_repeats=body.shape[1] // period)
    return found


def _checked(model: Vocabulary, prompts: Prompts) -> Prompts:
    tokens, lengths = prompts.tokens, prompts.lengths
    if tokens.numel() == 0 or tokens.shape[1] < 2:
        raise ValueError(f"Prompts need at least one token after BOS, got shape {tuple(tokens.shape)}.")
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= model.d_vocab:
        raise ValueError(f"Tokens must lie in [0, {model.d_vocab}), got {low} … {high}.")
    if lengths is not None and (
        lengths.shape != tokens.shape[:1] or not 1 <= lengths.min() <= lengths.max() <= tokens.shape[1]
    ):
        raise ValueError(
            f"`lengths` has a number of tokens for each of {len(tokens)} prompts, from 1 to {tokens.shape[1]}, "
            f"got {lengths.tolist()}."
        )
    check_context(model, tokens.shape[1], "What was given", prompts.beyond_context)
    return prompts


def _from_the_left(model: Vocabulary, prompts: Prompts) -> Prompts:
    """Prompts of a user's own: those padded on the left as if they were padded on the right."""
    if prompts.kind != "given" or prompts.tokens.ndim != 2:
        return prompts
    if prompts.lengths is None:
        refuse_padding(model, prompts.tokens)
        return prompts
    real = real_on_the_right(model, prompts.tokens, prompts.lengths)
    if real is None:
        return prompts
    tokens, lengths = begun(prompts.tokens, real, model.bos_token_id)
    return replace(prompts, tokens=tokens, lengths=lengths)
