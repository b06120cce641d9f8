"""What a sweep measures of a model, each by name and as rows of one kind, so that all go into one table.

    head_scores   `score_heads`: one row a head and score
    losses        next-token loss in nats, by position and on each copy of a repeated block
    circuit       `find_circuit`: one row an edge and number
    kinds         `classify_heads`: one row a kind and head
    ablation      what mean ablation of the induction heads, the previous-token head, random heads does to a metric
    function      rows that a function of your own makes of model, prompts and seed

Every measurement is a frozen dataclass of its settings: two that compare equal measure the same. A kind that is added
to `MEASUREMENTS` is known to plans, to the sweep and to what a dry run estimates.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import math
import random
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from torch import Tensor

from induction_lab.behaviour.losses import copy_masks, losses_on
from induction_lab.behaviour.metrics import as_metric
from induction_lab.circuits.kinds import BY_NAME, classify_heads, find_kinds
from induction_lab.circuits.search import find_circuit
from induction_lab.data.prompts import Prompts
from induction_lab.interventions.ablation_methods import METHODS
from induction_lab.interventions.each_head import ablation_sweep
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import LOOKS, Head, parse_head
from induction_lab.results.statistics import number_and_error
from induction_lab.scores.registry import find_scores
from induction_lab.scores.scoring import score_heads

# What it takes to look for a kind of heads, in forward passes over the prompts, as timed on a small model; 2 of others.
_FORWARDS = {
    "retrieval": 22.0, "copy-suppression": 10.0, "context-matching": 5.0,
    "token-copying": 27.0, "concept-copying": 52.0, "function-vector": 41.0,
}  # fmt: skip
COLUMNS = ("metric", "label", "layer", "head", "index", "value", "standard_error", "uniform")


@runtime_checkable
class Measurement(Protocol):
    """What a sweep asks of a measurement, which is a frozen dataclass of its settings.

    Attributes:
        repeats_only: Whether it can be had on repeated tokens alone.
        forwards: What it costs, in forward passes of the model over the prompts, about.
    """

    repeats_only: ClassVar[bool]
    forwards: ClassVar[float]

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> Any:
        """A table of rows with at least `metric` and `value`; the others of `COLUMNS` where they mean something."""
        ...


@dataclass(frozen=True)
class HeadScoresSettings:
    """Every head's scores. A row: `metric` the score, `layer`, `head`, `label` (L1H3).

    Attributes:
        scores: Names from `SCORES`; by default all that model and prompts allow. A score of your own by the place of
            its class, `module:name`, the module importable wherever cells run; cells are measured anew when the
            module's file changes.
    """

    scores: tuple[str, ...] = ()
    repeats_only: ClassVar[bool] = False
    forwards: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        """Refuse scores that there are not."""
        if not all(isinstance(name, str) for name in self.scores):
            raise ValueError("In a sweep a score of your own is written module:name, so that every worker finds it.")
        find_scores(self.scores or None)

    @property
    def sources(self) -> dict[str, str]:
        """Fingerprints of the files that scores of a user's own stand in."""
        return {name: _source(name) for name in self.scores if ":" in name}

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> pd.DataFrame:
        """The rows of one model on some prompts."""
        scores = score_heads(model, prompts, scores=self.scores or None, loss=False)
        return scores.to_dataframe().rename(columns={"score": "metric"})


@dataclass(frozen=True)
class LossesSettings:
    """Loss in nats with its standard error over prompts; `uniform`: ln of the vocabulary's size.

    Rows: `loss` at the predicted token `index` (BOS is 0), `loss_by_copy` on copy `index` (1 is the first; its first
    token left out), `mean_loss`.
    """

    repeats_only: ClassVar[bool] = False
    forwards: ClassVar[float] = 1.0

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> pd.DataFrame:
        """The rows of one model on some prompts."""
        losses = losses_on(model, prompts).double()
        rows = [_loss_row("loss", index, at) for index, at in enumerate(losses.T, 1)]
        if prompts.period is not None and prompts.n_repeats is not None and prompts.period > 1:
            masks = copy_masks(prompts.period, prompts.n_repeats, gap=prompts.gap, has_bos=prompts.has_bos)
            rows += [_loss_row("loss_by_copy", copy, losses[:, mask].mean(1)) for copy, mask in enumerate(masks, 1)]
        rows.append(_loss_row("mean_loss", -1, losses.nanmean(1)))
        return pd.DataFrame(rows).assign(uniform=math.log(model.d_vocab))


@dataclass(frozen=True)
class CircuitSettings:
    """Likely edges from previous-token heads to the keys of induction heads.

    Rows: `label` (L0H3>L1H3), `layer` and `head` of the reader, `index` the edge's rank, `metric` one of
    `edge_strength`, `edge_K`, `edge_previous_token`, `edge_prefix_matching`.

    Attributes:
        edges: How many.
    """

    edges: int = 20
    repeats_only: ClassVar[bool] = True
    forwards: ClassVar[float] = 3.0

    def __post_init__(self) -> None:
        """Refuse none."""
        if self.edges < 1:
            raise ValueError(f"`edges` must be at least 1, got {self.edges}.")

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> pd.DataFrame:
        """The rows of one model on some prompts."""
        edges = find_circuit(model, prompts, n=self.edges).edges
        heads = [parse_head(name) for name in edges["induction"]]
        place = pd.DataFrame({"layer": [h.layer for h in heads], "head": [h.head for h in heads]})
        place["label"], place["index"] = edges["previous"] + ">" + edges["induction"], range(1, len(edges) + 1)
        names = ("strength", "K", "previous_token", "prefix_matching")
        return pd.concat([place.assign(metric=f"edge_{name}", value=edges[name]) for name in names])


@dataclass(frozen=True)
class KindsSettings:
    """Which heads are of which kinds.

    Rows: `metric` the kind as `kind_induction`, `layer`, `head`, `label`; `index` the head's place among those of the
    kind, 1 the highest, 0 where it is none; `uniform` the chance that the score states. A kind that could not be had is
    a row `kind_left_out`, with kind and reason as `label` and no value.

    Attributes:
        kinds: Names from `circuits.kinds.KINDS`; all by default.
        causal: Also those that are known by what changing a head does, at about a forward pass a head and prompt.
    """

    kinds: tuple[str, ...] = ()
    causal: bool = True
    repeats_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse kinds that there are not; one that is named twice is one."""
        find_kinds(self.kinds or None, causal=self.causal)
        object.__setattr__(self, "kinds", tuple(dict.fromkeys(self.kinds)))

    @property
    def fewest_prompts(self) -> int:
        """Below which there is no test."""
        return 2 if any(kind.is_on_given for kind in find_kinds(self.kinds or None, causal=self.causal)) else 1

    @property
    def forwards(self) -> float:
        """What it costs, in forward passes of a model over 16 prompts of repeats, about."""
        return sum(_FORWARDS.get(kind.name, 2.0) for kind in find_kinds(self.kinds or None, causal=self.causal))

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> pd.DataFrame:
        """The rows of one model on some prompts."""
        found = classify_heads(model, prompts, kinds=self.kinds or None, causal=self.causal)
        rows = found.table.rename(columns={"chance": "uniform"})
        place: Any = rows[rows["is_kind"]].groupby("kind")["value"].rank(ascending=False, method="first")
        rows["index"] = place.reindex(rows.index, fill_value=0).astype(int)
        rows["metric"] = [BY_NAME[kind].metric for kind in rows["kind"]]
        reasons = [_row("kind_left_out", f"{kind}: {why}", -1, math.nan) for kind, why in found.left_out.items()]
        return pd.concat([rows, pd.DataFrame(reasons)], ignore_index=True)


@dataclass(frozen=True)
class AblationSettings:
    """What is lost without groups of heads: `induction heads`, `previous-token head`, `random heads`.

    Rows: `label` the group, `index` how many heads; `metric` the metric's name with its value as it is without them
    (`nothing`: with all heads), and `…_effect` for the change, with its standard error over prompts. Induction heads
    are those above 0.4 in prefix matching on these prompts, or the best; random heads as many others, by the seed.

    Attributes:
        method: As in `ablate`.
        metric: As in `ablation_sweep`, by name.
        most: Induction heads at most, the best ones.
    """

    method: str = "mean"
    metric: str = "copy_loss"
    most: int = 8
    repeats_only: ClassVar[bool] = False
    forwards: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        """Refuse what there is not."""
        as_metric(self.metric)
        if self.method not in METHODS:
            raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.most < 1:
            raise ValueError(f"`most` must be at least 1, got {self.most}.")

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> pd.DataFrame:
        """The rows of one model on some prompts."""
        groups = _groups(model, prompts, self.most, seed)
        effects: Any = ablation_sweep(
            model, prompts, heads=groups, method=self.method, metric=self.metric, seed=seed
        ).table.to_dict("records")
        rows = [_row(self.metric, "nothing", 0, effects[0]["clean"])]
        for each in effects:
            size = each["n_heads"]
            rows.append(_row(self.metric, each["label"], size, each["changed"]))
            rows.append(_row(f"{self.metric}_effect", each["label"], size, each["effect"], each["standard_error"]))
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class FunctionSettings:
    """A function of your own: of model, prompts and seed; returns a table with at least `metric` and `value`.

    Where cells run on other machines its module must be importable there. Cells are measured anew when the module's
    file changes; what it imports is not looked at.

    Attributes:
        function: `module:name`.
    """

    function: str
    repeats_only: ClassVar[bool] = False
    forwards: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        """Refuse what is not there."""
        module, colon, name = self.function.partition(":")
        try:
            spec = importlib.util.find_spec(module) if module and colon and name.isidentifier() else None
        except (ImportError, ValueError):
            spec = None
        if spec is None or spec.origin is None:
            raise ValueError(f"`function` must be module:name, the module importable, got {self.function!r}.")

    @cached_property
    def source(self) -> str:
        """A fingerprint of the module's file."""
        return _source(self.function)

    def measure(self, model: HookedModel, prompts: Prompts, seed: int) -> Any:
        """The rows that the function returns."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)(model, prompts, seed)


MEASUREMENTS: dict[str, type[Any]] = {
    "head_scores": HeadScoresSettings,
    "losses": LossesSettings,
    "circuit": CircuitSettings,
    "kinds": KindsSettings,
    "ablation": AblationSettings,
    "function": FunctionSettings,
}


def kind_of(measurement: Measurement) -> str:
    """The name of a measurement's kind."""
    return next(name for name, kind in MEASUREMENTS.items() if isinstance(measurement, kind))


def identity(measurement: Measurement) -> dict[str, Any]:
    """All that determines what it measures."""
    own: dict[str, Any] = {"source": measurement.source} if isinstance(measurement, FunctionSettings) else {}
    if isinstance(measurement, HeadScoresSettings) and measurement.sources:
        own = {"sources": measurement.sources}
    settings: Any = measurement
    return {"kind": kind_of(measurement), **asdict(settings), **own}


def _source(place: str) -> str:
    """A fingerprint of the file of a module, which is given as `module:name`."""
    spec = importlib.util.find_spec(place.partition(":")[0])
    assert spec is not None and spec.origin is not None
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _loss_row(metric: str, index: int, per_prompt: Tensor) -> dict[str, Any]:
    return _row(metric, "", index, *number_and_error(per_prompt[~per_prompt.isnan()]))


def _row(metric: str, label: str, index: int, value: float, error: float = math.nan) -> dict[str, Any]:
    return {"metric": metric, "label": label, "index": index, "value": value, "standard_error": error}


def _groups(model: HookedModel, prompts: Prompts, most: int, seed: int) -> dict[str, list[Head]]:
    scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token"], loss=False)
    induction = (scores.above("prefix_matching", LOOKS) or [scores.top("prefix_matching", 1)[0][0]])[:most]
    every = [Head(*map(int, pair)) for pair in np.ndindex(model.n_layers, model.n_heads)]
    others = [head for head, _ in scores.top("previous_token", len(every)) if head not in induction]
    drawn = random.Random(seed).sample(sorted(others), min(len(induction), len(others)))
    found = {"induction heads": induction, "previous-token head": others[:1], "random heads": drawn}
    return {name: heads for name, heads in found.items() if heads}
