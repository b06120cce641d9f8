"""Tokens as people have them: tensors, arrays, lists, columns of data sets, what tokenizers return; padded or ragged.

token_rows   all of these as one tensor, and which of its tokens are real
begun        every row moved to begin at position 0, padding behind it
find_padding padding that nobody has said to be padding
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from induction_lab.data.vocabulary import Vocabulary


def token_rows(given: Any) -> tuple[Int[Tensor, "prompt pos"], Bool[Tensor, "prompt pos"] | None]:
    """Tokens as one tensor, and which of them are real: None where all are, as far as anybody said.

    Args:
        given: A tensor or an array `[prompt, pos]` or `[pos]`, a list of token ids or of rows of them (of any lengths),
            or a mapping with `input_ids` and perhaps `attention_mask`, as tokenizers return it; or a list of such.

    Raises:
        ValueError: If these are no whole numbers in rows, or a mask has another shape or other numbers than 0 and 1.
    """
    mask = None
    if not isinstance(given, Tensor | np.ndarray | Mapping):
        given = list(given)
        refuse_table(given)
        if given and all(isinstance(each, Mapping) and "input_ids" in each for each in given):
            masked = all("attention_mask" in each for each in given)
            names = ("input_ids", "attention_mask") if masked else ("input_ids",)
            given = {name: [each[name] for each in given] for name in names}
    if isinstance(given, Mapping):
        if "input_ids" not in given:
            raise ValueError(f"A mapping of tokens holds `input_ids`, got one of {', '.join(map(str, given))}.")
        given, mask = given["input_ids"], given.get("attention_mask")
    tokens, lengths = _stacked(given)
    real = None if lengths is None else torch.arange(tokens.shape[1]) < lengths[:, None]
    if mask is None:
        return tokens, real
    said, of_mask = _stacked(mask + 0 if isinstance(mask, Tensor | np.ndarray) else mask)  # booleans as numbers
    ragged = [] if lengths is None else lengths.tolist()
    if said.shape != tokens.shape or ragged != ([] if of_mask is None else of_mask.tolist()):
        raise ValueError(
            f"`attention_mask` says of every token whether it is real, got {tuple(said.shape)} for tokens "
            f"{tuple(tokens.shape)}."
        )
    if bool(((said != 0) & (said != 1)).any()):
        raise ValueError(f"`attention_mask` is 1 at tokens and 0 at padding, got {said.min()} … {said.max()}.")
    return tokens, said.cpu().bool() if real is None else said.cpu().bool() & real


def refuse_table(given: Any) -> None:
    """Refuse a table of texts (`datasets.Dataset`, a data frame, rows as mappings), whose column is meant.

    Raises:
        ValueError: If that is what this is.
    """
    columns = getattr(given, "column_names", None)
    columns = getattr(given, "columns", None) if columns is None else columns
    if columns is None and isinstance(given, list) and given and isinstance(given[0], Mapping):
        columns = given[0]
    if columns is not None and "input_ids" not in columns:
        names = [str(name) for name in columns]
        texts = [name for name in names if name in ("text", "content", "prompt")] or names
        raise ValueError(
            f"Prompts are one column of a table, and this one has {', '.join(names) or 'none'}: give the column of "
            f"texts{f', such as data[{texts[0]!r}]' if texts else ''}."
        )


def begun(
    tokens: Int[Tensor, "prompt pos"], real: Bool[Tensor, "prompt pos"], fill: int
) -> tuple[Int[Tensor, "prompt longest"], Int[Tensor, " prompt"] | None]:
    """Rows moved to begin at position 0, `fill` behind them; and their lengths, None where all have the same.

    Exact for causal models: nothing of a prompt can see what stands behind it, and positions count from its first
    token, as with the position ids that transformers makes of a mask.

    Raises:
        ValueError: If a row has no real token, or padding between its tokens.
    """
    lengths, first = real.sum(1), real.int().argmax(1)
    place = torch.arange(tokens.shape[1])
    whole = (place >= first[:, None]) & (place < (first + lengths)[:, None])
    for row in range(len(tokens)):
        if not lengths[row] or not torch.equal(whole[row], real[row]):
            what = "holds padding alone" if not lengths[row] else "has padding between its tokens"
            raise ValueError(f"Prompt {row} {what}; padding stands before or behind a prompt's tokens.")
    n_pos = int(lengths.max())
    moved = tokens.gather(1, (first[:, None] + place[:n_pos]).clamp(max=tokens.shape[1] - 1).to(tokens.device))
    behind = place[:n_pos] >= lengths[:, None]
    return moved.masked_fill(behind.to(tokens.device), fill), lengths if bool(behind.any()) else None


def with_one_bos(
    model: Vocabulary, tokens: Int[Tensor, "prompt pos"], real: Bool[Tensor, "prompt pos"]
) -> tuple[Int[Tensor, "prompt longest"], Int[Tensor, " prompt"] | None]:
    """Every prompt from position 0 on, the first of two BOS left out, and the lengths where they differ."""
    if model.tokenizer is not None and tokens.shape[1] > 2:
        rows, first = torch.arange(len(tokens)), real.int().argmax(1)
        both = [(rows, (first + i).clamp(max=tokens.shape[1] - 1)) for i in (0, 1)]
        twice = (real.sum(1) > 2) & torch.stack(
            [(tokens.cpu()[at] == model.bos_token_id) & real[at] for at in both]
        ).all(0)
        real = real.clone()
        real[rows[twice], first[twice]] = False
    return (tokens, None) if bool(real.all()) else begun(tokens, real, model.bos_token_id)


def refuse_padding(model: Vocabulary, tokens: Int[Tensor, "prompt pos"]) -> None:
    """Refuse tokens of which some are padding, though nobody said which.

    Raises:
        ValueError: If a row begins or ends with the model's padding token.
    """
    pad = getattr(model, "pad_token_id", None)
    if pad is None:
        return
    tokenizer = model.tokenizer
    ordinary = tokenizer is None or pad in (model.bos_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    found = _find_padding(tokens, pad, ordinary=ordinary)
    if found is not None:
        raise ValueError(
            f"Prompt {found[0]} {found[1]}, which is padding: say which tokens are real. Give what the tokenizer "
            "returned, with its `attention_mask`: {'input_ids': tokens, 'attention_mask': mask}; or Prompts(tokens, "
            "lengths=torch.tensor([…]))."
        )


def real_on_the_right(
    model: Vocabulary, tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"]
) -> Bool[Tensor, "prompt pos"] | None:
    """Where the tokens of rows of these lengths are, if the padding is seen to stand before them; None if it is not."""
    pad, n_pos = getattr(model, "pad_token_id", None), tokens.shape[1]
    lengths = lengths.cpu()
    if pad is None or lengths.shape != tokens.shape[:1] or bool((lengths == n_pos).all()):
        return None
    place, is_pad = torch.arange(n_pos), (tokens == pad).cpu()
    on_the_right, on_the_left = place >= n_pos - lengths[:, None], place < lengths[:, None]
    seen = bool((is_pad | on_the_right).all()) and not bool((is_pad | on_the_left).all())
    return on_the_right if seen else None


def _stacked(given: Any) -> tuple[Int[Tensor, "prompt pos"], Int[Tensor, " prompt"] | None]:
    """Rows of whole numbers as one tensor; their lengths where they differ."""
    whole = _tensor(given)
    if whole is not None:
        whole = whole[None] if whole.ndim == 1 else whole
        if whole.ndim != 2:
            raise ValueError(f"Tokens are whole numbers [prompt, pos], got {tuple(whole.shape)} of {whole.dtype}.")
        return whole, None
    rows = [_row(each) for each in given]
    if not rows:
        raise ValueError("Prompts are wanted, got none.")
    lengths = torch.tensor([len(row) for row in rows])
    if bool((lengths == lengths[0]).all()):
        return torch.stack(rows), None
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    return tokens, lengths


def _tensor(given: Any) -> Tensor | None:
    """What has one shape as a tensor of whole numbers; None for rows that may differ in length."""
    if isinstance(given, np.ndarray) and given.dtype != object:
        if given.dtype.kind not in "iu":
            raise ValueError(f"Tokens are whole numbers [prompt, pos], got {given.shape} of {given.dtype}.")
        return torch.from_numpy(given.astype(np.int64))
    if isinstance(given, Tensor):
        if given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
            raise ValueError(f"Tokens are whole numbers [prompt, pos], got {tuple(given.shape)} of {given.dtype}.")
        return given.long()
    numbers = _numbers(given)
    return None if numbers is None else torch.tensor(numbers, dtype=torch.long)


def _numbers(given: Iterable[Any]) -> Sequence[int] | None:
    """A flat list of whole numbers; None where it holds anything else."""
    values = list(given)
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values)
    return [int(value) for value in values] if values and whole else None


def _row(given: Any) -> Int[Tensor, " pos"]:
    is_row = not isinstance(given, str | Mapping) and isinstance(given, Iterable)
    row = _tensor(given) if is_row and not (isinstance(given, Tensor) and given.ndim == 0) else None
    if row is None or row.ndim != 1:
        got = "an empty row" if is_row and not len(list(given)) else f"{type(given).__name__} {str(given)[:40]!r}"
        raise ValueError(f"Prompts are rows of token ids, whole numbers, got {got} among them.")
    return row.cpu()


def _find_padding(tokens: Int[Tensor, "prompt pos"], pad: int, *, ordinary: bool) -> tuple[int, str] | None:
    """The first row that begins or ends with padding, and where that stands; None where none does.

    Args:
        tokens: Rows of which nobody has said what is padding.
        pad: The padding token.
        ordinary: Whether it stands in prompts as well (as BOS or end-of-text): then one alone is no padding.
    """
    is_pad = (tokens == pad).long()
    some = is_pad.sum(1) < tokens.shape[1]  # a row of nothing else is no prompt in padding
    least = 2 if ordinary else 1
    for where, run in (("begins", is_pad.cumprod(1).sum(1)), ("ends", is_pad.flip(1).cumprod(1).sum(1))):
        rows = (some & (run >= least)).nonzero()[:, 0].tolist()
        if rows:
            return rows[0], f"{where} with {int(run[rows[0]])} times token {pad}"
    return None
