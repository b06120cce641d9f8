"""Where does the time of each command go: into products and attention, or into something that could be left out?

    python -m experiments profiles                                              # every command on SmolLM2-135M
    python -m experiments profiles --before ../before --job score report        # and the same by an earlier checkout

One thread. PyTorch's profiler says how long each operation took by itself. Products are what multiplies matrices (`mm`,
`bmm`, …), attention is the fused kernel; `largest_other` is the greatest of all other operations, and `outside` what
passed between operations: Python. Shares are of the time of all of it. Adds its rows to profiles.csv beside this file,
or replaces them. `heads` and `explain` take longest by far.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from experiments.benchmarks.two_checkouts import JOBS, Worker, checkout
from experiments.harness import put_row, show_files, show_line

HERE = Path(__file__).parent
COMMANDS = ("score", "circuit", "heads", "explain", "report", "follow, one checkpoint", "activity", "explore, one text")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    checkouts = {"before": args.before and checkout(args.before), "now": HERE.parents[1]}
    for when, folder in checkouts.items():
        if folder is None:
            continue
        with Worker(folder) as worker:
            for job in args.job:
                row = {"command": job, "model": JOBS[job].model, "library": when} | worker.profiles(job)
                by = {"command": list(JOBS), "model": None, "library": list(checkouts)}
                put_row(args.out, row, by=by)
                show_line(pd.DataFrame([row]).to_string(index=False))
    show_files([args.out])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="a checkout of an earlier commit")
    parser.add_argument("--job", nargs="+", default=list(COMMANDS), choices=JOBS)
    parser.add_argument("--out", type=Path, default=HERE / "profiles.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
