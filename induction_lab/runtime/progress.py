"""A progress bar on standard error for jobs that take a while."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

Ticker = Callable[..., None]
SECONDS = 30.0  # between two lines, where there is no terminal for a bar
_under_way: list[str] = []  # how far the jobs that are shown have come, the innermost last


@contextmanager
def progress_bar(total: int, description: str, *, shown: bool, done: int = 0) -> Iterator[Ticker]:
    """Yield `tick(n, note="")`, which moves the bar by n of `total`; it does nothing unless `shown`.

    The note stands behind the bar. `done` of the total were done before. The bar goes at the end. Where standard error
    is no terminal a plain line is written now and then instead.
    """
    if not shown:
        yield lambda n, note="": None
        return
    place, count = len(_under_way), done
    _under_way.append(f"{description}: {count:,} of {total:,}")
    with _bar(total, description, done) as moved:

        def tick(n: int, note: str = "") -> None:
            nonlocal count
            count += n
            _under_way[place] = f"{description}: {count:,} of {total:,}"
            moved(n, note)

        try:
            yield tick
        except KeyboardInterrupt:  # which `how_far` is asked after
            raise
        except BaseException:
            del _under_way[place:]
            raise
    del _under_way[place:]


def how_far() -> str:
    """How far the job came that was interrupted, once; nothing where none had begun."""
    came = _under_way[-1] if _under_way else ""
    _under_way.clear()
    return came


@contextmanager
def _lines(description: str, total: int, done: int) -> Iterator[Ticker]:
    """A line on standard error every `SECONDS`."""
    count, last = done, time.monotonic()

    def tick(n: int, note: str = "") -> None:
        nonlocal count, last
        count += n
        if time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            sys.stderr.write(f"{description}: {count:,} of {total:,}{'  ' + note if note else ''}\n")
            sys.stderr.flush()

    yield tick


@contextmanager
def _bar(total: int, description: str, done: int) -> Iterator[Ticker]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Time left at the mean speed since the start: bursts of work mislead estimates from the last seconds."""

        def render(self, task: Task) -> Text:
            steps, left = task.completed - done, (task.total or 0) - task.completed
            seconds = int((task.elapsed or 0.0) * left / steps) if steps > 0 else None
            return Text("-:--:--" if seconds is None else str(timedelta(seconds=seconds)), "progress.remaining")

    console = Console(stderr=True)
    if not console.is_terminal:
        with _lines(description, total, done) as tick:
            yield tick
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    columns = (*columns, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        yield lambda n, note="": bar.update(task, advance=n, note=note)
