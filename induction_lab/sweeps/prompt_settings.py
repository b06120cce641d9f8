"""The prompts of a sweep as settings: drawn anew for each model and seed, wherever the worker is."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from induction_lab.data.prompts import Prompts, repeated_tokens, text_prompts
from induction_lab.data.text_files import read_text
from induction_lab.data.vocabulary import PERIOD
from induction_lab.models.hooked_model import HookedModel


@dataclass(frozen=True)
class RepeatsSpec:
    """`repeated_tokens`, drawn for each model and seed; by default of 50 tokens, fewer where a model has no room."""

    period: int | None = None
    n_repeats: int = 2
    n_prompts: int = 16
    gap: int = 0
    kind: ClassVar[str] = "repeats"

    def __post_init__(self) -> None:
        """Refuse what makes no prompts."""
        if (self.period is not None and self.period < 1) or self.n_repeats < 2 or self.n_prompts < 1 or self.gap < 0:
            raise ValueError(
                "wanted are period ≥ 1, n_repeats ≥ 2, n_prompts ≥ 1, gap ≥ 0, got "
                f"{self.period}, {self.n_repeats}, {self.n_prompts}, {self.gap}."
            )

    @property
    def n_tokens(self) -> int:
        """Of all prompts together, at most."""
        period = PERIOD if self.period is None else self.period
        return self.n_prompts * (1 + period * self.n_repeats + self.gap * (self.n_repeats - 1))

    def prompts(self, model: HookedModel, seed: int) -> Prompts:
        """The prompts of one seed."""
        return repeated_tokens(model, **asdict(self), seed=seed)


@dataclass(frozen=True)
class TextSpec:
    """Pieces of a text file, drawn by the seed where there are more than are wanted.

    Attributes:
        file: UTF-8 text; looked for beside the TOML file.
        n_prompts: Pieces.
        length: Of the longest, in tokens.
    """

    file: str
    n_prompts: int = 16
    length: int | None = None
    kind: ClassVar[str] = "text"

    def __post_init__(self) -> None:
        """Refuse what makes no prompts."""
        if self.n_prompts < 1 or (self.length is not None and self.length < 2):
            raise ValueError(f"wanted are n_prompts ≥ 1, length ≥ 2, got {self.n_prompts}, {self.length}.")
        if not self.text.strip():
            raise ValueError(f"{self.file} holds no text.")

    @cached_property
    def text(self) -> str:
        """What the file held when the plan was read, which travels with the cells."""
        return read_text(Path(self.file))

    @cached_property
    def digest(self) -> str:
        """A fingerprint of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def n_tokens(self) -> int:
        """Of all prompts together, about."""
        return min(self.n_prompts * (self.length or 512), len(self.text) // 3 + 1)

    def prompts(self, model: HookedModel, seed: int) -> Prompts:
        """The pieces of one seed."""
        if model.tokenizer is None:
            raise ValueError(f"{model.name} has no tokenizer and cannot read text: give it prompts of repeats alone.")
        every = text_prompts(model, self.text, length=self.length)
        generator = torch.Generator().manual_seed(seed)
        some = torch.randperm(len(every), generator=generator)[: self.n_prompts].sort().values
        lengths = None if every.lengths is None else every.lengths[some]
        return Prompts(every.tokens[some], lengths=lengths, kind="text", seed=seed)


PromptsSpec = RepeatsSpec | TextSpec
PROMPTS: dict[str, type[PromptsSpec]] = {"repeats": RepeatsSpec, "text": TextSpec}


def prompts_identity(spec: PromptsSpec) -> dict[str, Any]:
    """All that determines the prompts but model and seed: of a text its contents, wherever it lies."""
    facts = {"kind": spec.kind, **asdict(spec)}
    if isinstance(spec, RepeatsSpec) and spec.period is None:
        facts["period"] = PERIOD  # the same prompts wherever a model has room, and no others of this identity elsewhere
    if isinstance(spec, TextSpec):
        facts["file"] = spec.digest
    return facts
