"""Snapshots of a training run: what `follow_training` needs, those that others publish or keep in folders."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from induction_lab.models import store
from induction_lab.models.checkpoint_names import (
    CONFIGS,
    CheckpointName,
    checkpoint_folders,
    incomplete_checkpoints,
    of_stage,
    published_checkpoints,
)
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model
from induction_lab.training.runs import RECIPE, Run, is_run


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


class _NamedCheckpoints:
    """Checkpoints whose names were listed and are read for their steps (`induction_lab.models.checkpoint_names`).

    Attributes:
        name: How tables call the run.
        there: Every checkpoint there is, by step.
        steps: Optimizer steps of the chosen ones, sorted.
    """

    def __init__(
        self, name: str, listed: list[CheckpointName], steps: Sequence[int] | None, n: int | None, stage: str | None
    ) -> None:
        """Choose among those of one stage."""
        self.name = name
        self.there = of_stage(listed, stage, name)
        self.steps = choose_steps(name, list(self.there), steps, n=n)

    def __repr__(self) -> str:
        """Name and the chosen steps."""
        return f"{type(self).__name__}({self.name!r}, steps {steps_in_words(self.steps)})"

    @property
    def tokens(self) -> dict[int, float | None]:
        """Tokens seen at the chosen steps, as the names say; None where they do not."""
        return {step: self.there[step].tokens for step in self.steps}

    def revision(self, step: int) -> str:
        """The name of the checkpoint at one of the chosen steps.

        Raises:
            ValueError: If it is not one of them.
        """
        choose_steps(self.name, self.steps, [step])
        return self.there[step].name


class Revisions(_NamedCheckpoints):
    """Training checkpoints of a Hugging Face model that are published as revisions: Pythia's, OLMo's, stanford-crfm's.

    Their names are listed by the hub, or without one in the local cache, and read for their steps: `step1000`,
    `checkpoint-1000`, `step1000-tokens4B`, `stage1-step1000-tokens5B`.

    >>> Revisions("EleutherAI/pythia-70m", [0, 512, 1000]).model(512)      # doctest: +SKIP
    >>> Revisions("allenai/OLMo-2-0425-1B", n=12).tokens                   # doctest: +SKIP

    Args:
        name: A Hugging Face id.
        steps: Which; all by default.
        n: So many of them instead, evenly through the list, the first and the last among them.
        stage: Where a model has several, such as `stage2-ingredient1`; pretraining by default.
        device: As for `load_model`.
        dtype: As for `load_model`.

    Raises:
        ValueError: If the name is that of a file or folder here or of no id, there are no such checkpoints, or neither
            the hub nor the local cache knows any; when a model is asked for, if it is not in the local cache and
            cannot be fetched.
    """

    def __init__(
        self,
        name: str,
        steps: Sequence[int] | None = None,
        *,
        n: int | None = None,
        stage: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """List the names."""
        if why := why_no_training(name):
            raise ValueError(why)
        super().__init__(name, published_checkpoints(name), steps, n, stage)
        self.device, self.dtype = device, dtype

    def model(self, step: int) -> HookedModel:
        """Fetch one of the chosen checkpoints, or take it from the cache."""
        return load_model(self.name, revision=self.revision(step), device=self.device, dtype=self.dtype)


class CheckpointFolder(_NamedCheckpoints):
    """A folder of checkpoint folders, as `transformers.Trainer` writes them: `checkpoint-500`, `checkpoint-1000`, ….

    Any name that `Revisions` reads will do. Tables call the run by the folder's name.

    >>> CheckpointFolder("out/my-gpt2").steps                              # doctest: +SKIP
    [500, 1000, 1500]

    Args:
        folder: The folder that holds them.
        steps: Which; all by default.
        n: So many of them instead, evenly through the list, the first and the last among them.
        stage: Where names have several; pretraining by default.
        device: As for `load_model`.
        dtype: As for `load_model`.

    Raises:
        ValueError: If it holds no such checkpoints.
    """

    def __init__(
        self,
        folder: str | Path,
        steps: Sequence[int] | None = None,
        *,
        n: int | None = None,
        stage: str | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> None:
        """Look into the folder."""
        self.folder = Path(folder).expanduser().absolute()
        found = checkpoint_folders(self.folder)
        if not found:
            raise ValueError(f"{folder} holds no checkpoint folders with weights (checkpoint-500, step1000, …).")
        super().__init__(self.folder.resolve().name, found, steps, n, stage)
        self.device, self.dtype = device, dtype

    def place(self, step: int) -> Path:
        """The folder of one of the chosen checkpoints."""
        return self.folder / self.revision(step)

    def model(self, step: int) -> HookedModel:
        """Load one of the chosen checkpoints."""
        model = load_model(self.place(step), device=self.device, dtype=self.dtype)
        model.name, model.revision = self.name, self.revision(step)
        return model


class SomeOfRun(Run):
    """A training run of which some checkpoints alone are looked at: these `steps`, or `n` evenly through all.

    Raises:
        ValueError: If there is no run, or it has checkpoints but not those.
    """

    def __init__(self, folder: str | Path, steps: Sequence[int] = (), *, n: int | None = None) -> None:
        """Choose among those that there are now."""
        super().__init__(folder)
        there = super().steps
        self._chosen = choose_steps(self.name, there, steps, n=n) if there else []

    @property
    def steps(self) -> list[int]:
        """The chosen steps."""
        return self._chosen


def find_checkpoints(
    name: str,
    steps: Sequence[int] = (),
    *,
    n: int | None = None,
    stage: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    prefer_model: bool = False,
) -> Checkpoints | None:
    """The training that a person means by a name; None where the name is a model's alone.

    Args:
        name: The folder of a training run, a folder of checkpoint folders, or a Hugging Face id.
        steps: Of the checkpoints in a folder, all by default; of a Hugging Face model, which has none without `steps`
            or `n`. A run has its own.
        n: As for `Revisions`.
        stage: As for `Revisions`.
        device: As for `load_model`; a run's models are on the CPU.
        dtype: As for `load_model`; a run's models are float32.
        prefer_model: A folder that holds both a model and checkpoints of it is the model, unless `steps` or `n` are
            given.

    Raises:
        ValueError: If there are no such checkpoints, or they cannot be listed.
    """
    kind = history_kind(name, asked=bool(steps) or n is not None, prefer_model=prefer_model)
    if kind is None or kind is Run:
        return None if kind is None else _run(name)
    return kind(name, steps, n=n, stage=stage, device=device, dtype=dtype)


def history_kind(name: str, *, asked: bool = False, prefer_model: bool = False) -> type[Any] | None:
    """What kind of training a name means: `Run`, `CheckpointFolder`, `Revisions`; None for a model alone.

    Args:
        name: A folder, a file, a named model or a Hugging Face id.
        asked: Whether checkpoints are asked for: a Hugging Face id is a model without.
        prefer_model: As for `find_checkpoints`.
    """
    folder = Path(name).expanduser()
    if _run(name) is not None:
        return Run
    if checkpoint_folders(folder):
        both = (folder / "config.json").is_file()
        return None if both and prefer_model and not asked else CheckpointFolder
    return Revisions if asked and name not in store.NAMED and not folder.exists() else None


def _run(name: str) -> Run | None:
    """The training run of a folder, or of the folder `checkpoints` inside it; None where there is none."""
    folder = Path(name).expanduser()
    inside = folder.name == "checkpoints" and is_run(folder.parent)
    return Run(folder.parent if inside else folder) if inside or is_run(folder) else None


def open_by_name(
    name: str,
    steps: Sequence[int] = (),
    *,
    n: int | None = None,
    stage: str | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> HookedModel | Checkpoints:
    """What a person means by a name: the training that `find_checkpoints` finds, or else the model that is loaded.

    Of a run too only those checkpoints are looked at that `steps` or `n` ask for.

    Raises:
        ValueError: If there is no such training, nor such a model.
    """
    where: Any = {"device": device, "dtype": dtype}
    found = find_checkpoints(name, steps, n=n, stage=stage, prefer_model=True, **where)
    if isinstance(found, Run) and (steps or n is not None):
        return SomeOfRun(found.folder, steps, n=n)
    folder = Path(name).expanduser()
    if found is None and folder.is_dir() and not any((folder / config).is_file() for config in CONFIGS):
        if not store.old_weights(folder) and name not in store.NAMED:
            raise ValueError(f"{why_no_training(name)} Nor is it a model: it has no {CONFIGS[0]} of its own.")
    return load_model(name, revision=revision, **where) if found is None else found


def why_no_training(name: str) -> str | None:
    """Why a name is no training that is here, and what it lacks; None where it may be an id of the Hugging Face hub."""
    place = Path(name).expanduser()
    if name in store.NAMED:
        return f"{name} is one model; no checkpoints of its training come with it."
    if not place.exists():
        return None if store.may_be_id(name) else f"There is no file or folder {name}."
    if not place.is_dir():
        return f"{name} is a file, and no folder of checkpoints."
    lacking = [f"{child.name} lacks {' and '.join(lacks)}" for child, lacks in incomplete_checkpoints(place)]
    more = f" In it {', '.join(lacking[:4])}{', …' if lacking[4:] else ''}." if lacking else ""
    return (
        f"The folder {name} is no training run: it has no {RECIPE}, nor folders of checkpoints (checkpoint-500, "
        f"step1000, …) with {CONFIGS[0]} and weights.{more}"
    )


def choose_steps(
    what: str, there: Sequence[int], steps: Sequence[int] | None = None, *, n: int | None = None
) -> list[int]:
    """Those of the steps that are there which are asked for, sorted; or `n` of them, evenly through the list; or all.

    Raises:
        ValueError: If one is not there, there are fewer than `n`, or both are given.
    """
    if n is not None:
        if steps or not 1 <= n <= len(there):
            given = "both steps and a number of them" if steps else f"n={n}"
            raise ValueError(
                f"{what} has {len(there)} checkpoints; ask for steps or for n of 1 to {len(there)}, got {given}."
            )
        last = len(there) - 1
        return [there[round(i * last / (n - 1)) if n > 1 else last] for i in range(n)]
    asked = list(steps or ())
    if min(asked, default=0) < 0 or len(set(asked)) < len(asked):
        raise ValueError(f"`steps` must be different and not negative, got {asked}.")
    for step in asked:
        if step not in there:
            at = bisect(there, step)
            near = ", ".join(map(str, there[max(0, at - 2) : at + 2]))
            raise ValueError(
                f"There is no step {step} among those of {what}: {steps_in_words(there)}. Near it: {near}."
            )
    return sorted(asked) or list(there)


def steps_in_words(steps: Sequence[int]) -> str:
    """Steps for a message: all where they are few, the first and last where they are many."""
    some = [str(step) for step in steps]
    return ", ".join(some if len(some) <= 8 else [*some[:4], "…", *some[-2:]])
