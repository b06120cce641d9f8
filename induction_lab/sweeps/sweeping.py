"""`sweep`: every cell of a plan measured once and kept; `load_sweep`: all of them as one table.

The process that is started plans, hands out and writes; workers measure. What is finished is never measured again, what
fails is written down and does not stop the rest, and a sweep that was cut off anywhere goes on with what is missing.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from induction_lab.runtime.machine import cores
from induction_lab.runtime.progress import progress_bar
from induction_lab.sweeps.dataset import CellFiles, facts_of, latest, mark_as_asked_for, read_cell
from induction_lab.sweeps.estimates import Estimates
from induction_lab.sweeps.executors import Chunk, OnFlight, run_here, run_in_processes
from induction_lab.sweeps.plan import Cell, SweepPlan
from induction_lab.sweeps.plan_file import load_sweep_plan
from induction_lab.sweeps.ray_cluster import run_on_ray
from induction_lab.sweeps.worker import Outcome

EXECUTORS = ("local", "pool", "ray")
CHUNK = 32  # cells at most that one worker is given at a time


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep did.

    Attributes:
        path: The dataset.
        cells: Cells of the plan.
        found: Of those, finished before.
        computed: Measured now.
        failed: What went wrong, by cell.
        damaged: Files that were cut off, damaged or not a cell's, and measured anew.
        left_out: Measurements that cannot be had on some prompts.
        seconds: It took.
    """

    path: Path
    cells: int
    found: int
    computed: int
    failed: dict[str, str] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0


def sweep(
    plan: SweepPlan | str | Path | Mapping[str, Any],
    path: str | Path,
    *,
    executor: str = "local",
    workers: int | None = None,
    address: str | None = None,
    resume: bool = True,
    progress: bool = False,
) -> SweepSummary:
    """Measure all cells of a plan that are not in the dataset yet.

    >>> done = sweep("SWEEP.toml", "sweeps/mine", executor="pool", progress=True)        # doctest: +SKIP
    >>> load_sweep("sweeps/mine")                                                        # doctest: +SKIP

    Args:
        plan: A `SweepPlan`, a TOML file (see `sweeps.plan_file`), or what it would hold.
        path: The dataset's folder, new or gone on with; several sweeps may write there, at once too.
        executor: `local`: in this process; `pool`: in processes of one thread each; `ray`: on a Ray cluster. The
            numbers are the same, to the last bit where the number of threads is.
        workers: Processes; by default one a core. On Ray, see `run_on_ray`.
        address: Of a running Ray cluster.
        resume: Pass over finished cells; else all are measured anew.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If the plan is not right, a folder or a named model is not there, or the dataset cannot be written.
            What goes wrong with a cell is no error here: see `failed` of what is returned.
    """
    _check(executor, workers, address)
    plan = plan if isinstance(plan, SweepPlan) else load_sweep_plan(plan)
    start, cells, files = time.monotonic(), plan.cells(), CellFiles(path)
    failed: dict[str, str] = {}
    computed = 0
    with files.writing_to():
        done, damaged = files.finished(cells) if resume else ([], [])
        mark_as_asked_for(files.file(cell) for cell in done)
        finished = set(done)
        left = [cell for cell in cells if cell not in finished]
        with progress_bar(len(cells), "sweeping cells", shown=progress, done=len(done)) as tick:
            running = 0

            def note(n: int = 0) -> None:
                tick(n, f"{running} running, {len(failed)} failed")

            def on_flight(now: int) -> None:
                nonlocal running
                running = now
                note()

            with closing(_outcomes(left, files, executor, workers, address, on_flight)) as stream:
                for outcome in stream:
                    _keep(files, outcome, len(done) + computed)
                    computed += outcome.table is not None
                    if outcome.error:
                        failed[str(outcome.cell)] = outcome.error
                    note(1)
    seconds = time.monotonic() - start
    return SweepSummary(files.path, len(cells), len(done), computed, failed, damaged, plan.left_out, seconds)


def load_sweep(path: str | Path) -> pd.DataFrame:
    """All that was measured: one row a number.

    Columns: model, cell (its hash), revision ("" where there is none), step, n_layers, n_heads, n_parameters, prompts,
    seed, measurement, metric, label, layer, head, index (-1 where there is none), value, standard_error, uniform (what
    chance gives). Where a cell was measured in several ways under one name (other weights, other settings), the last
    that was asked for counts. Damaged files are left out, with a warning.

    Raises:
        ValueError: If there is nothing.
    """
    kept, damaged = latest(CellFiles(path).files())
    tables: list[pa.Table] = []
    with ThreadPoolExecutor(cores()) as pool:
        for file, table in zip(kept, pool.map(_readable, kept), strict=True):
            if table is None:
                damaged.append(file)
            else:
                tables.append(table)
    if damaged and not tables:
        n = "1 file, all of it" if len(damaged) == 1 else f"{len(damaged)} files, all of them"
        raise ValueError(f"{path} holds {n} damaged. Sweep again, and they are measured anew.")
    if not tables:
        raise ValueError(f"{path} holds no cells of a sweep. Make some: induction-lab sweep SWEEP.toml -o {path}")
    if damaged:
        names = ", ".join(str(file) for file in damaged[:3]) + (", …" if len(damaged) > 3 else "")
        n = "1 damaged file is" if len(damaged) == 1 else f"{len(damaged)} damaged files are"
        warnings.warn(f"{n} left out: {names}. Sweep again, and they are measured anew.", stacklevel=2)
    frame: Any = pa.concat_tables(tables).to_pandas(ignore_metadata=True)
    frame["step"] = frame["step"].astype("Int64")
    order = ["model", "step", "revision", "prompts", "seed", "measurement"]
    return frame.sort_values(order, kind="stable", ignore_index=True)


def dry_run(plan: SweepPlan, path: str | Path) -> pd.DataFrame:
    """What a sweep would do: one row a cell, snapshot by snapshot.

    Columns: model, snapshot (its revision or step, "" where there is none), prompts, seed, measurement, done, seconds
    (0 where it is done; else about, with its share of loading the model) and memory (bytes of a worker, about), both
    NaN where nothing tells.
    """
    files, cells = CellFiles(path), plan.cells()
    estimates = Estimates(facts_of(file) for file in files.files())
    done = set(files.finished(cells)[0])
    left = Counter(cell.snapshot for cell in cells if cell not in done)
    rows = []
    for cell in cells:
        at, n_left = cell.place["revision"] or "", left[cell.snapshot]
        seconds = 0.0 if cell in done else estimates.seconds(cell) + estimates.loading(cell) / n_left
        memory = float(estimates.need(cell).memory or math.nan)
        place = (cell.snapshot.model, at, cell.prompts_name, cell.seed, cell.name)
        rows.append((*place, cell in done, seconds, memory))
    columns = ["model", "snapshot", "prompts", "seed", "measurement", "done", "seconds", "memory"]
    return pd.DataFrame(rows, columns=columns)


def _check(executor: str, workers: int | None, address: str | None) -> None:
    if executor not in EXECUTORS:
        raise ValueError(f"`executor` must be one of {', '.join(EXECUTORS)}, got {executor!r}.")
    if workers is not None and (workers < 1 or executor == "local"):
        raise ValueError(f"`workers` must be at least 1, and goes with pool and ray, got {workers} with {executor}.")
    if address is not None and executor != "ray":
        raise ValueError(f"`address` is of a Ray cluster: it goes with the executor ray, got {executor}.")


def _outcomes(
    cells: Sequence[Cell],
    files: CellFiles,
    executor: str,
    workers: int | None,
    address: str | None,
    on_flight: OnFlight,
) -> Generator[Outcome, None, None]:
    if executor == "local":
        yield from run_here(chunks_of(cells, 1), on_flight=on_flight)
    elif cells:
        estimates = Estimates(facts_of(file) for file in files.files()[:1000])
        n_workers = min(workers or cores(), len(cells))
        chunks = chunks_of(cells, n_workers, estimates)
        if executor == "pool":
            yield from run_in_processes(chunks, workers=n_workers, on_flight=on_flight)
        else:
            need = estimates.need
            yield from run_on_ray(chunks, address=address, workers=workers, need=need, on_flight=on_flight)


def chunks_of(cells: Sequence[Cell], workers: int, estimates: Estimates | None = None) -> list[Chunk]:
    """Cells of one snapshot together, in evenly sized chunks, at least four for each worker where there are so many.

    What a worker has not handed in is lost when it is stopped: so no more in a chunk than it measures in half a minute,
    or in ten times what loading the model takes, by the estimates.
    """
    most = max(1, min(CHUNK, math.ceil(len(cells) / (4 * workers))))
    chunks: list[Chunk] = []
    for _, some in itertools.groupby(cells, key=lambda cell: cell.snapshot):
        together = list(some)
        size = most
        if estimates is not None:
            seconds = sum(map(estimates.seconds, together)) / len(together)
            worth = max(30.0, 10 * estimates.loading(together[0])) / max(seconds, 1e-3)
            size = most if math.isnan(worth) else max(1, min(most, int(worth)))
        n_chunks = math.ceil(len(together) / size)
        cuts = [round(i * len(together) / n_chunks) for i in range(n_chunks + 1)]
        chunks += [together[first:last] for first, last in itertools.pairwise(cuts)]
    return chunks


def _keep(files: CellFiles, outcome: Outcome, n_finished: int) -> None:
    try:
        if outcome.table is None:
            files.keep_failure(outcome.cell, outcome.error)
        else:
            files.keep(outcome.cell, outcome.table, outcome.facts)
    except ValueError as error:
        raise ValueError(
            f"{error} The {n_finished} cells finished so far are whole and readable: make room or mend the folder's "
            "rights, then give the same command again, and the sweep goes on."
        ) from error


def _readable(path: Path) -> pa.Table | None:
    try:
        return read_cell(path)
    except ValueError:
        return None
