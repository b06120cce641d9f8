"""`induction-lab circuit`: the likeliest induction circuit, from weights and where heads look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import (
    Bos,
    Device,
    Dtype,
    Folder,
    Format,
    Given,
    ModelName,
    Period,
    Revision,
    Seed,
    Text,
    deliver,
    file_name,
    load,
    look_for,
    say,
    text_of,
)
from induction_lab.models.named_models import BUNDLED
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab circuit[/bold]   ·   "
    "[bold]induction-lab circuit smollm2-135m --top 12[/bold]   ·   "
    "[bold]induction-lab circuit gpt2 --format json > gpt2.json[/bold]"
)
def circuit(
    model: ModelName = BUNDLED,
    prompts: Annotated[int, typer.Option(help="How many prompts to see by where heads look.")] = 16,
    period: Period = None,
    seed: Seed = 0,
    bos: Bos = True,
    text: Text = None,
    top: Annotated[int, typer.Option(help="Edges to list and draw.")] = 8,
    figures: Annotated[bool, typer.Option(help="Draw the circuit too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Find MODEL's most likely induction circuit: previous-token heads, through K-composition, to induction heads."""
    check_numbers(**{"--prompts": prompts, "--period": period, "--top": top})
    content = text_of(text)
    look_for(model)
    say("loading libraries and the model …")
    from induction_lab.circuits.search import find_circuit
    from induction_lab.cli.terminal import show_circuit
    from induction_lab.data.prompts import repeated_tokens, text_prompts

    loaded = load(model, device=device, dtype=dtype, revision=revision)
    how: Any = {"n_prompts": prompts, "bos": "model" if bos else None}
    if content is None:
        chosen = repeated_tokens(loaded, period=period, seed=seed, **how)
    else:
        chosen = text_prompts(loaded, content[1], **how)
    say("")
    found = find_circuit(loaded, chosen, n=top, progress=True)
    place = out / (f"{file_name(model, loaded)}_circuit" + ("" if content is None else f"_{content[0]}"))
    deliver(found, place, format, _circuit_picture(found, top) if figures else (), show_circuit)


def _circuit_picture(circuit: Any, edges: int) -> Iterator[tuple[str, Any]]:
    from induction_lab.plots.circuits import plot_circuit

    yield "", plot_circuit(circuit, edges=edges).figure
