"""The plan of a sweep in one TOML file.

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
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from induction_lab.runtime.settings import built
from induction_lab.sweeps.measurements import MEASUREMENTS, FunctionSettings, Measurement
from induction_lab.sweeps.plan import SweepPlan
from induction_lab.sweeps.prompt_settings import PROMPTS, PromptsSpec, TextSpec
from induction_lab.sweeps.snapshots import SweepModel

SECTIONS = ("models", "prompts", "measurements", "seeds", "device", "dtype")


def load_sweep_plan(source: str | Path | Mapping[str, Any]) -> SweepPlan:
    """Read a plan.

    >>> plan = load_sweep_plan({"models": ["induction-2l"], "prompts": {"short": {"kind": "repeats", "period": 20}},
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
        models=tuple(_model(each, folder) for each in _list(table, "models")),
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


def _model(entry: Any, folder: Path) -> SweepModel:
    values = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise ValueError(f"each of `models` is a name, or a table with a `name`, got {entry!r}.")
    return built(SweepModel, {**values, "name": _beside(values["name"], folder)}, "models")


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
