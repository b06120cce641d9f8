"""The command `induction-lab`, put together; what each command does is a file of `induction_lab.cli.commands`."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed
from typing import Annotated

import typer

from induction_lab.cli.commands.measuring import activity, circuit, explain, heads, predict, score
from induction_lab.cli.commands.showing import explore, models, plot, report
from induction_lab.cli.commands.training import follow, sweep, train
from induction_lab.cli.shared import say

app = typer.Typer(
    name="induction-lab",
    help="Find induction heads: which attention heads of a model copy what followed the current token before.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for module in (
    score, heads, activity, predict, explore, circuit, explain, plot, models, train, follow, report, sweep,
):  # fmt: skip
    app.add_typer(module.commands)


def _say_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"induction-lab {installed('induction-lab')}")
        raise typer.Exit
    return asked


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_say_version, help="Say which version this is.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a user's mistake is one message and exit code 2, never a traceback."""
    try:
        app()
    except ValueError as error:
        say("")
        typer.secho(f"error: {error}", err=True, fg="red" if sys.stderr.isatty() else None)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
