"""Rows of a trajectory: what is measured of one checkpoint, gathered into a table of the right columns and types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

COLUMNS = ("run", "step", "prompts", "metric", "layer", "head", "index", "value", "standard_error")
_WHOLE, _NAMES = ("layer", "head", "index"), ("run", "prompts", "metric")


class Rows:
    """Rows of one checkpoint, gathered and then made a table at once; numbers that are not finite become no row."""

    def __init__(self, run: str, step: int) -> None:
        """Begin without rows."""
        self.run, self.step = run, step
        self.left_out: dict[str, str] = {}
        self._parts: list[tuple[str, str, Any, Any, Any, Any, Any]] = []

    def add_heads(
        self,
        prompts: str,
        metric: str,
        values: Float[Tensor, "layer head"],
        errors: Float[Tensor, "layer head"] | float = float("nan"),
    ) -> None:
        """A number for each head."""
        layer, head = np.indices(values.shape)
        self._add(prompts, metric, layer, head, np.full(values.shape, -1), values, errors)

    def add_indexed(
        self,
        prompts: str,
        metric: str,
        index: Int[Tensor, " index"],
        values: Float[Tensor, " index"],
        errors: Float[Tensor, " index"] | float = float("nan"),
    ) -> None:
        """A number for each index."""
        none = np.full(values.shape, -1)
        self._add(prompts, metric, none, none, index.numpy(), values, errors)

    def add_one(self, prompts: str, metric: str, value: float, error: float = float("nan")) -> None:
        """A number for the whole model."""
        none = np.full(1, -1)
        self._add(prompts, metric, none, none, none, torch.tensor([value], dtype=torch.float32), error)

    def table(self) -> pd.DataFrame:
        """All that was added, as one table with the right types."""
        if not self._parts:
            return empty_table()
        counts = [len(part[-1]) for part in self._parts]
        columns: dict[str, Any] = {"run": self.run, "step": self.step}
        for name, parts in zip(COLUMNS[2:], zip(*self._parts, strict=True), strict=True):
            joined = np.repeat(parts, counts) if name in _NAMES else np.concatenate(parts)
            columns[name] = pd.arrays.IntegerArray(joined, joined < 0) if name in _WHOLE else joined
        return pd.DataFrame(columns)

    def _add(self, prompts: str, metric: str, layer: Any, head: Any, index: Any, values: Tensor, errors: Any) -> None:
        value = values.detach().double().cpu().numpy().ravel()
        spread = errors.detach().double().cpu().numpy() if isinstance(errors, Tensor) else np.full(value.shape, errors)
        keep = np.isfinite(value)
        if not keep.any():
            self.left_out[f"{metric} on {prompts}"] = "no finite number"
            return
        whole = (x.ravel()[keep].astype(np.int64) for x in (layer, head, index))
        self._parts.append((prompts, metric, *whole, value[keep], spread.ravel()[keep]))


def empty_table() -> pd.DataFrame:
    """A table without rows that has all columns and their types."""
    return typed(pd.DataFrame({name: [] for name in COLUMNS}))


def typed(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the types that its columns have: whole numbers that may be missing, text, floats."""
    types: Any = {name: "Int64" for name in _WHOLE} | {name: "str" for name in _NAMES}
    return table.astype(types | {"step": "int64", "value": "float64", "standard_error": "float64"})
