"""The models of a sweep: names, revisions and checkpoints of runs, down to one set of weights each.

Local weights are known by their contents, those of a hub by its id and revision.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch

from induction_lab.models import store
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model
from induction_lab.runtime.machine import find_device
from induction_lab.training.runs import RECIPE, TOKENIZER, Run, checkpoint_folder, is_run

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_LONGEST = 200  # characters of a folder's name


@dataclass(frozen=True)
class SweepModel:
    """A model of a sweep, with those of its snapshots that are wanted.

    Attributes:
        name: Whatever `load_model` takes, or the folder of a training run.
        label: How tables call it; by default its name, of a folder the last part.
        revisions: Of a Hugging Face model.
        steps: Of a run, all there are by default; of a Hugging Face model the revisions `step{n}`.
    """

    name: str
    label: str = ""
    revisions: tuple[str, ...] = ()
    steps: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse labels, revisions and steps that no model can have."""
        label = self.label or (Path(self.name).name if Path(self.name).exists() else self.name)
        object.__setattr__(self, "label", label)
        if not 0 < len(folder_name(label)) <= _LONGEST:
            raise ValueError(f"a model's label has 1 to {_LONGEST} characters, fewer beyond ASCII, got {label!r}.")
        for what, given in (("revisions", self.revisions), ("steps", self.steps)):
            if len(set(given)) < len(given):
                raise ValueError(f"`{what}` of {label} must differ, got {list(given)}.")
        if self.revisions and (self.steps or self.is_local):
            raise ValueError(f"`revisions` of {label} are for Hugging Face ids, and without `steps`.")
        if self.steps and self.is_local and not self.is_run:
            raise ValueError(f"`steps` of {label} are for training runs and Hugging Face ids.")
        if min(self.steps, default=0) < 0:
            raise ValueError(f"`steps` of {label} must not be negative, got {list(self.steps)}.")

    @property
    def is_run(self) -> bool:
        """Whether it is a folder that training made."""
        return is_run(self.name)

    @property
    def is_local(self) -> bool:
        """Whether its weights are on this disk, and not on a hub where they may change."""
        return self.is_run or isinstance(store.locate(self.name), Path)

    def snapshots(self) -> list[Snapshot]:
        """Its snapshots, each one set of weights, with fingerprints of weights on this disk."""
        if self.is_run:
            folder = Path(self.name).expanduser().absolute()
            steps = self.steps or tuple(Run(folder).steps)
            if not steps:
                raise ValueError(f"the run {folder} has no checkpoint yet.")
            return [Snapshot(self.label, str(folder), None, step, weights_of_run(folder, step)) for step in steps]
        found = store.locate(self.name)
        if isinstance(found, Path):
            source = self.name if self.name in store.NAMED else str(found.absolute())
            return [Snapshot(self.label, source, None, None, weights_of(found))]
        revisions = self.revisions or tuple(f"step{step}" for step in self.steps) or (None,)
        return [Snapshot(self.label, self.name, each, _step(each), "") for each in revisions]


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
        return self.step is not None and self.revision is None

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
    found = re.fullmatch(r"step(\d+)", revision or "")
    return int(found[1]) if found else None
