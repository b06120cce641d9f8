"""What a sweep adds to each cell's own work, in process and on Ray, and whether memory grows over many cells.

    python -m experiments sweep_overhead [--cells 10000]

The measurement does nothing, so all the time is overhead: prompts, rows, handing out, writing. Each round has a dataset
of its own; times a cell are without starting (workers, libraries), from the first finished cell to the last. Memory is
the driver's, after a tenth of the cells and at the end. Writes sweep.csv beside this file. About 5 minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from induction_lab import sweep
from induction_lab.sweeps.dataset import CellFiles

HERE = Path(__file__).parent
WAYS = {"in process": "local", "pool, 2 processes": "pool", "Ray, 2 CPUs": "ray"}


def nothing(model, prompts, seed) -> pd.DataFrame:
    """The measurement."""
    return pd.DataFrame({"metric": ["nothing"], "value": [float(seed)]})


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    rows = []
    for way, executor in WAYS.items():
        rows.append(row(way, executor, args.few, [one(executor, args.few) for _ in range(args.rounds)]))
    for way, executor in list(WAYS.items())[:: 2 if args.ray_many else 3]:
        rows.append(row(way, executor, args.cells, [one(executor, args.cells)]))
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def one(executor: str, cells: int) -> dict[str, float]:
    """One sweep: milliseconds a cell, and megabytes after a tenth and at the end."""
    plan = {
        "models": ["induction-2l"],
        "prompts": {"short": {"period": 2, "n_prompts": 1}},
        "measurements": {"nothing": {"kind": "function", "function": "sweep_overhead:nothing"}},
        "seeds": list(range(cells)),
        "device": "cpu",
    }
    process, marks, keep = psutil.Process(), [], CellFiles.keep

    def keeping(self, *what) -> None:
        keep(self, *what)
        n = len(marks) + 1
        megabytes = process.memory_info().rss / 1e6 if n in (cells // 10, cells) else 0.0
        marks.append((time.perf_counter(), megabytes))

    CellFiles.keep = keeping  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            done = sweep(plan, folder, executor=executor, workers=None if executor == "local" else 2)
            seconds = time.perf_counter() - start
            again = time.perf_counter()
            found = sweep(plan, folder).found
            again = time.perf_counter() - again
    finally:
        CellFiles.keep = keep  # type: ignore[method-assign]
    assert done.computed == found == cells and not done.failed
    per_cell = 1e3 * (marks[-1][0] - marks[0][0]) / (cells - 1)
    tenth, end = marks[cells // 10 - 1][1], marks[-1][1]
    return {"ms": per_cell, "start": seconds - per_cell * cells / 1e3, "again": again, "tenth": tenth, "end": end}


def row(way: str, executor: str, cells: int, rounds: list[dict[str, float]]) -> dict[str, object]:
    ms = sorted(each["ms"] for each in rounds)
    return {
        "way": way,
        "cells": cells,
        "rounds": len(rounds),
        "ms_a_cell": round(statistics.median(ms), 2),
        "lowest": round(ms[0], 2),
        "highest": round(ms[-1], 2),
        "seconds_to_start": round(statistics.median(each["start"] for each in rounds), 1),
        "seconds_to_find_all_done": round(statistics.median(each["again"] for each in rounds), 2),
        "mb_after_a_tenth": round(rounds[-1]["tenth"]),
        "mb_at_the_end": round(rounds[-1]["end"]),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000, help="of the long sweeps")
    parser.add_argument("--few", type=int, default=400, help="cells of the repeated ones")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray-many", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, default=HERE / "sweep.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
