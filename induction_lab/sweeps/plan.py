"""What a sweep measures: models x revisions x prompts x seeds x measurements, in one TOML file.

    seeds = [0, 1]                       # of random tokens and random choices; [0] by default
    device = "cpu"                       # as for load_model; dtype = "float32" too
    [[models]]
    name = "EleutherAI/pythia-70m"       # whatever load_model takes, or a folder that `induction-lab train` made
    revisions = ["step0", "step512"]     # of a Hugging Face model; steps = [0, 512] says the same
    [[models]]
    name = "runs/minute"                 # of a run: all its checkpoints, or those of steps = [0, 100, 800]
    label = "ours"                       # how tables call it
    [prompts.short]
    kind = "repeats"                     # or "text", with file, n_prompts, length
    period = 20
    [measurements.head_scores]           # see `measurements`; kind = "head_scores" where it goes by another name

Every cell is independent and goes by a hash of all that determines it, among that a fingerprint of local weights.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from induction_lab.models.provenance import DEFINITIONS_VERSION
from induction_lab.runtime.settings import built
from induction_lab.sweeps.measurements import MEASUREMENTS, FunctionSettings, Measurement, identity
from induction_lab.sweeps.prompt_settings import PROMPTS, PromptsSpec, RepeatsSpec, TextSpec, prompts_identity
from induction_lab.sweeps.snapshots import Snapshot, Source

SECTIONS = ("models", "prompts", "measurements", "seeds", "device", "dtype")
DTYPES = ("float32", "float64", "bfloat16", "float16", "auto")


@dataclass(frozen=True)
class Cell:
    """One measurement of one snapshot on prompts of one seed."""

    snapshot: Snapshot
    prompts_name: str
    prompts: PromptsSpec
    seed: int
    name: str
    measurement: Measurement
    device: str | None = None
    dtype: str = "float32"

    @cached_property
    def facts(self) -> dict[str, Any]:
        """All that determines the numbers."""
        return {
            **self.place,
            "definitions": DEFINITIONS_VERSION,
            "weights": self.snapshot.weights or f"hub:{self.snapshot.source}",
            "prompts": prompts_identity(self.prompts),
            "measurement": identity(self.measurement),
            "dtype": self.dtype,
        }

    @property
    def place(self) -> dict[str, Any]:
        """Where it stands in the sweep, whatever weights and settings are there now."""
        at = self.snapshot.revision or (None if self.snapshot.step is None else f"step{self.snapshot.step}")
        names = {"prompts_name": self.prompts_name, "name": self.name}
        return {"model": self.snapshot.model, "revision": at, **names, "seed": self.seed}

    @cached_property
    def key(self) -> str:
        """A hash of all that determines it, 32 letters."""
        return _hash(self.facts)

    @cached_property
    def place_key(self) -> str:
        """A hash of where it stands."""
        return _hash(self.place)

    def __str__(self) -> str:
        """In words."""
        return f"{self.snapshot}: {self.name} on {self.prompts_name}, seed {self.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """What is measured of what; see the first lines of `induction_lab.sweeps.plan`.

    Attributes:
        models: The models and their snapshots.
        prompts: By name.
        measurements: By name.
        seeds: Of random tokens and random choices.
        device: As for `load_model`.
        dtype: As for `load_model`.

    Raises:
        ValueError: If something is missing, given twice or not allowed.
    """

    models: tuple[Source, ...]
    prompts: Mapping[str, PromptsSpec]
    measurements: Mapping[str, Measurement]
    seeds: tuple[int, ...] = (0,)
    device: str | None = None
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse what makes no cells."""
        for what in ("models", "prompts", "measurements", "seeds"):
            if not getattr(self, what):
                raise ValueError(f"a sweep needs `{what}`, got none.")
        labels = [source.label for source in self.models]
        for what, given in (("labels of models", labels), ("seeds", self.seeds)):
            if len(set(given)) < len(given):
                raise ValueError(f"{what} must differ, got {list(given)}. A model's `label` can be chosen.")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ValueError(f"seeds are whole numbers, 0 or more, got {list(self.seeds)}.")
        if self.device not in (None, "auto"):
            try:
                torch.device(self.device)
            except RuntimeError as error:
                raise ValueError(f"`device` is a name such as cpu, cuda or auto, got {self.device!r}.") from error
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")

    @property
    def elsewhere(self) -> list[str]:
        """Names of models that are no files or folders here, nor come with a package: ids on the Hugging Face hub."""
        return [source.name for source in self.models if not source.is_local]

    @property
    def left_out(self) -> list[str]:
        """Measurements that cannot be had on some of the prompts."""
        pairs = [pair for pair in self._all_pairs() if not self._fits(*pair)]
        return [f"{name} on {prompts}: it wants repeated tokens" for name, prompts in pairs]

    def cells(self) -> list[Cell]:
        """All cells, snapshot by snapshot. Reads local weights for their fingerprints.

        Raises:
            ValueError: If a named model or a folder is not there.
        """
        snapshots = [snapshot for source in self.models for snapshot in source.snapshots()]
        pairs = [pair for pair in self._all_pairs() if self._fits(*pair)]
        return [
            Cell(snapshot, on, self.prompts[on], seed, name, self.measurements[name], self.device, self.dtype)
            for snapshot, (name, on), seed in itertools.product(snapshots, pairs, self.seeds)
        ]

    def _all_pairs(self) -> list[tuple[str, str]]:
        return list(itertools.product(self.measurements, self.prompts))

    def _fits(self, name: str, prompts: str) -> bool:
        return not self.measurements[name].repeats_only or isinstance(self.prompts[prompts], RepeatsSpec)


def load_sweep_plan(source: str | Path | Mapping[str, Any]) -> SweepPlan:
    """Read a plan.

    >>> plan = load_sweep_plan({"models": ["attn-only-2l"], "prompts": {"short": {"kind": "repeats", "period": 20}},
    ...                         "measurements": ["head_scores"], "seeds": [0, 1]})
    >>> len(plan.cells())
    2

    Args:
        source: A TOML file, or what it would hold. Relative files and folders are looked for beside it, then here.

    Raises:
        ValueError: If there is no such file, or it has an entry that is not known or not allowed.
    """
    if isinstance(source, Mapping):
        return _plan(dict(source), Path())
    path = Path(source)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is no readable sweep: {reason}.") from error
    try:
        return _plan(table, path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _plan(table: dict[str, Any], folder: Path) -> SweepPlan:
    unknown = sorted(set(table) - set(SECTIONS))
    if unknown:
        raise ValueError(f"unknown entries {unknown}; a sweep has {', '.join(SECTIONS)}.")
    seeds, device = table.get("seeds", [0]), table.get("device")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ValueError(f"`seeds` is a list of whole numbers, got {seeds!r}.")
    if device is not None and not isinstance(device, str):
        raise ValueError(f"`device` is a name such as cpu or cuda, got {device!r}.")
    return SweepPlan(
        models=tuple(_source(each, folder) for each in _list(table, "models")),
        prompts={name: _prompts(name, values, folder) for name, values in _tables(table, "prompts").items()},
        measurements={name: _measurement(name, values) for name, values in _tables(table, "measurements").items()},
        seeds=tuple(seeds),
        device=device,
        dtype=table.get("dtype", "float32"),
    )


def _list(table: dict[str, Any], what: str) -> list[Any]:
    found = table.get(what, [])
    if not isinstance(found, list):
        raise ValueError(f"`{what}` is a list, got {found!r}.")
    return found


def _tables(table: dict[str, Any], what: str) -> dict[str, dict[str, Any]]:
    """Sections by name; a list of names stands for sections without settings."""
    found = table.get(what, {})
    if isinstance(found, list) and all(isinstance(name, str) for name in found):
        found = {name: {} for name in found}
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError(f"`{what}` are sections, [{what}.NAME], got {found!r}.")
    return found


def _source(entry: Any, folder: Path) -> Source:
    values = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise ValueError(f"each of `models` is a name, or a table with a `name`, got {entry!r}.")
    return built(Source, {**values, "name": _beside(values["name"], folder)}, "models")


def _prompts(name: str, values: dict[str, Any], folder: Path) -> PromptsSpec:
    values = dict(values)
    kind = PROMPTS.get(str(values.pop("kind", "repeats")))
    if kind is None:
        raise ValueError(f"[prompts.{name}] `kind` must be one of {', '.join(PROMPTS)}.")
    if isinstance(values.get("file"), str):
        values["file"] = _beside(values["file"], folder)
    elif kind is TextSpec:
        raise ValueError(f"[prompts.{name}] needs a `file`.")
    return built(kind, values, f"prompts.{name}")


def _measurement(name: str, values: dict[str, Any]) -> Measurement:
    values = dict(values)
    kind = MEASUREMENTS.get(str(values.pop("kind", name)))
    if kind is None:
        raise ValueError(f"[measurements.{name}] needs `kind`, one of {', '.join(MEASUREMENTS)}.")
    if kind is FunctionSettings and "function" not in values:
        raise ValueError(f"[measurements.{name}] needs a `function`, module:name.")
    return built(kind, values, f"measurements.{name}")


def _beside(name: str, folder: Path) -> str:
    """A path beside the file if there is one of that name."""
    beside = folder / Path(name).expanduser()
    return str(beside) if beside.exists() else name


def _hash(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
