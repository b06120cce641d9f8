"""One thread in which models run, one job after the other; a job that nobody waits for is dropped, even half done."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from induction_lab.attention.scopes import Scope
from induction_lab.models.hooked_model import HookedModel


class Dropped(Exception):
    """Nobody waits for this any more."""


class Job(Future[Any]):
    """Work, and its result when it is done.

    Args:
        work: What to do; it is given the job, to ask whether somebody still waits (`watched`).
        closed: Is set when nobody waits for any job any more.
    """

    def __init__(self, work: Callable[[Job], Any], closed: threading.Event) -> None:
        """Not begun yet."""
        super().__init__()
        self.work, self.closed = work, closed
        self.dropped = threading.Event()

    def watched(self, model: HookedModel, *, lasting: bool = False) -> Scope:
        """A context in which `model` stops before its next layer when the job was dropped, or all are."""
        scope, ends = Scope(), (self.closed,) if lasting else (self.closed, self.dropped)

        def check(*_: Any) -> None:
            if any(end.is_set() for end in ends):
                raise Dropped

        for block in model.anatomy.blocks:
            scope.before(block, check)
        return scope


class Worker(threading.Thread):
    """The thread. Models are not made for several at once, and two runs beside each other are slower than in turn."""

    def __init__(self) -> None:
        """Start it; it ends with the program."""
        super().__init__(name="live models", daemon=True)
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._closed = threading.Event()
        self.start()

    def submit(self, work: Callable[[Job], Any]) -> Job:
        """Let it be done in turn."""
        job = Job(work, self._closed)
        self._jobs.put(job)
        return job

    def close(self) -> None:
        """End the thread: what is under way stops before its next layer, what waits is not begun."""
        self._closed.set()
        self._jobs.put(None)

    def run(self) -> None:
        """Do what is waiting; what a job raises is its result."""
        while (job := self._jobs.get()) is not None:
            if job.dropped.is_set() or not job.set_running_or_notify_cancel():
                continue
            try:
                if self._closed.is_set():
                    raise Dropped
                found = job.work(job)
            except BaseException as error:
                job.set_exception(error)
            else:
                job.set_result(found)
