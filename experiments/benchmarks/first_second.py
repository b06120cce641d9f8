"""Where do a command's first seconds go: into which library, and into the work itself?

    python -m experiments first_second
    python -m experiments first_second --against ../before    # and beside another checkout, in alternating pairs
    python -m experiments first_second --against ../before --cold     # what people wait when nothing is in memory yet

Processor seconds (user and system, one thread) of fresh processes on the bundled model, files in the cache of the disk.
What a library imports is counted as its own, unless that is another library of the table; `rest` is the interpreter,
the command line and our own modules; `work` is what is not importing. Adds its rows to first_second.csv here, and
with `--against` first_second_ratio.csv: the other checkout's seconds, and ours over them, pair by pair; with `--cold`
first_second_cold.csv alone: the same of seconds by the clock, all files being read from the disk again, for which
nothing else should run. About 5 minutes, with `--against` 15.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.harness import put_row, show_files, show_line

HERE = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "transformer_lens", "matplotlib", "pandas", "scipy")
LIBRARY_CALL = "load_model(); score_heads()"
COMMANDS = {
    LIBRARY_CALL: "import induction_lab; induction_lab.score_heads(induction_lab.load_model())",
    **{
        command: "from induction_lab.cli.app import main; main()"
        for command in (
            "--help", "models", "train --help", "score", "score --no-figures", "score --above 0.4", "circuit", "heads",
            "explain", "report", "plot results/induction-2l.csv",
        )
    },
}  # fmt: skip
MEASURED = """
import importlib._bootstrap_external as files, json, resource, sys, time
libraries, code, place = json.loads(sys.argv[1])
sys.argv[1:2] = []
spent, owners, since = dict.fromkeys([*libraries, "rest"], 0.0), ["rest"], time.process_time()

def owned(by, run):
    def timed(loader, what):
        global since
        name = getattr(what, "__name__", getattr(what, "name", "")).partition(".")[0]
        now = time.process_time()
        if importing: spent[owners[-1]] += now - since
        since = now
        owners.append(name if name in libraries else owners[-1]); importing.append(name)
        try:
            return run(loader, what)
        finally:
            now = time.process_time()
            spent[owners.pop()] += now - since
            importing.pop()
            since = now
    setattr(*by, timed)

importing = []
spent["rest"] = since
for kind, method in ((files._LoaderBasics, "exec_module"), (files.ExtensionFileLoader, "create_module"),
                     (files.ExtensionFileLoader, "exec_module")):
    owned((kind, method), getattr(kind, method))
try:
    exec(code)
finally:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    spent["seconds"] = sum(each.ru_utime + each.ru_stime for each in used)
    with open(place, "w") as file:
        json.dump(spent, file)
"""


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    checkouts = [HERE.parents[1], *([args.against] if args.against else [])]
    written: dict[Path, None] = {}

    def put(name: str, row: dict[str, Any]) -> None:
        put_row(args.out / name, row, by={"command": list(COMMANDS)})
        written[args.out / name] = None
        show_line(pd.DataFrame([row]).to_string(index=False))

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        _run("score", checkouts[0], made, made)  # what `plot` draws; files are in the cache from now on
        for command in args.command or COMMANDS:
            pairs = [_pair(command, checkouts, made, args.cold, number) for number in range(args.rounds)]
            if args.cold:
                put("first_second_cold.csv", ratio(command, _seconds(pairs, "by the clock")))
                continue
            put("first_second.csv", row(command, [pair[0] for pair in pairs]))
            if args.against:
                put("first_second_ratio.csv", ratio(command, _seconds(pairs, "seconds")))
    show_files(list(written))


def _seconds(pairs: list[list[dict[str, float]]], which: str) -> list[list[float]]:
    return [[each[which] for each in pair] for pair in pairs]


def _pair(command: str, checkouts: list[Path], made: Path, cold: bool, number: int) -> list[dict[str, float]]:
    """One process of each checkout, in the order of `checkouts`; every second time the last one is run first."""
    found = {}
    for checkout in checkouts[:: -1 if number % 2 else 1]:
        if cold:
            for folder in (checkout, Path(sys.prefix), Path(sys.base_prefix)):
                forget(folder)
        found[checkout] = measure(command, checkout, made)
    return [found[checkout] for checkout in checkouts]


def forget(folder: Path) -> None:
    """Let the system forget what it keeps in memory of a folder's files: they are read from the disk again."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(command: str, checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds of a fresh process that runs the code of a checkout: in all, by the clock, and importing each library.

    What is drawn lies in `folder`; other commands begin in an empty one, for some go on with what they find.
    """
    if command.startswith("plot"):
        return _run(command, checkout, folder, folder)
    with tempfile.TemporaryDirectory() as empty:
        return _run(command, checkout, Path(empty), folder)


def _run(command: str, checkout: Path, cwd: Path, folder: Path) -> dict[str, float]:
    given = json.dumps([LIBRARIES, COMMANDS[command], str(folder / "spent.json")])
    arguments = [] if command == LIBRARY_CALL else command.split()
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", MEASURED, given, *arguments]
    begin = time.perf_counter()
    done = subprocess.run(run, cwd=cwd, env=environment, capture_output=True, text=True)
    waited = time.perf_counter() - begin
    if done.returncode:
        raise ValueError(f"{command} of {checkout} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads((folder / "spent.json").read_text()) | {"by the clock": waited}


def row(command: str, found: list[dict[str, float]]) -> dict[str, Any]:
    """Medians over the processes, and of all seconds the lowest and the highest."""
    seconds = sorted(each["seconds"] for each in found)
    parts = {name: [each[name] for each in found] for name in (*LIBRARIES, "rest")}
    parts["work"] = [each["seconds"] - sum(each[name] for name in (*LIBRARIES, "rest")) for each in found]
    whole = {"command": command, "seconds": statistics.median(seconds), "lowest": seconds[0], "highest": seconds[-1]}
    rounded = {name: round(value, 2) if isinstance(value, float) else value for name, value in whole.items()}
    return rounded | {name: round(statistics.median(each), 2) for name, each in parts.items()}


def ratio(command: str, pairs: list[list[float]]) -> dict[str, Any]:
    """Of pairs of ours and the other's seconds: medians, and the quotients' median, lowest and highest."""
    now, before = zip(*pairs, strict=True)
    quotients = sorted(ours / other for ours, other in pairs)
    return {
        "command": command,
        "before": round(statistics.median(before), 2),
        "now": round(statistics.median(now), 2),
        "ratio": round(statistics.median(quotients), 2),
        "lowest": round(quotients[0], 2),
        "highest": round(quotients[-1], 2),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", nargs="+", choices=COMMANDS, help="only these")
    parser.add_argument("--rounds", type=int, default=5, help="fresh processes of each command")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--cold", action="store_true", help="with all files read from the disk again, by the clock")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args(argv)
    if args.cold and not args.against:
        parser.error("--cold is measured beside another checkout: give --against CHECKOUT as well.")
    return args


if __name__ == "__main__":
    main()
