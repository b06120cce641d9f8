"""`Trajectory`: what was measured at every checkpoint of a training run, or of several; one tidy table.

A row is one number at one step: of a head (`layer`, `head`), of an index (`index`: of a token, a copy or a text,
depending on the metric), or of the whole model. Where a number is not defined there is no row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.development.rows import COLUMNS, typed
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike, parse_head
from induction_lab.results.saved import Loadable
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.scores.registry import words
from induction_lab.scores.score import ScoreWords


@dataclass(frozen=True, repr=False)
class Trajectory(Loadable):
    """Measurements over training.

    Attributes:
        table: Columns `run`, `step`, `prompts` (which of the named prompts, `texts`, or `weights` alone), `metric`,
            `layer`, `head`, `index` (whole numbers, <NA> where not meant), `value` and its `standard_error` over
            prompts (0 for what weights alone say, NaN where there is none).
        provenance: Prompts, settings, versions, each step's weights, and what was left out and why; of several runs
            `{"runs": {name: …}}`.
    """

    table: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _COLUMNS = "trajectory", COLUMNS

    def __repr__(self) -> str:
        """Runs, steps and metrics."""
        steps = self.steps
        return (
            f"Trajectory({', '.join(self.runs)}: {len(steps)} steps {steps[0]} … {steps[-1]}, "
            f"{len(self.metrics)} metrics)"
            if steps
            else "Trajectory(nothing measured)"
        )

    def _repr_html_(self) -> str:
        """The best head at some of the steps, for notebooks."""
        if len(self.runs) != 1 or not self.steps:
            return html_card("Trajectory", repr(self), (), ())
        steps = self.steps
        some = sorted({steps[round(i * (len(steps) - 1) / 9)] for i in range(10)})
        of_heads = self.table.loc[self.table["layer"].notna(), "metric"].unique().tolist()[:5]
        best: dict[str, Any] = {name: self.best(name) for name in of_heads}
        rows = [(f"{step:,}", *(float(series.get(step, np.nan)) for series in best.values())) for step in some]
        facts = f"{len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,}; the best head's"
        return html_card(f"Training of {self.runs[0]}", facts, ("step", *of_heads), rows)

    @property
    def runs(self) -> list[str]:
        """Names of the runs, in order of the table."""
        return [str(name) for name in self.table["run"].unique()]

    @property
    def steps(self) -> list[int]:
        """Every step at which something was measured, in order."""
        return sorted(int(step) for step in self.table["step"].unique())

    @property
    def metrics(self) -> list[str]:
        """Names of what was measured."""
        return [str(name) for name in self.table["metric"].unique()]

    def about(self, metric: str) -> ScoreWords:
        """What a metric is in words: title, definition, range, source and unit."""
        facts = [self.provenance, *self.provenance.get("runs", {}).values()]
        said = [each["words"][metric] for each in facts if metric in each.get("words", {})]
        return ScoreWords(**said[0]) if said else words(metric)

    def run(self, name: str) -> Trajectory:
        """One run alone.

        Raises:
            ValueError: If there is none of that name.
        """
        if name not in self.runs:
            raise ValueError(f"There is no run {name!r} here; there are {', '.join(self.runs)}.")
        rows: Any = self.table.loc[self.table["run"] == name]
        return Trajectory(rows.reset_index(drop=True), self.provenance.get("runs", {}).get(name, self.provenance))

    def series(
        self,
        metric: str,
        *,
        prompts: str | None = None,
        head: HeadLike | None = None,
        index: int | None = None,
        column: str = "value",
    ) -> pd.Series:
        """One number by step.

        Args:
            metric: Its name.
            prompts: On which prompts; by default the first in the table that have the metric.
            head: Of which head, where the metric has one number a head.
            index: At which index, where it has one number an index.
            column: `value` or `standard_error`.

        Raises:
            ValueError: If there is no such number, or more than one: the message says what there is.
        """
        rows = self._rows(metric, prompts)
        for name, asked in (("layer", head), ("index", index)):
            if bool(rows[name].notna().any()) != (asked is not None):
                raise ValueError(_which(metric, name, rows))
        if head is not None:
            layer, number = parse_head(head, n_layers=self._size("layer"), n_heads=self._size("head"))
            rows = rows.loc[(rows["layer"] == layer) & (rows["head"] == number)]
        if index is not None:
            if not (rows["index"] == index).any():
                raise ValueError(_which(metric, "index", rows))
            rows = rows.loc[rows["index"] == index]
        return rows.set_index("step")[column].sort_index().rename(metric)

    def best(self, metric: str, *, prompts: str | None = None) -> pd.Series:
        """The greatest value over all heads, by step.

        Raises:
            ValueError: If there is no such metric of heads.
        """
        rows = self._of_heads(metric, prompts)
        return rows.groupby("step")["value"].max().rename(metric)

    def heads(self, metric: str, prompts: str | None = None) -> Float[Tensor, "step layer head"]:
        """All heads at every step of `steps`; NaN where nothing was measured.

        Raises:
            ValueError: If there is no such metric of heads.
        """
        rows, steps = self._of_heads(metric, prompts), self.steps
        values = np.full((len(steps), self._size("layer"), self._size("head")), np.nan)
        at = np.searchsorted(steps, rows["step"].to_numpy())
        values[at, rows["layer"].to_numpy(dtype=int), rows["head"].to_numpy(dtype=int)] = rows["value"].to_numpy()
        return torch.tensor(values, dtype=torch.float32)

    @classmethod
    def _from_table(cls, table: pd.DataFrame, facts: dict[str, Any]) -> Trajectory:
        return super()._from_table(typed(table), facts)

    @staticmethod
    def join(trajectories: Sequence[Trajectory]) -> Trajectory:
        """Several runs in one table.

        Raises:
            ValueError: If there is none, or two hold a run of the same name.
        """
        names = [name for trajectory in trajectories for name in trajectory.runs]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"Runs of different names are wanted, got {', '.join(names) or 'none'}.")
        facts = {name: each.run(name).provenance for each in trajectories for name in each.runs}
        table = pd.concat([trajectory.table for trajectory in trajectories], ignore_index=True)
        return Trajectory(table, {"runs": facts})

    def _rows(self, metric: str, prompts: str | None) -> Any:
        if len(self.runs) > 1:
            raise ValueError(f"Choose one of the runs {', '.join(self.runs)} first: trajectory.run(name).")
        rows: Any = self.table.loc[self.table["metric"] == metric]
        if rows.empty:
            raise ValueError(
                f"Nothing of the name {metric!r} was measured; there are {', '.join(self.metrics)}."
                f"{did_you_mean(metric, self.metrics)}"
            )
        on = rows["prompts"].unique().tolist()
        if prompts is not None and prompts not in on:
            raise ValueError(f"{metric} was not measured on {prompts!r}; it was on {', '.join(map(repr, on))}.")
        return rows.loc[rows["prompts"] == (on[0] if prompts is None else prompts)]

    def _of_heads(self, metric: str, prompts: str | None) -> Any:
        rows = self._rows(metric, prompts)
        if rows["layer"].isna().any():
            raise ValueError(_which(metric, "layer", rows))
        return rows

    def _size(self, column: str) -> int:
        """Layers, or heads a layer."""
        largest: Any = self.table[column].max()
        return int(largest) + 1


def _which(metric: str, name: str, rows: Any) -> str:
    """The message for `series` asked without a head or index that it needs, or with one that it has not."""
    if rows[name].isna().all():
        return f"{metric} has no number for each {'head' if name == 'layer' else 'index'}."
    if name == "index":
        return f"{metric} has a number for each index: index={int(rows['index'].min())} … {int(rows['index'].max())}."
    heads = sorted(set(zip(rows["layer"], rows["head"], strict=True)))
    there = f"{Head(*heads[0])} … {Head(*heads[-1])}"
    return f"{metric} has a number for each head: head={there}, or the greatest by trajectory.best({metric!r})."
