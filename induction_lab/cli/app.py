"""The command `induction-lab`: score a model, find and explain its circuit, list and bring models, draw scores.

Each module beside this one holds some of the commands.
"""

from __future__ import annotations

import sys

import typer

from induction_lab.cli.analysis import analysis
from induction_lab.cli.models import bringing
from induction_lab.cli.report import reporting
from induction_lab.cli.shared import say
from induction_lab.cli.sweep import sweeping
from induction_lab.cli.training import training

app = typer.Typer(
    name="induction-lab",
    help="Find induction heads: which attention heads of a model copy what followed the current token before.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(analysis)
app.add_typer(bringing)
app.add_typer(training)
app.add_typer(reporting)
app.add_typer(sweeping)


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
