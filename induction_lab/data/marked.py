"""Prompts of which something is known that cannot be read off the tokens: where a needle lies, what is right next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab.data.prompts import Prompts


@dataclass(frozen=True, kw_only=True)
class MarkedPrompts(Prompts):
    """Prompts, and numbers that whoever made them knows: positions, tokens.

    Attributes:
        marks: `[prompt, mark]`; what each mark means is said by the score that the prompts belong to.
    """

    marks: Int[Tensor, "prompt mark"]

    def __getitem__(self, which: slice) -> MarkedPrompts:
        """Some of the prompts, without the padding that none of them needs."""
        lengths = None if self.lengths is None else self.lengths[which]
        longest = self.tokens.shape[1] if lengths is None or not len(lengths) else int(lengths.max())
        return replace(self, tokens=self.tokens[which, :longest], lengths=lengths, marks=self.marks[which])


def marked(rows: Sequence[Sequence[int]], marks: Sequence[Sequence[int]], **facts: Any) -> MarkedPrompts:
    """Rows of tokens of any lengths, BOS first, as prompts padded on the right.

    Args:
        rows: The tokens of each prompt.
        marks: What is known of each, equally many numbers.
        **facts: Of `Prompts`: `kind`, `seed`, ….
    """
    lengths = torch.tensor([len(row) for row in rows])
    tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = torch.tensor(row)
    whole = bool((lengths == tokens.shape[1]).all())
    return MarkedPrompts(tokens, lengths=None if whole else lengths, marks=torch.tensor(marks), **facts)
