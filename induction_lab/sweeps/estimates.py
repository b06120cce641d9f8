"""What cells will cost, about: from finished ones where there are any, else from parameters x tokens."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from induction_lab.models import store
from induction_lab.sweeps.plan import Cell
from induction_lab.sweeps.snapshots import Snapshot, weight_files
from induction_lab.training.runs import checkpoint_folder

RATE = 2e10  # floating-point operations a second that a core does, about
LOADED = 0.7e9  # bytes of a process with its libraries
DISK = 5e8  # bytes a second that weights are read at
_ROWS = 3 * 4  # bytes a number of the vocabulary's vectors: three float32 copies, of embedding, unembedding and product
_AS_STORED = 2  # bytes a parameter, where the model's own dtype is taken


class Need(NamedTuple):
    """What a worker must have for a snapshot's cells; memory in bytes, 0 where nothing is known."""

    parameters: int
    cpus: int
    memory: int


class Estimates:
    """Costs of cells, learnt from what finished ones say of themselves.

    Args:
        finished: Facts of finished cells.
    """

    def __init__(self, finished: Iterable[dict[str, Any]] = ()) -> None:
        """Sort them by model, measurement and prompts."""
        seconds: dict[tuple[str, str, str], list[float]] = {}
        self._parameters: dict[str, int] = {}
        self._largest: dict[str, int] = {}
        for facts in finished:
            if facts.get("seconds") is None:
                continue
            alike = (facts["model"], facts["name"], facts["prompts_name"])
            seconds.setdefault(alike, []).append(float(facts["seconds"]))
            if facts.get("n_parameters"):
                self._parameters[facts["model"]] = int(facts["n_parameters"])
        self._medians = {alike: statistics.median(each) for alike, each in seconds.items()}

    def parameters(self, snapshot: Snapshot) -> int:
        """How many parameters a snapshot has, about; 0 where nothing tells."""
        if snapshot.model not in self._parameters:
            self._parameters[snapshot.model] = _counted(snapshot) or _as_named(snapshot.source)
        return self._parameters[snapshot.model]

    def largest(self, snapshot: Snapshot) -> int:
        """How many numbers the largest matrix of a snapshot holds, which is its vocabulary's; 0 where nothing tells."""
        if snapshot.model not in self._largest:
            sizes = (size for path in _files(snapshot) for size in _sizes(path))
            self._largest[snapshot.model] = max(sizes, default=0)
        return self._largest[snapshot.model]

    def need(self, cell: Cell) -> Need:
        """What a worker must have to measure a cell."""
        parameters = self.parameters(cell.snapshot)
        each = _AS_STORED if cell.dtype == "auto" else getattr(torch, cell.dtype).itemsize
        memory = LOADED + 1.2 * parameters * each + _ROWS * self.largest(cell.snapshot) if parameters else 0
        return Need(parameters, min(8, 1 + parameters // 10**9), int(memory))

    def seconds(self, cell: Cell) -> float:
        """Seconds to measure a cell once its model is loaded, about; NaN where nothing tells."""
        alike = (cell.snapshot.model, cell.name, cell.prompts_name)
        if alike in self._medians:
            return self._medians[alike]
        parameters = self.parameters(cell.snapshot)
        operations = 2 * parameters * cell.prompts.n_tokens * cell.measurement.forwards
        return 0.02 + operations / RATE if parameters else math.nan

    def loading(self, cell: Cell) -> float:
        """Seconds to load a cell's model from the disk, about; NaN where nothing tells."""
        parameters = self.parameters(cell.snapshot)
        return 4 * parameters / DISK if parameters else math.nan


def _counted(snapshot: Snapshot) -> int:
    """Parameters of a snapshot, counted in weight files on this disk; 0 where there are none."""
    return sum(sum(_sizes(path)) or _by_bytes(path) for path in _files(snapshot))


def _files(snapshot: Snapshot) -> list[Path]:
    """Weight files of a snapshot on this disk."""
    if snapshot.is_run:
        return weight_files(checkpoint_folder(Path(snapshot.source), snapshot.step or 0))
    found = store.locate(snapshot.source)
    return weight_files(found) if isinstance(found, Path) else []


def _by_bytes(path: Path) -> int:
    """Parameters of a file that says nothing about itself without being read, about."""
    return 0 if path.suffix == ".safetensors" else path.stat().st_size // (1 if path.suffix == ".gguf" else 4)


def _sizes(path: Path) -> list[int]:
    """How many numbers each tensor in a file holds; none of files that do not tell without being read."""
    if path.suffix != ".safetensors":
        return []
    try:
        with safe_open(path, "pt") as file:
            return [math.prod(file.get_slice(name).get_shape()) for name in file.keys()]  # noqa: SIM118
    except (OSError, SafetensorError):  # whoever loads it says what is wrong
        return []


def _as_named(name: str) -> int:
    """Parameters by a name such as pythia-70m or Llama-3-8B; 0 where the name says nothing."""
    found = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([mb])(?![a-z])", name.lower())
    return int(float(found[-1][0]) * {"m": 1e6, "b": 1e9}[found[-1][1]]) if found else 0
