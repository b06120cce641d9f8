"""`induction-lab explain`: the circuit that carries copying, by ablation and path patching."""

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
    ModelName,
    Period,
    Revision,
    deliver,
    file_name,
    load,
    look_for,
    say,
)
from induction_lab.models.named_models import BUNDLED
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab explain[/bold]   ·   "
    "[bold]induction-lab explain smollm2-135m --prompts 4[/bold]   ·   "
    "[bold]induction-lab explain gpt2 --format json > gpt2.json[/bold]"
)
def explain(
    model: ModelName = BUNDLED,
    prompts: Annotated[int, typer.Option(help="How many prompts; the time grows with them.")] = 8,
    period: Period = None,
    seed: Annotated[int, typer.Option(help="Of the random tokens and the random sets of heads.")] = 0,
    bos: Bos = True,
    random_sets: Annotated[int, typer.Option("--random", help="Random sets to compare the circuit with.")] = 10,
    exact: Annotated[bool, typer.Option("--exact", help="Measure every head on all prompts, bystanders too.")] = False,
    figures: Annotated[bool, typer.Option(help="Draw the circuit too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    out: Folder = Path("results"),
    format: Annotated[
        Format,
        typer.Option(help="table: for people, with a JSON file. Else: printed for programs, and the file."),
    ] = Format.table,
) -> None:
    """Find by ablation and path patching which heads carry MODEL's copying, and test the circuit they make.

    Each head is ablated by itself, then each path to the induction heads' keys cut; of 32 or more those that
    certainly do nothing are left after few prompts (not with --exact). With 8 prompts: minutes for 135 million
    parameters. The sweep is kept in the folder; a run that was cut off goes on from there.
    """
    if random_sets < 0:
        raise ValueError(f"--random must not be negative, got {random_sets}.")
    check_numbers(**{"--prompts": prompts, "--period": period})
    look_for(model)
    say("loading libraries and the model …")
    from induction_lab.circuits.explaining import explain as explain_model
    from induction_lab.cli.terminal import show_explanation
    from induction_lab.data.prompts import repeated_tokens
    from induction_lab.models.provenance import fingerprint

    loaded = load(model, device=device, dtype=dtype, revision=revision)
    chosen = repeated_tokens(loaded, n_prompts=prompts, period=period, seed=seed, bos="model" if bos else None)
    say("")
    place = out / f"{file_name(model, loaded)}_explained"
    sweep = place.with_name(f"{place.name}_sweep_{fingerprint(loaded, chosen)}.parquet")
    found = explain_model(loaded, chosen, n_random=random_sets, seed=seed, exact=exact, path=sweep, progress=True)
    pictures = _explanation_picture(found) if figures else ()
    deliver(found, place, format, pictures, show_explanation, kept_as="json", also=[sweep])


def _explanation_picture(explanation: Any) -> Iterator[tuple[str, Any]]:
    from induction_lab.plots.effects import plot_explanation

    yield "", plot_explanation(explanation)
