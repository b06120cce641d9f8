"""The command `induction-lab explore`: a page on which a model answers, served on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from induction_lab.cli.shared import Device, Dtype, Revision, Stage, Steps, look_for, say, whole_numbers
from induction_lab.models.named_models import BUNDLED

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab explore[/bold]   ·   "
    '[bold]induction-lab explore smollm2-135m --text "one two three one two"[/bold]   ·   '
    "[bold]induction-lab explore runs/minute[/bold]"
)
def explore(
    models: Annotated[
        list[str] | None,
        typer.Argument(help=f"{BUNDLED} (by default), smollm2-135m, Hugging Face ids, folders, .gguf files, runs."),
    ] = None,
    text: Annotated[str, typer.Option(help="What stands on the page at first.")] = "",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the address; 0: any that is free.")] = 0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on. On any other, everybody who can reach it can use the page."),
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
    steps: Steps = "",
    stage: Stage = None,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
) -> None:
    """Type, look at what each head does with the text, knock heads out, and see at once what MODEL says then.

    The page is served on this machine until Ctrl-C. Runs have their checkpoints on a slider. Guided tours, in English
    and Chinese, show what an induction head does and how to find what feeds it.
    """
    from induction_lab.runtime.optional import library

    for needed in ("starlette", "uvicorn"):
        library(needed, extra="explore")
    asked = whole_numbers(steps, "--steps")
    look_for(*(models or ()))
    say("loading libraries and models …")
    from induction_lab.pages.live.explore import LOCAL, Explorer, open_page
    from induction_lab.pages.live.shelf import Shelf
    from induction_lab.training.checkpoints import open_by_name

    how: Any = {"stage": stage, "revision": revision, "device": device, "dtype": dtype}
    shelf = Shelf(open_by_name(name, asked, **how) for name in models or [BUNDLED])
    served = Explorer(shelf, text or None, host=host, port=port)
    say("")
    if host not in LOCAL:
        typer.echo(f"Whoever can reach {host} and knows the address can use the page.", err=True)
    open_page(served, browser, typer.echo)
    typer.echo("\nThe page is no longer served.", err=True)
