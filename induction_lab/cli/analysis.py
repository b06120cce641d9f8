"""`induction-lab score`, `circuit`, `explain` and `plot`: one model, measured and drawn."""

from __future__ import annotations

import sys
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
    Offload,
    Period,
    Revision,
    deliver,
    file_name,
    save_figure,
    say,
    stem,
)
from induction_lab.data.text_files import read_text
from induction_lab.models.names import BUNDLED

analysis = typer.Typer()

Given = Annotated[
    Format, typer.Option(help="table: for people, with a CSV file. Else: printed for programs, and the file.")
]


@analysis.command(
    epilog="Examples:  [bold]induction-lab score[/bold]   ·   "
    "[bold]induction-lab score smollm2-135m --prompts 8[/bold]   ·   "
    "[bold]induction-lab score gpt2 --period 25 --repeats 4 --format json > gpt2.json[/bold]   ·   "
    "[bold]induction-lab score smollm2-135m --text essay.txt[/bold]"
)
def score(
    model: ModelName = BUNDLED,
    prompts: Annotated[int, typer.Option(help="How many prompts.")] = 16,
    period: Period = None,
    repeats: Annotated[int, typer.Option(help="Copies of the block.")] = 2,
    gap: Annotated[int, typer.Option(help="Other tokens between two copies.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    bos: Bos = True,
    scores: Annotated[
        str, typer.Option(help="Names separated by commas, module:name for one of your own; all by default.")
    ] = "",
    text: Annotated[
        Path | None, typer.Option(help="Score on this text file, not on random tokens (--period, --repeats, --gap).")
    ] = None,
    length: Annotated[int | None, typer.Option(help="With --text: longest prompt in tokens.")] = None,
    beyond_context: Annotated[
        bool, typer.Option("--beyond-context", help="Allow prompts longer than the model's context (rotary positions).")
    ] = False,
    top: Annotated[int, typer.Option(help="Heads in the second table.")] = 8,
    chance: Annotated[bool, typer.Option(help="Test heads against prompts without repeats.")] = True,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    offload: Offload = False,
    batch_size: Annotated[int | None, typer.Option(help="Prompts at a time.")] = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Score every head of MODEL on repeated random tokens, or on a text."""
    say("loading libraries and the model …")
    from induction_lab.cli.terminal import show_scores
    from induction_lab.data.prompts import repeated_tokens, text_prompts
    from induction_lab.models.loading import load_model
    from induction_lab.scores.registry import find_scores
    from induction_lab.scores.scoring import score_heads

    names = [name.strip() for name in scores.split(",") if name.strip()] or None
    find_scores(names)  # before a model is loaded
    if prompts < 1:
        raise ValueError(f"--prompts must be at least 1, got {prompts}.")
    if length is not None and text is None:
        raise ValueError("--length goes with --text; for random tokens choose --period and --repeats.")
    content = None if text is None else read_text(text)
    loaded = load_model(model, device=device, dtype=dtype, revision=revision, offload=offload)
    how: dict[str, Any] = {"n_prompts": prompts, "bos": "model" if bos else None, "beyond_context": beyond_context}
    if content is None:
        block = {"n_repeats": repeats, "gap": gap, "distinct": chance and prompts > 1}
        chosen = repeated_tokens(loaded, period=period, seed=seed, **block, **how)
    else:
        chosen = text_prompts(loaded, content, length=length, **how)
    tested = chance and len(chosen) > 1
    say("")
    found = score_heads(
        loaded, chosen, scores=names, batch_size=batch_size, chance_test=tested, progress=sys.stderr.isatty()
    )
    place = out / (file_name(model, loaded) + ("" if text is None else f"_{stem(text.stem)}"))
    deliver(
        found, place, format, _score_pictures(found) if figures else (), lambda scores: show_scores(scores, top=top)
    )


@analysis.command(
    epilog="Examples:  [bold]induction-lab circuit[/bold]   ·   "
    "[bold]induction-lab circuit smollm2-135m --top 12[/bold]   ·   "
    "[bold]induction-lab circuit gpt2 --format json > gpt2.json[/bold]"
)
def circuit(
    model: ModelName = BUNDLED,
    prompts: Annotated[int, typer.Option(help="How many prompts to see by where heads look.")] = 16,
    period: Period = None,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    bos: Bos = True,
    top: Annotated[int, typer.Option(help="Edges to list and draw.")] = 8,
    figures: Annotated[bool, typer.Option(help="Draw the circuit too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Find MODEL's most likely induction circuit: previous-token heads, through K-composition, to induction heads."""
    say("loading libraries and the model …")
    from induction_lab.circuits.search import find_circuit
    from induction_lab.cli.terminal import show_circuit
    from induction_lab.data.prompts import repeated_tokens
    from induction_lab.models.loading import load_model

    loaded = load_model(model, device=device, dtype=dtype, revision=revision)
    chosen = repeated_tokens(loaded, n_prompts=prompts, period=period, seed=seed, bos="model" if bos else None)
    say("")
    found = find_circuit(loaded, chosen, n=top, progress=sys.stderr.isatty())
    place = out / f"{file_name(model, loaded)}_circuit"
    deliver(found, place, format, _circuit_picture(found, top) if figures else (), show_circuit)


@analysis.command(
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

    Each head is ablated by itself, then each path to the induction heads' keys cut.
    With 8 prompts: a quarter of an hour for 135 million parameters on 2 CPU cores.
    The sweep is kept in the folder; a run that was cut off goes on from there.
    """
    say("loading libraries and the model …")
    from induction_lab.circuits.explaining import explain as explain_model
    from induction_lab.cli.terminal import show_explanation
    from induction_lab.data.prompts import repeated_tokens
    from induction_lab.models.loading import load_model
    from induction_lab.models.provenance import fingerprint

    if random_sets < 0:
        raise ValueError(f"--random must not be negative, got {random_sets}.")
    loaded = load_model(model, device=device, dtype=dtype, revision=revision)
    chosen = repeated_tokens(loaded, n_prompts=prompts, period=period, seed=seed, bos="model" if bos else None)
    say("")
    place = out / f"{file_name(model, loaded)}_explained"
    sweep = place.with_name(f"{place.name}_sweep_{fingerprint(loaded, chosen)}.parquet")
    found = explain_model(loaded, chosen, n_random=random_sets, seed=seed, path=sweep, progress=sys.stderr.isatty())
    pictures = _explanation_picture(found) if figures else ()
    deliver(found, place, format, pictures, show_explanation, kept_as="json", also=[sweep])


@analysis.command(
    epilog="Examples:  [bold]induction-lab plot results/induction-2l.csv[/bold]   ·   "
    "[bold]induction-lab plot results/gpt2.parquet --score prefix_matching -o prefix.svg[/bold]"
)
def plot(
    file: Annotated[Path, typer.Argument(help="Scores that `induction-lab score` wrote: .csv, .json or .parquet.")],
    score: Annotated[str, typer.Option(help="One score; all on one sheet by default.")] = "",
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Against the layer, with standard errors.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help=".png, .svg or .pdf; beside FILE by default.")] = None,
) -> None:
    """Draw saved scores as heatmaps (layers down, heads across), or against the layer."""
    from induction_lab.cli.terminal import show_files
    from induction_lab.scores.results import HeadScores

    scores = HeadScores.load(file)
    if by_layer and not score:
        score = "prefix_matching" if "prefix_matching" in scores.scores else scores.scores[0]
    if score:
        scores[score]
    suffix = f"_{score or 'scores'}{'_by_layer' if by_layer else ''}.png"
    path = out or file.with_name(file.stem + suffix)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"Figures are written as .png, .svg or .pdf, got {path.name!r}.")
    from induction_lab import plots

    if by_layer:
        figure = plots.plot_score_by_layer(scores, score).figure
    else:
        figure = plots.plot_head_scores(scores, score).figure if score else plots.plot_all_scores(scores)
    show_files([save_figure(figure, path)])


def _score_pictures(scores: Any) -> Iterator[tuple[str, Any]]:
    """Figures of head scores, and the ends of their files' names."""
    from induction_lab import plots

    yield "_scores", plots.plot_all_scores(scores)
    best = "prefix_matching" if "prefix_matching" in scores.scores else scores.scores[0]
    yield f"_{best}_by_layer", plots.plot_score_by_layer(scores, best).figure
    if scores.loss:
        yield "_loss", plots.plot_loss(scores).figure


def _circuit_picture(circuit: Any, edges: int) -> Iterator[tuple[str, Any]]:
    from induction_lab.plots.circuits import plot_circuit

    yield "", plot_circuit(circuit, edges=edges).figure


def _explanation_picture(explanation: Any) -> Iterator[tuple[str, Any]]:
    from induction_lab.plots.effects import plot_explanation

    yield "", plot_explanation(explanation)
