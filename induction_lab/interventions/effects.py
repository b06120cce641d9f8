"""`Effects`: what interventions did to a metric, one row each, with standard errors; tidy tables, save and load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadList, parse_head
from induction_lab.results.saved import Loadable
from induction_lab.results.statistics import number_and_error

COLUMNS = (
    "model", "label", "layer", "head", "n_heads", "intervention", "metric", "clean", "changed", "effect",
    "standard_error", "n_prompts",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Effects(Loadable):
    """The effects of one kind of intervention.

    Attributes:
        table: One row for each head, group of heads or sender, in the order asked: `label`; `layer` and `head` (-1
            where there is no one head); `n_heads`; `intervention`; `metric`; `clean` and `changed`, the metric's mean
            over prompts before and after; `effect`, changed minus clean; `standard_error` of the mean effect over
            prompts, each compared with itself; `n_prompts` that were run.
        provenance: Model, prompts, reference, versions.
    """

    table: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _COLUMNS = "table of effects", COLUMNS

    def __repr__(self) -> str:
        """The greatest effect."""
        first, best = self.table.iloc[0], self.top(1)[0]
        what = f"{first['intervention']}, {first['metric']}"
        return f"Effects({first['model']!r}, {len(self.table)} rows of {what}: {best[0]} {best[1]:+.2f})"

    def _repr_html_(self) -> str:
        """The greatest effects, for notebooks."""
        columns = ["label", "clean", "changed", "effect", "standard_error"]
        rows = self.table.sort_values("effect", ascending=False)[columns].head(10).itertuples(index=False)
        first = self.table.iloc[0]
        facts = f"{first['intervention']}, {first['metric']}, {first['n_prompts']} prompts; {len(self.table)} rows"
        return html_card(f"Effects in {first['model']}", facts, columns, rows)

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """The labels with the greatest effect, each with its effect."""
        best = self.table.sort_values("effect", ascending=False).head(n)
        return HeadList(zip(best["label"].tolist(), best["effect"].tolist(), strict=True))

    def of(self, label: str) -> dict[str, Any]:
        """One row.

        Raises:
            ValueError: If there is none of that label.
        """
        rows: Any = self.table.loc[self.table["label"] == label].to_dict("records")
        if not rows:
            raise ValueError(f"There is no row {label!r}; there are {', '.join(self.table['label'].head(12))}, ….")
        return {str(key): value for key, value in rows[0].items()}

    def matrix(self, n_layers: int, n_heads: int, column: str = "effect") -> Float[Tensor, "layer head"]:
        """Single heads' effects (or another column); NaN where there is none.

        Raises:
            ValueError: If a head lies outside this shape.
        """
        matrix = torch.full((n_layers, n_heads), math.nan, dtype=torch.float32)
        singles: Any = self.table.loc[self.table["n_heads"] == 1].to_dict("records")
        for row in singles:
            parse_head((int(row["layer"]), int(row["head"])), n_layers=n_layers, n_heads=n_heads)
            matrix[int(row["layer"]), int(row["head"])] = float(row[column])
        return matrix

    def correlation(self, other: Effects, *, kind: str = "pearson") -> float:
        """How well two agree on the labels that both have; `kind` is `pearson` or `spearman` (ranks)."""
        both: Any = self.table[["label", "effect"]].merge(other.table[["label", "effect"]], on="label")
        return float(both["effect_x"].corr(both["effect_y"], method=kind))


def effect_row(
    model: str,
    label: str,
    heads: tuple[Head, ...],
    intervention: str,
    metric: str,
    before: Float[Tensor, " prompt"],
    after: Float[Tensor, " prompt"],
) -> dict[str, Any]:
    """One row of the table from each prompt's metric; prompts whose value is NaN before are left out."""
    defined = ~before.isnan()
    before, after = before[defined].double(), after[defined].double()
    numbers = (float(before.mean()), float(after.mean()), *number_and_error(after - before), len(before))
    return _row(model, label, heads, intervention, metric, *numbers)


def estimated_row(
    model: str,
    label: str,
    heads: tuple[Head, ...],
    intervention: str,
    metric: str,
    before: Float[Tensor, " prompt"],
    effect: float,
    error: float,
    n_prompts: int,
) -> dict[str, Any]:
    """One row from the metric of all prompts before, and an effect whose intervention was run on some of them."""
    clean = float(before.double().mean())
    return _row(model, label, heads, intervention, metric, clean, clean + effect, effect, error, n_prompts)


def _row(model: str, label: str, heads: tuple[Head, ...], *facts: Any) -> dict[str, Any]:
    place = heads[0] if len(heads) == 1 else (-1, -1)
    intervention, metric, *numbers = facts
    return dict(zip(COLUMNS, (model, label, *place, len(heads), intervention, metric, *numbers), strict=True))


def effects_table(rows: Mapping[str, dict[str, Any]], order: list[str]) -> pd.DataFrame:
    """The rows that are there, in order."""
    return pd.DataFrame([rows[label] for label in order if label in rows], columns=list(COLUMNS))
