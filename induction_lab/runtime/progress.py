"""A progress bar on standard error for jobs that take a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

Ticker = Callable[..., None]


@contextmanager
def progress_bar(total: int, description: str, *, shown: bool, done: int = 0) -> Iterator[Ticker]:
    """Yield `tick(n, note="")`, which moves the bar by n of `total`; it does nothing unless `shown`.

    The note stands behind the bar. `done` of the total were done before. The bar goes at the end.
    """
    if not shown:
        yield lambda n, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Time left at the mean speed since the start: bursts of work mislead estimates from the last seconds."""

        def render(self, task: Task) -> Text:
            steps, left = task.completed - done, (task.total or 0) - task.completed
            seconds = int((task.elapsed or 0.0) * left / steps) if steps > 0 else None
            return Text("-:--:--" if seconds is None else str(timedelta(seconds=seconds)), "progress.remaining")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    columns = (*columns, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total, completed=done, note="")
        yield lambda n, note="": bar.update(task, advance=n, note=note)
