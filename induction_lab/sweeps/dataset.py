"""The dataset of a sweep on disk: one Parquet file a cell, whole or not there.

    PATH/model=NAME/KEY.parquet       rows of one cell; in the file's metadata, what determines them
    PATH/_failed/PLACE.json           what went wrong with a cell, until it succeeds
    PATH/.writing-*/                  of a sweep that is at work: files under other names until they are whole

Any reader of Parquet datasets with hive partitions reads it (it passes over names that begin with `_` or `.`). Several
sweeps may write at once: one cell has one name and one content, and renaming is atomic.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.tables import writing
from induction_lab.sweeps.measurements import COLUMNS
from induction_lab.sweeps.plan import Cell
from induction_lab.sweeps.snapshots import folder_name

FAILED = "_failed"
_FACTS = b"induction_lab_cell"
_TEXT = ("cell", "revision", "prompts", "measurement", "metric", "label")
_NUMBERS = ("value", "standard_error", "uniform")
SCHEMA = pa.schema(
    [
        ("cell", pa.string()),
        ("revision", pa.string()),
        ("step", pa.int64()),
        ("n_layers", pa.int32()),
        ("n_heads", pa.int32()),
        ("n_parameters", pa.int64()),
        ("prompts", pa.string()),
        ("seed", pa.int64()),
        ("measurement", pa.string()),
        ("metric", pa.string()),
        ("label", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("index", pa.int32()),
        *((name, pa.float64()) for name in _NUMBERS),
    ]
)


def cell_table(cell: Cell, model: HookedModel, rows: Any) -> pa.Table:
    """The rows of a measurement as they are kept: text "" and places -1 where there is none.

    Raises:
        ValueError: If `metric` or `value` is missing, or a column holds something else than it should.
    """
    if not isinstance(rows, pd.DataFrame) or not {"metric", "value"} <= set(rows.columns):
        raise ValueError(f"{cell.name} must return a table with at least `metric` and `value`.")
    own = rows.reindex(columns=list(COLUMNS)).reset_index(drop=True)
    own["label"] = own["label"].astype(object).fillna("")
    for name in ("layer", "head", "index"):
        own[name] = own[name].fillna(-1).astype("int32")
    facts = {
        "cell": cell.key,
        "revision": cell.place["revision"] or "",
        "step": cell.snapshot.step,
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "n_parameters": sum(parameter.numel() for parameter in model.network.parameters()),
        "prompts": cell.prompts_name,
        "seed": cell.seed,
        "measurement": cell.name,
    }
    columns = {name: own[name] if name in own else pa.repeat(pa.scalar(facts[name]), len(own)) for name in SCHEMA.names}
    arrays = [
        column.cast(field.type) if isinstance(column, pa.Array) else pa.Array.from_pandas(column, type=field.type)
        for field, column in zip(SCHEMA, columns.values(), strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


class CellFiles:
    """The files of one dataset; to be written only inside `writing_to`."""

    def __init__(self, path: str | Path) -> None:
        """Name the folder, which need not be there yet."""
        self.path = Path(path)
        self._part: Path | None = None

    @contextmanager
    def writing_to(self) -> Iterator[CellFiles]:
        """Make the folder, sweep up what killed sweeps were writing, and allow to write.

        Raises:
            ValueError: If it cannot be written.
        """
        with _plainly(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / ".lock"):  # nobody sweeps up between the folder and its lock
                self._sweep_up()
                self._part = Path(tempfile.mkdtemp(dir=self.path, prefix=".writing-"))
                lock = FileLock(self._part / "lock")  # dies with its process
                lock.acquire()
        try:
            yield self
        finally:
            lock.release()
            shutil.rmtree(self._part, ignore_errors=True)
            self._part = None

    def file(self, cell: Cell) -> Path:
        """Where a cell's rows are kept."""
        return self.path / f"model={folder_name(cell.snapshot.model)}" / f"{cell.key}.parquet"

    def failure_file(self, cell: Cell) -> Path:
        """Where a cell's error is kept."""
        return self.path / FAILED / f"{cell.place_key}.json"

    def finished(self, cells: Iterable[Cell]) -> tuple[list[Cell], list[Path]]:
        """Cells whose files are whole to the last page, and the files of the other cells that are damaged."""
        done, damaged = [], []
        there = [(cell, path) for cell in cells if (path := self.file(cell)).exists()]
        with ThreadPoolExecutor() as pool:
            for (cell, path), whole in zip(there, pool.map(_holds, there), strict=True):
                if whole:
                    done.append(cell)
                else:
                    damaged.append(path)
        return done, damaged

    def keep(self, cell: Cell, table: pa.Table, facts: dict[str, Any]) -> None:
        """Write a cell, and forget that it failed before.

        Raises:
            ValueError: If there is no room or no right to.
        """
        assert self._part is not None
        about = {"key": cell.key, "place": cell.place_key, **cell.facts, **facts}
        metadata = {_FACTS: json.dumps(about).encode()}
        with writing(self.file(cell), part_in=self._part) as part:
            pq.write_table(table.replace_schema_metadata(metadata), part, write_page_checksum=True)
        self.failure_file(cell).unlink(missing_ok=True)

    def keep_failure(self, cell: Cell, error: str) -> None:
        """Write what went wrong with a cell.

        Raises:
            ValueError: If there is no room or no right to.
        """
        about = {"cell": str(cell), "error": error, "key": cell.key, **cell.facts}
        with writing(self.failure_file(cell), part_in=self._part) as part:
            part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    def failures(self) -> dict[str, str]:
        """What went wrong, by cell."""
        kept = [json.loads(path.read_text(encoding="utf-8")) for path in (self.path / FAILED).glob("[!.]*.json")]
        return {each["cell"]: each["error"] for each in kept}

    def files(self) -> list[Path]:
        """Every file of rows."""
        return sorted(self.path.glob("model=*/[!.]*.parquet"))

    def _sweep_up(self) -> None:
        for folder in self.path.glob(".writing-*"):
            lock = FileLock(folder / "lock")
            try:
                lock.acquire(timeout=0)
            except TimeoutError:  # its sweep is at work
                continue
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def mark_as_asked_for(paths: Iterable[Path]) -> None:
    """Give files the time of now: of several measurements of one place in a sweep the newest counts (see `latest`)."""
    for path in paths:
        try:
            os.utime(path)
        except OSError:  # a dataset that may only be read
            return


def latest(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """For each place in a sweep the file last asked for; and the files that are damaged or of something else."""
    newest: dict[str, tuple[int, Path]] = {}
    damaged = []
    for path in paths:
        place = facts_of(path).get("place")
        if place is None:
            damaged.append(path)
            continue
        newest[place] = max(newest.get(place, (0, path)), (path.stat().st_mtime_ns, path))
    return [path for _, path in newest.values()], damaged


def facts_of(path: Path) -> dict[str, Any]:
    """What a cell's file says of itself; nothing if it is cut off, damaged or somebody else's."""
    try:
        schema = pq.read_schema(path)
        found = json.loads((schema.metadata or {}).get(_FACTS, b"{}"))
    except (OSError, ValueError, pa.ArrowException):
        return {}
    return found if isinstance(found, dict) and schema.equals(SCHEMA) else {}


def read_cell(path: Path) -> pa.Table:
    """A cell's rows with the model's name, which is its folder's.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read().replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    name = unquote(path.parent.name.removeprefix("model="))
    return table.add_column(0, "model", pa.repeat(pa.scalar(name), len(table)))


def _holds(there: tuple[Cell, Path]) -> bool:
    cell, path = there
    try:
        read_cell(path)
    except ValueError:
        return False
    return facts_of(path).get("key") == cell.key


@contextmanager
def _plainly(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from error
