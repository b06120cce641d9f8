"""What the tests of sweeps measure, and sweeps in processes of their own, to be killed or left without room.

python tests/sweeping.py FOLDER [--kill-at N] [--room BYTES] [--address A] [--seeds N] [--function NAME]
"""

import argparse
import json
import os
import resource
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd

from induction_lab.sweeps.sweeping import sweep

PROMPTS = {"short": {"kind": "repeats", "period": 5, "n_prompts": 2}}
PAUSE = 0.15  # seconds that a slow measurement takes
MARK = "INDUCTION_LAB_TEST_MARK"  # a folder in which measurements leave traces


def tiny(model, prompts, seed) -> pd.DataFrame:
    total = float(prompts.tokens.sum())
    return pd.DataFrame({"metric": ["total", "layers"], "value": [total, float(model.n_layers)]})


def slow(model, prompts, seed) -> pd.DataFrame:
    time.sleep(PAUSE)
    return tiny(model, prompts, seed)


def traced(model, prompts, seed) -> pd.DataFrame:
    """Leaves a file for every time that it is measured."""
    (Path(os.environ[MARK]) / f"{seed}-{time.time_ns()}").touch()
    return slow(model, prompts, seed)


def large(model, prompts, seed) -> pd.DataFrame:
    """More rows with every seed."""
    n = 1 + seed * 400
    return pd.DataFrame({"metric": "number", "index": range(n), "value": [i * 0.1234567 for i in range(n)]})


def wrong(model, prompts, seed) -> pd.DataFrame:
    if seed == 1:
        raise RuntimeError("it went wrong")
    if seed == 2:
        raise MemoryError("no memory")
    if seed == 3:
        sys.exit(3)
    return tiny(model, prompts, seed)


def no_table(model, prompts, seed) -> list[int]:
    return [1]


def deadly(model, prompts, seed) -> pd.DataFrame:
    """Kills its worker the first time."""
    mark = Path(os.environ[MARK]) / f"seen-{seed}"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return tiny(model, prompts, seed)


def plan(function: str = "tiny", seeds: int = 4, models=("induction-2l",)) -> dict:
    measurements = {function: {"kind": "function", "function": f"sweeping:{function}"}}
    return {
        "models": list(models),
        "prompts": PROMPTS,
        "measurements": measurements,
        "seeds": list(range(seeds)),
        "device": "cpu",
    }


def kill_at(count: int) -> None:
    """Die when so many files are written and the last is about to get its name."""
    plain, seen = Path.replace, [0]

    def replace(self, target):
        seen[0] += 1
        if seen[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, target)

    Path.replace = replace  # type: ignore[method-assign]


def no_room(room: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))


def forked(asked: dict, folder: Path, hinder) -> dict:
    """What became of a sweep: what it did, an error's message, or the signal that ended it."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hinder()
            done = sweep(asked, folder)
            told = {"computed": done.computed, "found": done.found}
        except ValueError as error:
            told = {"error": str(error)}
        except BaseException as error:
            told = {"unforeseen": repr(error)}
        os.write(writes, json.dumps(told).encode())
        os._exit(0)
    os.close(writes)
    _, status = os.waitpid(pid, 0)
    with os.fdopen(reads) as said:
        return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(said.read())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--address", help="Sweep on this Ray cluster; else in forked processes, hindered.")
    args = parser.parse_args()
    if args.address:
        sweep(plan("traced", 24), args.folder, executor="ray", address=args.address)
        return
    kills = {at: forked(plan(), args.folder / f"kill-{at}", partial(kill_at, at)) for at in (1, 3)}
    room = forked(plan("large", 6), args.folder / "room", partial(no_room, 16_000))
    print(json.dumps({"kills": kills, "room": room}))


if __name__ == "__main__":
    import sweeping  # its functions under the name that workers know

    sweeping.main()
