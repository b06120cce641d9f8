"""Train many runs at once, because claims need seeds.

On a CPU each run has a process of its own, with the threads of its recipe: small matrices gain little from a second
thread and nothing from being stacked. On a GPU, where starting a kernel costs more than its work, runs that differ in
their seed alone are stacked and trained as one (`training.stacked_runs`).
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from induction_lab.runtime.machine import cores, find_device
from induction_lab.runtime.progress import Ticker, progress_bar
from induction_lab.training.one_run import train_run
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import Run
from induction_lab.training.stacked_runs import train_stacked

_news: Any = None  # in a worker: where to tell of updates; set as the process starts


def train_runs(
    recipes: Mapping[str, Recipe],
    folder: str | Path,
    *,
    workers: int | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> dict[str, Run]:
    """Train runs by name, each into `folder/name`; those that are finished are only read.

    >>> minute = load_recipe("minute")                                          # doctest: +SKIP
    >>> runs = train_runs(over_seeds(minute, 5), "runs", progress=True)         # doctest: +SKIP

    Args:
        recipes: What to train, by name.
        folder: Of the runs' folders.
        workers: Processes at once on a CPU; by default as many as fit its cores with the recipes' threads. A script
            that has more than one must not train as it is imported: `if __name__ == "__main__":`.
        device: `cpu`, `cuda`, …; a GPU by default where there is one.
        progress: A progress bar on standard error, over the updates of all runs.

    Raises:
        ValueError: If a run cannot be trained; the others are trained all the same, then the failures are named.
    """
    folder = Path(folder)
    chosen = find_device(device)
    if workers is not None and workers < 1:
        raise ValueError(f"`workers` must be at least 1, got {workers}.")
    left = {name: recipe for name, recipe in recipes.items() if not _finished(folder / name, recipe)}
    total = sum(recipe.training.steps for recipe in left.values())
    with progress_bar(total, f"training {len(left)} runs", shown=progress) as tick:
        if chosen.type == "cuda":
            failures = _stacked(left, folder, chosen, tick)
        elif chosen.type == "cpu":
            failures = _in_processes(left, folder, workers, tick)
        else:
            failures = _one_after_another(left, folder, chosen, tick)
    if failures:
        told = "; ".join(f"{name}: {error}" for name, error in failures.items())
        raise ValueError(f"{len(failures)} of {len(recipes)} runs failed. {told}")
    return {name: Run(folder / name) for name in recipes}


def over_seeds(recipe: Recipe, seeds: int, *, name: str = "seed") -> dict[str, Recipe]:
    """The same recipe with seeds 0, 1, 2, …, by name: `seed0`, `seed1`, …."""
    if seeds < 1:
        raise ValueError(f"At least one seed is wanted, got {seeds}.")
    return {f"{name}{seed}": replace(recipe, seed=seed) for seed in range(seeds)}


def _finished(folder: Path, recipe: Recipe) -> bool:
    try:
        run = Run(folder)
    except ValueError:
        return False
    return run.finished and run.recipe == recipe


def _in_processes(
    recipes: Mapping[str, Recipe], folder: Path, workers: int | None, tick: Ticker
) -> dict[str, Exception]:
    if not recipes:
        return {}
    threads = max(recipe.training.threads for recipe in recipes.values())
    n_workers = min(workers or max(1, cores() // threads), len(recipes))
    if n_workers == 1:
        return _one_after_another(recipes, folder, torch.device("cpu"), tick)
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    news = context.SimpleQueue()
    failures: dict[str, Exception] = {}
    with _listening(news, tick), ProcessPoolExecutor(n_workers, context, _start_worker, (news,)) as pool:
        jobs = {pool.submit(_train_one, recipe, folder / name): name for name, recipe in recipes.items()}
        try:
            for job in as_completed(jobs):
                error = job.exception()
                if isinstance(error, Exception):
                    failures[jobs[job]] = error
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures


def _one_after_another(
    recipes: Mapping[str, Recipe], folder: Path, device: torch.device, tick: Ticker
) -> dict[str, Exception]:
    failures: dict[str, Exception] = {}
    for name, recipe in recipes.items():
        try:
            train_run(recipe, folder / name, device=device, on_step=lambda step: tick(1))
        except ValueError as error:
            failures[name] = error
    return failures


def _stacked(recipes: Mapping[str, Recipe], folder: Path, device: torch.device, tick: Ticker) -> dict[str, Exception]:
    """Runs that differ in their seed alone together; the others, and what cannot be stacked, by themselves."""
    groups: dict[str, dict[str, Recipe]] = {}
    for name, recipe in recipes.items():
        groups.setdefault(replace(recipe, seed=0).to_toml(), {})[name] = recipe
    failures: dict[str, Exception] = {}
    for group in groups.values():
        n = len(group)
        try:
            if n > 1:
                train_stacked(group, folder, device=device, on_step=lambda step, n=n: tick(n))
                continue
        except (ValueError, torch.OutOfMemoryError):  # clamped, compiled, at different steps, too large: one by one
            pass
        failures |= _one_after_another(group, folder, device, tick)
    return failures


def _start_worker(news: Any) -> None:
    global _news
    _news = news


def _train_one(recipe: Recipe, folder: Path) -> None:
    try:
        train_run(recipe, folder, device="cpu", on_step=lambda step: _news.put(1))
    except KeyboardInterrupt:
        os._exit(130)  # else the pool would go on with the next run


@contextmanager
def _listening(news: Any, tick: Ticker) -> Iterator[None]:
    """Move the bar as the workers tell of their updates."""

    def listen() -> None:
        while (count := news.get()) is not None:
            tick(count)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        news.put(None)
        listener.join()
