"""What a sweep measures: models x revisions x prompts x seeds x measurements, and each cell of that.

Every cell is independent and goes by a hash of all that determines it, among that a fingerprint of local weights.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from induction_lab.models.provenance import DEFINITIONS_VERSION
from induction_lab.runtime.dtypes import EVERY_DTYPE
from induction_lab.sweeps.measurements import Measurement, identity
from induction_lab.sweeps.prompt_settings import PromptsSpec, RepeatsSpec, prompts_identity
from induction_lab.sweeps.snapshots import Snapshot, SweepModel


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
    """What is measured of which models, on which prompts; see `load_sweep_plan`.

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

    models: tuple[SweepModel, ...]
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
        for name, on in self._all_pairs():
            fewest, n = getattr(self.measurements[name], "fewest_prompts", 1), self.prompts[on].n_prompts
            if n < fewest:
                raise ValueError(
                    f"{name} on {on}: it is tested over prompts, so `n_prompts` must be at least {fewest}, got {n}."
                )
        if self.dtype not in EVERY_DTYPE:
            raise ValueError(f"`dtype` must be one of {', '.join(EVERY_DTYPE)}, got {self.dtype!r}.")

    @property
    def elsewhere(self) -> list[str]:
        """Ids on the Hugging Face hub, of models that are no files or folders here and come with no package."""
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


def _hash(facts: dict[str, Any]) -> str:
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
