"""`induction-lab predict`: the likeliest next tokens behind each token of a text, with and without some heads."""

from __future__ import annotations

from typing import Annotated

import typer

from induction_lab.cli.shared import Device, Dtype, ModelName, Revision, load, look_for, say, text_of, whole_numbers

commands = typer.Typer()


@commands.command(
    epilog='Examples:  [bold]induction-lab predict smollm2-135m "one two three one two"[/bold]   ·   '
    '[bold]induction-lab predict smollm2-135m "one two three one two" --without L18H6,L17H3[/bold]   ·   '
    "[bold]induction-lab predict smollm2-135m letter.txt --without L18H6 --position -1[/bold]"
)
def predict(
    model: ModelName,
    text: Annotated[str, typer.Argument(help="A text, or a text file.")],
    k: Annotated[int, typer.Option("--k", help="How many next tokens at each position.")] = 5,
    without: Annotated[str, typer.Option(help="Heads to replace by their means, e.g. L18H6,L17H3.")] = "",
    position: Annotated[
        str,
        typer.Option(help="Behind which tokens, e.g. 12 or 0,12,-1 (-1: the last); each by default."),
    ] = "",
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
) -> None:
    """Show what MODEL takes for likeliest behind each token of TEXT, with and without some of its heads."""
    given = text_of(text)
    assert given is not None  # an argument, not an option
    at = whole_numbers(position, "--position", negative=True) or None
    look_for(model)
    say("loading libraries and the model …")
    from induction_lab.attribution.predictions import predict as predict_text
    from induction_lab.cli.terminal_kinds import show_predictions
    from induction_lab.results.heads import parse_heads

    heads = parse_heads(without) if without else None
    loaded = load(model, device=device, dtype=dtype, revision=revision)
    found = predict_text(loaded, given[1], k, without=heads, positions=at)
    say("")
    show_predictions(loaded.name, found, ", ".join(map(str, heads or ())))
