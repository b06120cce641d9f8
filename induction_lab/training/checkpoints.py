"""Snapshots of a training run: what `follow_training` needs of them, and those that Hugging Face models publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model

# Biderman et al. (2023), https://arxiv.org/abs/2304.01373: the same for all models of the suite.
PYTHIA_STEPS = (0, *(2**n for n in range(10)), *range(1000, 143_001, 1000))


@runtime_checkable
class Checkpoints(Protocol):
    """A run's name, the steps at which it was saved, and the model of each."""

    @property
    def name(self) -> str:
        """How tables call the run."""
        ...

    @property
    def steps(self) -> Sequence[int]:
        """Optimizer steps of the snapshots."""
        ...

    def model(self, step: int) -> HookedModel:
        """The model as it was after that step."""
        ...


@dataclass(frozen=True)
class Revisions:
    """Training checkpoints of a Hugging Face model that are published as the revisions `step{n}`.

    >>> Revisions("EleutherAI/pythia-70m", [0, 512, 1000]).model(512)      # doctest: +SKIP

    Attributes:
        name: A Hugging Face id.
        steps: Which; by default the 154 of the Pythia models.
        device: As for `load_model`.
        dtype: As for `load_model`.

    Raises:
        ValueError: If a step is negative or occurs twice; when a model is asked for, if it is not in the local cache
            and cannot be fetched.
    """

    name: str
    steps: Sequence[int] = PYTHIA_STEPS
    device: str | torch.device | None = None
    dtype: str | torch.dtype | None = None

    def __post_init__(self) -> None:
        """Refuse steps that are none."""
        if not self.steps or min(self.steps) < 0 or len(set(self.steps)) < len(self.steps):
            raise ValueError(f"`steps` must be different and not negative, got {list(self.steps)}.")

    def model(self, step: int) -> HookedModel:
        """Fetch one, or take it from the cache."""
        if step not in self.steps:
            raise ValueError(f"There is no step {step} among those of {self.name}: {steps_in_words(self.steps)}.")
        return load_model(self.name, revision=f"step{step}", device=self.device, dtype=self.dtype)


def steps_in_words(steps: Sequence[int]) -> str:
    """All of a few, the ends of many."""
    some = [str(step) for step in steps]
    return ", ".join(some if len(some) <= 8 else [*some[:4], "…", *some[-2:]])
