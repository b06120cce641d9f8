"""Did anything get slower, or larger, from one checkout of this library to another?

    git worktree add ../before COMMIT
    python -m experiments before_after --before ../before                 # all jobs, about 30 minutes of one core
    python -m experiments before_after --before ../before --job score circuit

Two processes of one thread hold the same models, one for each checkout, and do each job in turn, one after the other,
so that noise of the machine hits both alike. Time is CPU time; `ratio` is the median over rounds of the time after by
that before, with the lowest and the highest. Memory is how far the process grows during a job, in two more processes
whose allocator gives back at once what is freed, so that what was done before leaves no room. The same file is run in
all of them, so jobs are those that both checkouts can do. Adds its rows to before_after.csv, or replaces them.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

HERE = Path(__file__).parent
TEXT = "Mrs. Tolliver kept bees. Every spring Mrs. Tolliver counted the hives, and Mrs. Tolliver sold the honey."
SMALL, REAL = "induction-2l", "smollm2-135m"
CHILD = "--as-child"
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}  # of glibc


def main(argv: list[str] | None = None) -> None:
    import pandas as pd

    from experiments.harness import put_row, show_files, show_line

    args = parse_args(argv)
    if not (args.before / "induction_lab" / "__init__.py").is_file():
        raise SystemExit(
            f"--before {args.before} is no checkout of this library: git worktree add {args.before} COMMIT"
        )
    after = HERE.parents[1]
    for job in args.job:
        row: dict[str, Any] = {"job": job}
        with Worker(args.before) as one, Worker(after) as other:
            row |= compared(one, other, job, args.rounds)
        with Worker(args.before, GIVES_BACK) as one, Worker(after, GIVES_BACK) as other:
            row |= grown(one, other, job)
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


class Cost(NamedTuple):
    """What a job took: CPU time, and how far its process grew."""

    seconds: float
    megabytes: float


class Worker:
    """A process that does jobs with the library of one checkout."""

    def __init__(self, checkout: Path, environment: dict[str, str] | None = None) -> None:
        """Start it."""
        self.checkout = checkout
        own = {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
        environment = os.environ | own | (environment or {})
        self.process = subprocess.Popen(
            [sys.executable, __file__, CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=checkout,
        )

    def __enter__(self) -> Worker:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def does(self, job: str) -> Cost:
        """Do a job."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{job} failed with the library in {self.checkout}: see above, or leave it out (--job).")
        seconds, megabytes = map(float, line.split())
        return Cost(seconds, megabytes)


def child() -> None:
    """Do what is asked for, a line a job, with whatever library is found."""
    models: dict[str, Any] = {}
    for line in sys.stdin:
        job = JOBS[line.strip()]
        if job.model not in models:
            models[job.model] = _loaded(job.model)
        gc.collect()
        there = _resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
        begin = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            job.run(models[job.model], Path(folder))
        seconds = time.process_time() - begin
        print(seconds, (_resident("VmHWM") - there) / 1024, file=sys.__stdout__, flush=True)


def _resident(which: str) -> int:
    """Of this process, in kilobytes: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which))


def _loaded(name: str) -> Any:
    from induction_lab import load_model

    model = load_model(name)
    _ = model.unembeds_by_parts  # found out once a model
    return model


class Job(NamedTuple):
    """What is done, with which model."""

    model: str
    run: Callable[[Any, Path], object]


def _load(model: Any, folder: Path) -> None:
    lab().load_model(model.name)


def _score(model: Any, folder: Path) -> None:
    lab().score_heads(model, lab().repeated_tokens(model, n_prompts=8, distinct=True), chance_test=True)


def _long(model: Any, folder: Path) -> None:
    names = ["prefix_matching", "induction_stripe", "previous_token", "duplicate_token", "resting"]
    lab().score_heads(model, lab().repeated_tokens(model, n_prompts=1, period=1000), scores=names, loss=False)


def _capture(model: Any, folder: Path) -> None:
    lab().capture(model, lab().repeated_tokens(model, n_prompts=8).tokens, ["q", "k", "v", "resid_pre"])


def _attribute(model: Any, folder: Path) -> None:
    lab().attribute_logits(model, lab().repeated_tokens(model, n_prompts=4))


def _circuit(model: Any, folder: Path) -> None:
    lab().find_circuit(model, lab().repeated_tokens(model, n_prompts=4))


def _composition(model: Any, folder: Path) -> None:
    lab().composition_scores(model, "K")


def _ablation(model: Any, folder: Path) -> None:
    heads = [f"L{model.n_layers // 2}H{head}" for head in range(model.n_heads)]
    lab().ablation_sweep(model, lab().repeated_tokens(model, n_prompts=4), heads=heads)


def _paths(model: Any, folder: Path) -> None:
    senders = [(model.n_layers // 2, head) for head in range(model.n_heads)]
    prompts = lab().repeated_tokens(model, n_prompts=2)
    lab().patch_paths(model, prompts, [(model.n_layers - 1, 0)], "k", senders=senders)


def _activity(model: Any, folder: Path) -> None:
    lab().induction_activity(model, TEXT)


def _report(model: Any, folder: Path) -> None:
    lab().write_report(model, folder / "report.html", n_prompts=4)


def _explain(model: Any, folder: Path) -> None:
    lab().explain(model, lab().repeated_tokens(model, n_prompts=4), n_random=4)


def _follow(model: Any, folder: Path) -> None:
    checkpoint = SimpleNamespace(name="one checkpoint", steps=(0,), model=lambda step: model)
    lab().follow_training(checkpoint, texts=lab().repeated_tokens(model, n_prompts=4, seed=9))


def _callback(model: Any, folder: Path) -> None:
    callback = lab().InductionCallback()
    callback._begin(model.network, model.tokenizer, name="job")
    callback._measured(1)


def _sweep(model: Any, folder: Path) -> None:
    plan = {
        "models": [model.name],
        "prompts": {f"period {period}": {"period": period, "n_prompts": 2} for period in range(4, 12)},
        "measurements": {"scores": {"kind": "head_scores"}},
        "seeds": [0, 1],
        "device": "cpu",
    }
    lab().sweep(plan, folder)


def _explore(model: Any, folder: Path) -> None:
    from induction_lab.pages.live.answers import LiveModel

    live = LiveModel(model)
    for what in ("predict", "map"):
        live.answer(what, {"text": TEXT, "mode": "looks_at"})


def _offloaded(model: Any, folder: Path) -> None:
    on_disk = lab().load_model(model.name, offload=True)
    lab().score_heads(on_disk, lab().repeated_tokens(on_disk, n_prompts=1), scores=["prefix_matching"])


def _kinds(model: Any, folder: Path) -> None:
    lab().classify_heads(model, causal=False)


def _train(model: Any, folder: Path) -> None:
    from induction_lab.data.training_streams import TiledBlocks
    from induction_lab.training.trainer import TrainingPlan, train

    network = lab().AttentionOnlyTransformer(lab().AttentionOnlyConfig(d_vocab=64, n_ctx=64))
    train(network, TiledBlocks(64), TrainingPlan(steps=40, threads=1))


JOBS = {
    "load": Job(REAL, _load),
    "score": Job(REAL, _score),
    "score, 2,001 tokens": Job(REAL, _long),
    "capture": Job(REAL, _capture),
    "attribute_logits": Job(REAL, _attribute),
    "circuit": Job(REAL, _circuit),
    "composition": Job(REAL, _composition),
    "ablation of 9 heads": Job(REAL, _ablation),
    "paths from 9 heads": Job(REAL, _paths),
    "activity": Job(REAL, _activity),
    "report": Job(REAL, _report),
    "follow, one checkpoint": Job(REAL, _follow),
    "callback, one measurement": Job(REAL, _callback),
    "explore, one text": Job(REAL, _explore),
    "score, weights on disk": Job(REAL, _offloaded),
    "explain": Job(SMALL, _explain),
    "kinds": Job(SMALL, _kinds),
    "training, 40 steps": Job(SMALL, _train),
    "sweep, 16 cells": Job(SMALL, _sweep),
}


def lab() -> Any:
    """The library that is found."""
    import induction_lab

    return induction_lab


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the commit to compare with")
    parser.add_argument("--job", nargs="+", default=list(JOBS), choices=JOBS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "before_after.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    child() if CHILD in sys.argv[1:] else main()
