"""Did anything get slower, or larger, from one checkout of this library to another?

    git worktree add ../before COMMIT
    python -m experiments before_after --before ../before                 # all jobs, about 30 minutes of one core
    python -m experiments before_after --before ../before --job score circuit

Two processes of one thread hold the same models, one for each checkout, and do each job in turn, one after the other,
so that noise of the machine hits both alike. Time is CPU time; `ratio` is the median over rounds of the time after by
that before, with the lowest and the highest. Memory is how far the process grows during a job, in two more processes
whose allocator gives back at once what is freed, so that what was done before leaves no room. Adds its rows to
before_after.csv, or replaces them.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.benchmarks.two_checkouts import GIVES_BACK, JOBS, Worker, checkout
from experiments.harness import put_row, show_files, show_line

HERE = Path(__file__).parent
LONG = ("heads", "explain")  # of a real model: their profiles say enough


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    before = checkout(args.before)
    after = HERE.parents[1]
    with (
        Worker(before) as one,
        Worker(after) as other,
        Worker(before, GIVES_BACK) as one_gives_back,
        Worker(after, GIVES_BACK) as other_gives_back,
    ):
        for job in args.job:
            row = {"job": job} | compared(one, other, job, args.rounds) | grown(one_gives_back, other_gives_back, job)
            put_row(args.out, row, by={"job": list(JOBS)})
            show_line(pd.DataFrame([row]).to_string(index=False))
    show_files([args.out])


def compared(before: Worker, after: Worker, job: str, rounds: int) -> dict[str, Any]:
    """The time that a job takes."""
    pair(before, after, job)  # what is found out or loaded once
    pairs = [pair(before, after, job, later_first=number % 2 == 1) for number in range(rounds)]
    ratios = sorted(later / earlier for earlier, later in pairs)
    return {
        "rounds": rounds,
        "seconds_before": round(statistics.median(earlier for earlier, _ in pairs), 3),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
    }


def pair(before: Worker, after: Worker, job: str, *, later_first: bool = False) -> tuple[float, float]:
    """What both take for a job, one right after the other."""
    if later_first:
        later = after.does(job).seconds
        return before.does(job).seconds, later
    return before.does(job).seconds, after.does(job).seconds


def grown(before: Worker, after: Worker, job: str) -> dict[str, Any]:
    """The memory that a job takes when it is done again: what the first time loads for good is not its."""
    earlier, later = ([worker.does(job) for _ in range(2)][-1].megabytes for worker in (before, after))
    return {"mb_before": round(earlier), "mb_ratio": round(later / earlier, 3) if earlier >= 1 else None}


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the commit to compare with")
    parser.add_argument("--job", nargs="+", default=[job for job in JOBS if job not in LONG], choices=JOBS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "before_after.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
