"""The commands `induction-lab sweep` and `induction-lab atlas`: measure across models, and see it on one page."""

from __future__ import annotations

import math
import warnings
from enum import StrEnum
from html import escape
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import counted, say, stem, writable
from induction_lab.results.heads import LOOKS

commands = typer.Typer()
_COUNTED = ("snapshots", "measurement", "cells", "done")


class Executor(StrEnum):
    """Where cells are measured."""

    local = "local"
    pool = "pool"
    ray = "ray"


@commands.command(
    epilog="Examples:  [bold]induction-lab sweep my.toml --dry-run[/bold]   ·   "
    "[bold]induction-lab sweep my.toml --executor pool --workers 4[/bold]   ·   "
    "[bold]induction-lab sweep my.toml -o results/all --executor ray --address 10.0.0.1:6379[/bold]"
)
def sweep(
    plan: Annotated[Path, typer.Argument(help="A TOML file: models, prompts, seeds, measurements.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=writable, help="The dataset; results/NAME by default.")
    ] = None,
    executor: Annotated[
        Executor, typer.Option(help="local: this process; pool: processes here; ray: a Ray cluster (extra: sweep).")
    ] = Executor.local,
    workers: Annotated[int | None, typer.Option(help="Processes at once; by default one a core.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, HOST:PORT or auto; else one is started here.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which cells, and about what they cost.")] = False,
    cells: Annotated[bool, typer.Option("--cells", help="With --dry-run: one line a cell, not a measurement.")] = False,
    resume: Annotated[bool, typer.Option(help="Pass over cells that are finished.")] = True,
) -> None:
    """Measure every model x revision x prompts x seed x measurement of PLAN, each once.

    A sweep that was cut off goes on when the same command is given again. A cell that fails is written down and does
    not stop the others; the exit code is 1 then.
    """
    say("loading libraries …")
    from induction_lab.sweeps.plan_file import load_sweep_plan
    from induction_lab.sweeps.sweeping import dry_run as costs_of, sweep as run_sweep

    path = out or Path("results") / stem(plan.stem)
    if cells and not dry_run:
        raise ValueError("--cells goes with --dry-run.")
    chosen = load_sweep_plan(plan)
    say("reading weights and what is finished …")
    if dry_run:
        table = costs_of(chosen, path)
        say("")
        _show_costs(table, chosen.left_out, each=cells)
        for name in chosen.elsewhere:
            typer.echo(f"{name} is no file or folder here: it is taken as an id on the Hugging Face hub.")
        return
    how: Any = {"executor": executor.value, "workers": workers, "address": address, "resume": resume}
    try:
        done = run_sweep(chosen, path, progress=True, **how)
    except KeyboardInterrupt:
        typer.echo(f"interrupted: finished cells are kept in {path}; the same command goes on.", err=True)
        raise typer.Exit(130) from None
    say("")
    _show_summary(done)
    if done.failed:
        raise typer.Exit(1)


@commands.command(epilog="Example:  [bold]induction-lab atlas results/my -o atlas.html --score induction_stripe[/bold]")
def atlas(
    path: Annotated[Path, typer.Argument(help="A dataset that `induction-lab sweep` made.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", callback=writable, help="The page; PATH.html by default.")
    ] = None,
    score: Annotated[str, typer.Option(help="Of heads.")] = "prefix_matching",
    threshold: Annotated[float, typer.Option(help="From where on a head counts as an induction head.")] = LOOKS,
    reports: Annotated[
        Path | None, typer.Option(help="A folder with reports of the models, which a click on a head opens.")
    ] = None,
) -> None:
    """Draw a sweep as one page: head maps, depth, induction heads against size and training, when they form."""
    say("loading libraries …")
    from induction_lab.cli.lists import show_files
    from induction_lab.pages.atlas import reports_in, write_atlas
    from induction_lab.sweeps.dataset import CellFiles
    from induction_lab.sweeps.sweeping import load_sweep

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        frame = load_sweep(path)
    for each in warned:
        typer.echo(f"warning: {each.message}", err=True)
    failed = CellFiles(path).failures()
    if failed:
        typer.echo(f"warning: {counted(len(failed), 'cell')} failed and are not drawn: {path / '_failed'}", err=True)
    title = f"Induction heads: {path.name}"
    found = None if reports is None else reports_in(reports, set(map(str, frame["model"])))
    page = out or _own_page(path, title, score, threshold)
    written = write_atlas(frame, page, score=score, threshold=threshold, title=title, reports=found)
    say("")
    show_files([written])


def _own_page(path: Path, title: str, score: str, threshold: float) -> Path:
    """`PATH.html`, or where that is another page one named after the score too."""
    page = path.with_name(f"{path.name}.html")
    if not page.is_file():
        return page
    there = page.read_text(encoding="utf-8", errors="replace")
    words = (f"<title>{escape(title)}</title>", f"Score: {score};\na head counts from {threshold:g} on")
    if all(each in there for each in words):
        return page
    beside = page.with_name(f"{path.name}_{stem(score)}_{threshold:g}.html")
    typer.echo(f"{page} is another page and is kept; this one is {beside}.", err=True)
    return beside


def _show_costs(costs: Any, left_out: list[str], *, each: bool) -> None:
    from rich.console import Console
    from rich.markup import escape as plain
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ("snapshot", "measurement", "prompts", "seed", "done") if each else _COUNTED
    for name in ("model", *names, "about", "memory"):
        right = name in ("snapshots", "cells", "done", "seed", "about", "memory")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in (costs if each else _by_measurement(costs)).to_dict("records"):
        row["done"] = ("yes" if row["done"] else "no") if each else row["done"]
        facts = (plain(f"{row[name]:,}" if isinstance(row[name], int) else str(row[name])) for name in names)
        table.add_row(plain(row["model"]), *facts, _duration(row["seconds"]), _size(row["memory"]))
    out = Console(highlight=False)
    out.print(table)
    known, unknown = costs["seconds"].sum(skipna=True), costs["seconds"].isna()
    more = " and more: of some nothing is known" if unknown.any() else ""
    about = "" if unknown.all() else f", about {_duration(known)} on one worker{more}"
    out.print(f"\n{len(costs) - costs['done'].sum():,} of {len(costs):,} cells to measure{about}.")
    for words in left_out:
        out.print(f"left out: {plain(words)}")


def _by_measurement(costs: Any) -> Any:
    """Costs added up to one row a model and measurement."""
    return costs.groupby(["model", "measurement"], as_index=False).agg(
        snapshots=("snapshot", "nunique"),
        cells=("done", "size"),
        done=("done", "sum"),
        seconds=("seconds", lambda seconds: seconds.sum(skipna=False)),
        memory=("memory", "max"),
    )


def _show_summary(done: Any) -> None:
    from rich.console import Console
    from rich.markup import escape as plain

    out = Console(highlight=False, soft_wrap=True)
    counts = f"{done.computed:,} measured, {done.found:,} were there, {len(done.failed):,} failed"
    out.print(f"{done.cells:,} cells: {counts}; {_duration(done.seconds)}.")
    for file in done.damaged[:5]:
        out.print(f"was damaged, is measured anew: {plain(str(file))}")
    if len(done.damaged) > 5:
        out.print(f"… and {len(done.damaged) - 5:,} more")
    for words in done.left_out:
        out.print(f"left out: {plain(words)}")
    alike: dict[str, list[str]] = {}
    for cell, error in done.failed.items():
        alike.setdefault(error, []).append(cell)
    for error, some in list(alike.items())[:5]:
        more = f" and {len(some) - 1:,} more" if len(some) > 1 else ""
        out.print(f"[red]failed[/red]: {plain(some[0])}{more}: {plain(error)}")
    if len(alike) > 5:
        out.print(f"… and {len(alike) - 5:,} other errors: {plain(str(done.path / '_failed'))}")
    out.print(f"\nwritten:\n  {plain(str(done.path))}")


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.2f} s" if 0 < seconds < 0.1 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _size(memory: float) -> str:
    return "?" if math.isnan(memory) else f"{memory / 1e9:.1f} GB"
