"""The models of a sweep: names, revisions and checkpoints of runs, down to one set of weights each.

Local weights are known by their contents, those of a hub by its id and revision.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from induction_lab.models import store
from induction_lab.models.checkpoint_names import parse_checkpoint
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model
from induction_lab.models.named_models import NAMED
from induction_lab.runtime.machine import find_device
from induction_lab.training.checkpoints import CheckpointFolder, Revisions, choose_steps, find_checkpoints, history_kind
from induction_lab.training.runs import RECIPE, TOKENIZER, Run, checkpoint_folder, is_run

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
_LONGEST = 200  # characters of a folder's name


@dataclass(frozen=True)
class SweepModel:
    """A model of a sweep, with those of its snapshots that are wanted.

    Attributes:
        name: Whatever `load_model` takes, the folder of a training run, or a folder of checkpoint folders.
        label: How tables call it; by default its name, of a folder the last part.
        revisions: Of a Hugging Face model.
        steps: Of a run or a folder of checkpoints, all there are by default; of a Hugging Face model its revisions of
            these steps, as their names are listed.
        n: So many checkpoints instead, evenly through all there are.
    """

    name: str
    label: str = ""
    revisions: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()
    n: int | None = None

    def __post_init__(self) -> None:
        """Refuse labels, revisions and steps that no model can have."""
        label = self.label or (Path(self.name).name if Path(self.name).exists() else self.name)
        object.__setattr__(self, "label", label)
        if not 0 < len(folder_name(label)) <= _LONGEST:
            raise ValueError(f"a model's label has 1 to {_LONGEST} characters, fewer beyond ASCII, got {label!r}.")
        for what, given in (("revisions", self.revisions), ("steps", self.steps)):
            if len(set(given)) < len(given):
                raise ValueError(f"`{what}` of {label} must differ, got {list(given)}.")
        if min(self.steps, default=0) < 0:
            raise ValueError(f"`steps` of {label} must not be negative, got {list(self.steps)}.")
        if self.revisions and (self.steps or self.n is not None or self.is_local):
            raise ValueError(f"`revisions` of {label} are for Hugging Face ids, and without `steps`.")
        if (self.steps or self.n is not None) and self.is_local and self.history is None:
            raise ValueError(f"`steps` of {label} are for training runs and Hugging Face ids.")

    @property
    def history(self) -> type[Any] | None:
        """The kind of training that its name means; None where it is one model."""
        return history_kind(self.name, asked=bool(self.steps) or self.n is not None, prefer_model=True)

    @property
    def is_local(self) -> bool:
        """Whether its weights are on this disk, and not on a hub where they may change."""
        history = self.history
        return history is not Revisions and (history is not None or isinstance(store.locate(self.name), Path))

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, each one set of weights, with fingerprints of weights on this disk."""
        history = find_checkpoints(self.name, self.steps, n=self.n, prefer_model=True)
        if isinstance(history, Run):
            folder = history.folder.absolute()
            steps = self.steps or choose_steps(self.name, history.steps, n=self.n)
            if not steps:
                raise ValueError(f"the run {folder} has no checkpoint yet.")
            return [Snapshot(self.label, str(folder), None, step, weights_of_run(folder, step)) for step in steps]
        if isinstance(history, CheckpointFolder):
            places = {step: history.place(step) for step in history.steps}
            return [Snapshot(self.label, str(at), None, step, weights_of(at)) for step, at in places.items()]
        if isinstance(history, Revisions):
            return [Snapshot(self.label, self.name, history.revision(step), step, "") for step in history.steps]
        found = store.locate(self.name)
        if isinstance(found, Path):
            source = self.name if self.name in NAMED else str(found.absolute())
            return [Snapshot(self.label, source, None, None, weights_of(found))]
        return [Snapshot(self.label, self.name, each, _step(each), "") for each in self.revisions or (None,)]


@dataclass(frozen=True)
class Snapshot:
    """One set of weights: what a worker loads once and measures all cells of."""

    model: str
    source: str
    revision: str | None
    step: int | None
    weights: str

    @property
    def is_run(self) -> bool:
        """Whether it is a checkpoint of a training run."""
        return is_run(self.source)

    def load(self, *, device: str | None, dtype: str) -> HookedModel:
        """The model.

        Raises:
            ValueError: If it is not there, cannot be fetched or is damaged.
        """
        if not self.is_run:
            return load_model(self.source, device=device, dtype=dtype, revision=self.revision)
        model = Run(self.source).model(self.step)
        if dtype != "auto":
            model.network.to(getattr(torch, dtype))
        model.network.to(find_device(None if device == "auto" else device))
        return model

    def __str__(self) -> str:
        """Model and revision or step."""
        at = self.revision or (f"step{self.step}" if self.step is not None else "")
        return f"{self.model} {at}".strip()


def folder_name(label: str) -> str:
    """A label as a folder may be called, from which `unquote` makes the label again."""
    return quote(label, safe=" ")


def weights_of(path: Path) -> str:
    """A fingerprint of a model's folder or file: SHA-256 of its weights' contents, configuration and tokenizer.

    Of contents and not of dates, so that a copy is the same model; about a second a gigabyte.
    """
    return _fingerprint([path] if path.is_file() else _model_files(path))


def weights_of_run(folder: Path, step: int) -> str:
    """A fingerprint of a run's checkpoint: its weights, the recipe (heads may be clamped) and the tokenizer."""
    files = _model_files(checkpoint_folder(folder, step))
    return _fingerprint([*files, folder / RECIPE, *_model_files(folder / TOKENIZER)])


def weight_files(path: Path) -> list[Path]:
    """The files that hold a model's weights."""
    return [path] if path.is_file() else [file for file in _model_files(path) if file.suffix in _WEIGHTS]


def _model_files(folder: Path) -> list[Path]:
    wanted = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model")
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.suffix in _WEIGHTS or path.name in wanted)


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            digest.update(f"{path.name}: {error.strerror}\n".encode())  # whoever loads it says what is wrong
    return digest.hexdigest()


def _step(revision: str | None) -> int | None:
    found = parse_checkpoint(revision or "")
    return None if found is None else found.step
