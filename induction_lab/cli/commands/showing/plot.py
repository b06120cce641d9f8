"""`induction-lab plot`: saved scores, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from induction_lab.cli.shared import look_for, own_place, save_figure, writable

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab plot results/induction-2l.csv[/bold]   ·   "
    "[bold]induction-lab plot results/gpt2.parquet --score prefix_matching -o prefix.svg[/bold]"
)
def plot(
    file: Annotated[Path, typer.Argument(help="Scores that `induction-lab score` wrote: .csv, .json or .parquet.")],
    score: Annotated[str, typer.Option(help="One score; all on one sheet by default.")] = "",
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Against the layer, with standard errors.")] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", callback=writable, help=".png, .svg or .pdf; beside FILE by default."),
    ] = None,
) -> None:
    """Draw saved scores as heatmaps (layers down, heads across), or against the layer."""
    look_for(files=[file])
    from induction_lab.cli.lists import show_files
    from induction_lab.results.tables import facts_of
    from induction_lab.scores.results import HeadScores

    scores = HeadScores.load(file)
    if by_layer and not score:
        score = "prefix_matching" if "prefix_matching" in scores.scores else scores.scores[0]
    if score:
        scores[score]
    suffix = f"_{score or 'scores'}{'_by_layer' if by_layer else ''}.png"
    if out is None:  # where the table of another model has the same name and another format, its figures have too
        beside = own_place(file.with_suffix(""), facts_of(file))
        out = beside.with_name(beside.name + suffix)
    if out.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"Figures are written as .png, .svg or .pdf, got {out.name!r}.")
    from induction_lab import plots

    if by_layer:
        figure = plots.plot_score_by_layer(scores, score).figure
    else:
        figure = plots.plot_head_scores(scores, score).figure if score else plots.plot_all_scores(scores)
    show_files([save_figure(figure, out)])
