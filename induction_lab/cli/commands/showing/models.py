"""`induction-lab models` and `get`: which models are there, and how to bring one."""

from __future__ import annotations

from typing import Annotated

import typer

commands = typer.Typer()


@commands.command(epilog="Example:  [bold]induction-lab models[/bold]")
def models() -> None:
    """List the models that go by a name here, and what can be loaded besides."""
    from induction_lab.cli.lists import show_models

    show_models()


@commands.command(epilog="Example:  [bold]induction-lab get smollm2-135m[/bold]")
def get(model: Annotated[str, typer.Argument(help="A name from `induction-lab models`.")]) -> None:
    """Bring a named model into the cache, once."""
    from induction_lab.cli.lists import show_line
    from induction_lab.models.bringing import get as bring
    from induction_lab.models.named_models import NAMED
    from induction_lab.models.store import is_here

    if model in NAMED and is_here(model):
        show_line(f"{model} is here already.")
        return
    bring(model, say=lambda message: typer.echo(message, err=True))
    show_line(f"{model} is ready: induction-lab score {model}")
