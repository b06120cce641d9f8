"""Where the cells of a sweep are measured: here, or in processes of this machine. On many machines: `ray_cluster`.

An executor takes chunks (cells of one snapshot, which are worth being together because its weights come once) and
yields what becomes of each cell, in any order. Closing it early stops the work.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from induction_lab.sweeps.plan import Cell
from induction_lab.sweeps.worker import Outcome, forget_model, measure_cells, measured

Chunk = Sequence[Cell]
OnFlight = Callable[[int], None]  # is told how many chunks are being measured
TRIES_AGAIN = 2  # of cells whose worker died


def run_here(chunks: Sequence[Chunk], *, on_flight: OnFlight) -> Iterator[Outcome]:
    """Measure in this process, with its own threads."""
    try:
        for chunk in chunks:
            on_flight(1)
            yield from measured(chunk)
    finally:
        forget_model()


def run_in_processes(chunks: Sequence[Chunk], *, workers: int, on_flight: OnFlight) -> Iterator[Outcome]:
    """Measure in processes of one thread each.

    Each is a pool of its own, so that it is clear which cells a worker had that died: those are tried again one by one.
    A script that sweeps must not do so as it is imported: `if __name__ == "__main__":`.
    """
    context = multiprocessing.get_context("spawn")  # forked threads of torch would hang
    watched, held = context.Pipe(duplex=False)  # closes when this process lets go of it, or dies
    pools: dict[int, ProcessPoolExecutor] = {}
    idle, waiting, lost = list(range(workers)), deque(chunks), Counter()
    flying: dict[Future, tuple[int, Chunk]] = {}
    try:
        while waiting or flying:
            while waiting and idle:
                place, chunk = idle.pop(), waiting.popleft()
                flying[_submit(pools, place, chunk, context, watched)] = place, chunk
            on_flight(len(flying))
            for job in wait(flying, return_when=FIRST_COMPLETED).done:
                place, chunk = flying.pop(job)
                idle.append(place)
                try:
                    outcomes = job.result()
                except BrokenProcessPool:
                    pools.pop(place).shutdown()
                    outcomes, again = try_again(chunk, lost)
                    waiting.extend(again)
                yield from outcomes
    finally:
        if flying:
            held.close()  # the workers see it and leave at once
        for pool in pools.values():
            pool.shutdown(cancel_futures=True)
        held.close()
        watched.close()


def try_again(chunk: Chunk, lost: Counter[str]) -> tuple[list[Outcome], list[Chunk]]:
    """Cells whose worker died: failures of those tried too often, and the others to try again, one a chunk."""
    lost.update(cell.key for cell in chunk)
    reason = f"its worker died {TRIES_AGAIN + 1} times: killed, or out of memory"
    failed = [Outcome(cell, None, {}, reason) for cell in chunk if lost[cell.key] > TRIES_AGAIN]
    return failed, [[cell] for cell in chunk if lost[cell.key] <= TRIES_AGAIN]


def _submit(
    pools: dict[int, ProcessPoolExecutor], place: int, chunk: Chunk, context: Any, watched: Any
) -> Future[list[Outcome]]:
    try:
        if place in pools:
            return pools[place].submit(measure_cells, chunk)
    except BrokenProcessPool:  # it died with nothing to do
        pools[place].shutdown()
    pools[place] = ProcessPoolExecutor(1, context, _start_worker, (watched,))
    with _deaf():
        return pools[place].submit(measure_cells, chunk)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started inside the block ignore Ctrl-C from the first moment; the one that starts them hears it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker(watched: Any) -> None:
    """Compute with one thread; another ends the process when the one that started it lets go of the pipe, or dies."""
    import torch

    torch.set_num_threads(1)

    def watch() -> None:
        watched.poll(None)  # nothing is ever sent: this returns at the end only
        os._exit(130)

    threading.Thread(target=watch, daemon=True).start()
