"""`induction-lab heads`: which kinds of heads a model has, and which head is of which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import (
    Device,
    Dtype,
    Folder,
    Format,
    Given,
    ModelName,
    Period,
    Revision,
    Seed,
    deliver,
    file_name,
    kind_names,
    load,
    look_for,
    say,
)
from induction_lab.models.named_models import BUNDLED
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab heads[/bold]   ·   "
    "[bold]induction-lab heads smollm2-135m --no-causal[/bold]   ·   "
    "[bold]induction-lab heads smollm2-135m --kinds induction,function-vector --format json[/bold]"
)
def heads(
    model: ModelName = BUNDLED,
    kinds: Annotated[str, typer.Option(help="Names separated by commas, or all.")] = "all",
    causal: Annotated[
        bool,
        typer.Option(
            help="Also the kinds that only changing each head shows: a forward pass for each and each prompt."
        ),
    ] = True,
    prompts: Annotated[int, typer.Option(help="How many prompts of repeated tokens.")] = 16,
    period: Period = None,
    seed: Seed = 0,
    figures: Annotated[bool, typer.Option(help="Draw the map too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Say of every head of MODEL which kinds it is of: induction, previous-token, retrieval, and so on."""
    if prompts < 2:
        raise ValueError(f"--prompts must be at least 2, so that there is a standard error; got {prompts}.")
    check_numbers(**{"--period": period})
    if kinds == "all":
        look_for(model)
    say("loading libraries and the model …")
    from induction_lab.circuits.kinds import classify_heads
    from induction_lab.cli.terminal_kinds import show_kinds
    from induction_lab.data.prompts import repeated_tokens

    names = kind_names(kinds, causal=causal)  # before a model is loaded
    loaded = load(model, device=device, dtype=dtype, revision=revision)
    chosen = repeated_tokens(loaded, n_prompts=prompts, period=period, seed=seed, distinct=True)
    say("")
    found = classify_heads(loaded, chosen, kinds=names, causal=causal, progress=True)
    deliver(found, out / f"{file_name(model, loaded)}_kinds", format, _picture(found) if figures else (), show_kinds)


def _picture(found: Any) -> Iterator[tuple[str, Any]]:
    from induction_lab.plots.kinds import plot_head_kinds

    yield "", plot_head_kinds(found).figure
