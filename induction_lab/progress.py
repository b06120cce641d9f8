"""A progress bar on standard error for jobs that take a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Ticker = Callable[[int], None]


@contextmanager
def progress_bar(total: int, description: str, *, shown: bool) -> Iterator[Ticker]:
    """Yield `tick(n)`, which moves the bar by n of `total`; it does nothing unless `shown`. The bar goes at the end."""
    if not shown:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)
