"""`induction-lab activity`: one text, token by token: what comes from context, by which heads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from induction_lab.cli.shared import (
    Device,
    Dtype,
    Folder,
    Format,
    Given,
    ModelName,
    Revision,
    Text,
    deliver,
    file_name,
    load,
    look_for,
    say,
    text_of,
    writable,
)
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog='Examples:  [bold]induction-lab activity smollm2-135m --text "one two three one two"[/bold]   ·   '
    "[bold]induction-lab activity smollm2-135m --text letter.txt --heads L18H6,L17H3[/bold]   ·   "
    "[bold]induction-lab activity smollm2-135m --text letter.txt --html letter.html[/bold]"
)
def activity(
    model: ModelName = "smollm2-135m",
    text: Text = None,
    heads: Annotated[str, typer.Option(help="Which heads; all induction heads by default.")] = "",
    random_sets: Annotated[int, typer.Option("--random", help="Random sets of heads to compare them with.")] = 10,
    seed: Annotated[int, typer.Option(help="Of the random sets.")] = 0,
    html: Annotated[
        Path | None, typer.Option(callback=writable, help="Also a page to explore, .html.", show_default=False)
    ] = None,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Show how much of each prediction of a text MODEL's induction heads carry, and which of them are awake."""
    given = text_of(text)
    if given is None:
        raise ValueError('A text is wanted: --text "one two three one two", or --text letter.txt.')
    check_numbers(least=0, **{"--random": random_sets})
    look_for(model)
    say("loading libraries and the model …")
    from induction_lab.attribution.one_text import induction_activity
    from induction_lab.cli.terminal_kinds import show_activity
    from induction_lab.pages.activity import SAID, write_activity
    from induction_lab.pages.html import check_page

    page = None if html is None else check_page(html, SAID)
    loaded = load(model, device=device, dtype=dtype, revision=revision)
    say("looking at the text …")
    found = induction_activity(loaded, given[1], heads or None, n_random=random_sets, seed=seed, progress=True)
    say("")
    also = [] if page is None else [write_activity(found, page)]
    deliver(found, out / f"{file_name(model, loaded)}_activity", format, (), show_activity, also=also)
