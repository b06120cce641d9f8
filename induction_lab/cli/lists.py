"""What the terminal shows of names and files: models, recipes, what was written. No torch is needed for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from induction_lab.models.named_models import NAMED
from induction_lab.models.store import is_here
from induction_lab.runtime.machine import cache_folder
from induction_lab.training.ready_recipes import READY, ready_recipes


def show_models() -> None:
    """The named models and whether they are here."""
    out = Console(highlight=False)
    table = table_of("name", "what it is", "on disk", "here?")
    for model in NAMED.values():
        here = "[green]ready[/green]" if is_here(model.name) else f"no: {model.needs}"
        table.add_row(model.name, model.what, model.size, here)
    out.print(table)
    out.print(
        "\nBring one with: induction-lab get NAME\n"
        "Besides: a Hugging Face id such as gpt2 (fetched once; --revision step1000 for a\n"
        "checkpoint), a folder with config.json and weights, a .gguf file (extra: gguf)."
    )
    out.print(f"Cache: {escape(str(cache_folder()))}", soft_wrap=True)


def show_recipes() -> None:
    """The ready recipes, with the first line that each says of itself."""
    out = Console(highlight=False)
    table = table_of("recipe", "what it trains")
    for name in ready_recipes():
        first = (READY / f"{name}.toml").read_text(encoding="utf-8").splitlines()[0]
        table.add_row(name, first.lstrip("# ") if first.startswith("#") else "")
    out.print(table)
    out.print("\nTrain one: induction-lab train minute. Or a TOML file of your own: induction-lab train my.toml")


def show_files(paths: Sequence[Path], *, err: bool = False) -> None:
    """List the files that were written; on standard error where standard output carries data."""
    out = Console(stderr=err, highlight=False)
    out.print("\nwritten:")
    for path in paths:
        out.print(f"  {escape(str(path))}", soft_wrap=True)


def show_line(text: str) -> None:
    """Print one line of text."""
    Console(highlight=False).print(escape(text), soft_wrap=True)


def table_of(*columns: str, right: Sequence[str] = ()) -> Table:
    """An empty table without rules, long cells folded."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
