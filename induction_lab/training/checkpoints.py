"""Snapshots of a training run: what `follow_training` needs of them, and those that Hugging Face models publish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model
from induction_lab.training.runs import Run, is_run

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


def find_checkpoints(
    name: str, steps: Sequence[int] = (), *, device: str | None = None, dtype: str | None = None
) -> Checkpoints | None:
    """The training that a person means by a name; None where the name is a model's alone.

    Args:
        name: The folder of a training run, or a Hugging Face id.
        steps: Of a Hugging Face model, the revisions `step{n}`; a run has its own.
        device: As for `load_model`; a run's models are on the CPU.
        dtype: As for `load_model`; a run's models are float32.
    """
    if is_run(name):
        return Run(name)
    return Revisions(name, steps, device=device, dtype=dtype) if steps and not Path(name).exists() else None


def open_by_name(
    name: str,
    steps: Sequence[int] = (),
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> HookedModel | Checkpoints:
    """What a person means by a name: the training that `find_checkpoints` finds, or else the model that is loaded.

    Raises:
        ValueError: If there is no such model.
    """
    found = find_checkpoints(name, steps, device=device, dtype=dtype)
    return load_model(name, revision=revision, device=device, dtype=dtype) if found is None else found


def steps_in_words(steps: Sequence[int]) -> str:
    """Steps for a message: all where they are few, the first and last where they are many."""
    some = [str(step) for step in steps]
    return ", ".join(some if len(some) <= 8 else [*some[:4], "…", *some[-2:]])
