"""One worker's part in a sweep: load a model once, measure its cells, and tell what went wrong instead of falling over.

Workers read no dataset and write none: what they measure goes back to who asked.
"""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import versions
from induction_lab.sweeps.dataset import cell_table
from induction_lab.sweeps.plan import Cell

_last: tuple[Any, HookedModel | _Unloadable] | None = None  # the model that this process measured last, or tried to


class Outcome(NamedTuple):
    """What became of a cell: its rows and how they came about, or an error."""

    cell: Cell
    table: pa.Table | None
    facts: dict[str, Any]
    error: str = ""


def measure_cells(cells: Sequence[Cell]) -> list[Outcome]:
    """Measure cells of one snapshot, one after another."""
    return list(measured(cells))


def measured(cells: Sequence[Cell]) -> Iterator[Outcome]:
    """Measure cells of one snapshot, one after another, and give each outcome as soon as it is there."""
    for cell in cells:
        try:
            yield _measured(cell)
        except (Exception, SystemExit) as error:  # whatever it is, the other cells go on
            if isinstance(error, MemoryError | torch.OutOfMemoryError):
                forget_model()
            yield Outcome(cell, None, {}, str(error) if isinstance(error, _Unloadable) else _reason(error))


def forget_model() -> None:
    """Let go of the model that was measured last."""
    global _last
    _last = None
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Unloadable(Exception):
    """The model cannot be had: not in this cell, nor in the next."""


def _measured(cell: Cell) -> Outcome:
    model, load_seconds = _model(cell)
    start = time.perf_counter()
    rows = cell.measurement.measure(model, cell.prompts.prompts(model, cell.seed), cell.seed)
    table = cell_table(cell, model, rows)
    facts = {
        "seconds": round(time.perf_counter() - start, 4),
        "load_seconds": round(load_seconds, 4),
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.node(),
        "device": str(model.device),
        "commit": model.anatomy.commit,
        "n_parameters": table["n_parameters"][0].as_py() if len(table) else None,
        "versions": versions(),
    }
    return Outcome(cell, table, facts)


def _model(cell: Cell) -> tuple[HookedModel, float]:
    global _last
    wanted = (cell.snapshot, cell.device, cell.dtype)
    if _last is not None and _last[0] == wanted:
        if isinstance(_last[1], _Unloadable):
            raise _last[1]
        return _last[1], 0.0
    forget_model()  # before the next one comes: there may be room for one only
    start = time.perf_counter()
    try:
        model = cell.snapshot.load(device=cell.device, dtype=cell.dtype)
    except Exception as error:
        _last = (wanted, _Unloadable(_reason(error)))
        raise _last[1] from error
    _last = (wanted, model)
    return model, time.perf_counter() - start


def _reason(error: BaseException) -> str:
    """Why a cell failed: the message of an error of ours (`ValueError`); of any other also its kind and line."""
    if isinstance(error, ValueError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
