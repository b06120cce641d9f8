"""Tables on disk, with the facts that say where they come from; whole files or none.

`.parquet` and `.json` carry the facts inside, a `.csv` has them beside it as `.csv.json`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv", ".json")
_PARQUET_KEY = b"induction_lab"


def save_table(frame: pd.DataFrame, facts: dict[str, Any], path: Path) -> Path:
    """Write a table and its facts by suffix.

    Raises:
        ValueError: If the suffix is none of `SUFFIXES` or the file cannot be written.
    """
    check_suffix(path)
    if path.suffix == ".csv":
        with writing(path) as part:
            frame.to_csv(part, index=False)
        with writing(path.with_suffix(".csv.json")) as part:
            part.write_text(json.dumps(facts, indent=2) + "\n")
    elif path.suffix == ".json":
        rows = json.loads(str(frame.to_json(orient="records", double_precision=15)))
        with writing(path) as part:
            part.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(frame, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _PARQUET_KEY: json.dumps(facts).encode()}
        with writing(path) as part:
            pq.write_table(table.replace_schema_metadata(metadata), part)
    return path


def load_table(path: Path, columns: set[str], *, what: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `save_table` wrote, say `what` that is if it is not; a plain table with these columns will do as well.

    Raises:
        ValueError: If the file is not there, cannot be read, lacks a column or has no rows.
    """
    check_suffix(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        frame, facts = _read(path)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"{path} holds no readable {what}: {error}") from error
    missing = columns - set(frame.columns)
    if missing or frame.empty:
        reason = f"it lacks the columns {sorted(missing)}" if missing else "it has no rows"
        raise ValueError(f"{path} holds no readable {what}: {reason}")
    return frame, facts


def facts_of(path: Path) -> dict[str, Any]:
    """The facts kept with a table, whatever table that is; none where there are none, or they cannot be read."""
    try:
        return dict(_read(path)[1])
    except (ValueError, KeyError, OSError, TypeError):
        return {}


@contextmanager
def writing(path: Path, *, part_in: Path | None = None) -> Iterator[Path]:
    """A temporary path that becomes `path` when all went well, so that no half-written file is left.

    Args:
        path: The file to be.
        part_in: A folder on the same file system for the temporary file; beside `path` by default.

    Raises:
        ValueError: If the folder cannot be made or written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=part_in or path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from error
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_suffix(path: Path) -> None:
    """Refuse a path that no table can be written to.

    Raises:
        ValueError: If its suffix is none of `SUFFIXES`.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"Tables are kept as {', '.join(SUFFIXES)}, got {path.name!r}.")


def _read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    import pandas as pd

    if path.suffix == ".csv":
        beside = path.with_suffix(".csv.json")
        return pd.read_csv(path), json.loads(beside.read_text()) if beside.is_file() else {}
    if path.suffix == ".json":
        facts = json.loads(path.read_text())
        return pd.DataFrame(facts["rows"]), facts
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    return table.to_pandas(), json.loads((table.schema.metadata or {}).get(_PARQUET_KEY, b"{}"))
