"""The same jobs by two checkouts of this library, each in a process of its own: what they take, and where it goes.

`before_after.py` and `profiles.py` start these processes. This file is run in them, with the library of either
checkout, so it imports nothing of the experiments, and jobs are those that both can do.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

TEXT = "Mrs. Tolliver kept bees. Every spring Mrs. Tolliver counted the hives, and Mrs. Tolliver sold the honey."
SMALL, REAL = "induction-2l", "smollm2-135m"
HERE = Path(__file__)
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}  # of glibc
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addmv", "aten::mv", "aten::dot")
ATTENTION = "_scaled_dot_product"


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
            [sys.executable, str(HERE)],
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
        """Do a job.

        Raises:
            SystemExit: If it fails there.
        """
        return Cost(**self._asked("does", job))

    def profiles(self, job: str) -> dict[str, Any]:
        """Do a job, and say what its time went into: shares of all of it.

        Raises:
            SystemExit: If it fails there.
        """
        return self._asked("profiles", job)

    def _asked(self, how: str, job: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{how} {job}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{job} failed with the library in {self.checkout}: see above, or leave it out (--job).")
        return json.loads(line)


def checkout(folder: Path) -> Path:
    """A folder that holds this library.

    Raises:
        SystemExit: If it does not.
    """
    if not (folder / "induction_lab" / "__init__.py").is_file():
        raise SystemExit(f"--before {folder} is no checkout of this library: git worktree add {folder} COMMIT")
    return folder


def child() -> None:
    """Do what is asked for, a line a job, with whatever library is found."""
    models: dict[str, Any] = {}
    for line in sys.stdin:
        how, name = line.strip().split(" ", 1)
        job = JOBS[name]
        if job.model not in models:
            models[job.model] = _loaded(job.model)
        with tempfile.TemporaryDirectory() as folder:
            if how == "profiles":
                with contextlib.suppress(ValueError):  # it reads no text: this is for what the first run imports
                    job.run(_loaded(SMALL), Path(folder))
            found = {"does": cost, "profiles": profiled}[how](lambda job=job: job.run(models[job.model], Path(folder)))
        print(json.dumps(found), file=sys.__stdout__, flush=True)


def cost(run: Callable[[], object]) -> dict[str, float]:
    """CPU seconds, and megabytes by which this process grows."""
    gc.collect()
    there = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    begin = time.process_time()
    run()
    return {"seconds": time.process_time() - begin, "megabytes": (_resident("VmHWM") - there) / 1024}


def profiled(run: Callable[[], object]) -> dict[str, Any]:
    """Shares of the time, and the operation that takes most of it besides products and attention."""
    from torch.profiler import ProfilerActivity, profile

    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        run()
        seconds = time.perf_counter() - begin
    alone = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    products = sum(spent for name, spent in alone.items() if name in PRODUCTS)
    attention = sum(spent for name, spent in alone.items() if ATTENTION in name)
    others = {name: spent for name, spent in alone.items() if name not in PRODUCTS and ATTENTION not in name}
    largest = max(others, key=lambda name: others[name])
    return {
        "products": round(products / seconds, 3),
        "attention": round(attention / seconds, 3),
        "largest_other": largest.removeprefix("aten::"),
        "its_share": round(others[largest] / seconds, 3),
        "all_others": round(sum(others.values()) / seconds, 3),
        "outside": round(max(0.0, 1 - sum(alone.values()) / seconds), 3),
    }


def _resident(which: str) -> int:
    """Of this process, in kilobytes: `VmRSS` now, `VmHWM` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which))


def _loaded(name: str) -> Any:
    from induction_lab import load_model

    model = load_model(name)
    _ = model.unembeds_by_parts  # found out once a model
    lab().score_heads(model, lab().repeated_tokens(model, n_prompts=1, period=4), loss=False)  # what the first builds
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
        live.answer(what, {"text": TEXT, "mode": "copying", "position": 12})


def _offloaded(model: Any, folder: Path) -> None:
    on_disk = lab().load_model(model.name, offload=True)
    lab().score_heads(on_disk, lab().repeated_tokens(on_disk, n_prompts=1), scores=["prefix_matching"])


def _heads(model: Any, folder: Path) -> None:
    lab().classify_heads(model, causal=False)


def _train(model: Any, folder: Path) -> None:
    from induction_lab.data.training_streams import TiledBlocks
    from induction_lab.training.trainer import TrainingPlan, train

    network = lab().AttentionOnlyTransformer(lab().AttentionOnlyConfig(d_vocab=64, n_ctx=64))
    train(network, TiledBlocks(64), TrainingPlan(steps=40, threads=1))


JOBS = {  # of `REAL` the last two take very long
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
    "explain, bundled model": Job(SMALL, _explain),
    "heads, bundled model": Job(SMALL, _heads),
    "training, 40 steps": Job(SMALL, _train),
    "sweep, 16 cells": Job(SMALL, _sweep),
    "heads": Job(REAL, _heads),
    "explain": Job(REAL, _explain),
}


def lab() -> Any:
    """The library that is found."""
    import induction_lab

    return induction_lab


if __name__ == "__main__":
    child()
