"""The command `induction-lab`, put together; what each command does is a file of `induction_lab.cli.commands`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib.metadata import version as installed
from typing import Annotated, Any

import typer

from induction_lab.cli.commands.measuring import activity, circuit, explain, heads, predict, score
from induction_lab.cli.commands.showing import explore, models, plot, report
from induction_lab.cli.commands.training import follow, sweep, train
from induction_lab.cli.shared import say
from induction_lab.runtime.progress import how_far

app = typer.Typer(
    name="induction-lab",
    help="Find induction heads: which attention heads of a model copy what followed the current token before.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _told_when_interrupted(command: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The command; where it is interrupted (Ctrl-C) it says how far it came and how to go on, and exits with 130."""

    @functools.wraps(command)
    def run(*given: Any, **options: Any) -> Any:
        try:
            return command(*given, **options)
        except KeyboardInterrupt:
            say("")
            came = f" at {came}" if (came := how_far()) else ""
            on = "What is finished is kept: the same command goes on." if name in RESUMED else "Nothing was written."
            typer.echo(f"interrupted{came}. {on}", err=True)
            raise typer.Exit(130) from None

    return run


RESUMED = ("explain", "follow", "train")  # commands that keep what they have while they run
for module in (
    score, heads, activity, predict, explore, circuit, explain, plot, models, train, follow, report, sweep,
):  # fmt: skip
    for command in module.commands.registered_commands:
        assert command.callback is not None
        command.callback = _told_when_interrupted(command.callback, command.name or command.callback.__name__)
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


UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or that of the copy which typer brings


def _say_error(message: str) -> None:
    say("")
    typer.secho(f"error: {message}", err=True, fg="red" if sys.stderr.isatty() else None)


def main() -> None:
    """Run the command; a user's mistake is one message and exit code 2, never a traceback."""
    try:
        sys.exit(app(prog_name="induction-lab", standalone_mode=False) or 0)
    except UsageError as error:  # typer draws a box around these
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
        else:
            where = error.ctx.command_path if error.ctx else "induction-lab"
            _say_error(f"{error.format_message().rstrip('.')}. See {where} --help.")
        sys.exit(2)
    except ValueError as error:
        _say_error(str(error))
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(0)
