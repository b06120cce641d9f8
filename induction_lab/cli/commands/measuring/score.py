"""`induction-lab score`: every head of a model, on repeated random tokens or on a text."""

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
    Offload,
    Period,
    Revision,
    Seed,
    deliver,
    file_name,
    say,
    text_of,
)
from induction_lab.models.named_models import BUNDLED

commands = typer.Typer()


@commands.command(
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
    seed: Seed = 0,
    bos: Bos = True,
    scores: Annotated[
        str, typer.Option(help="Names separated by commas, module:name for one of your own; all by default.")
    ] = "",
    text: Annotated[
        str | None,
        typer.Option(help="Score on this text, or text file, not on random tokens (--period, --repeats, --gap)."),
    ] = None,
    length: Annotated[int | None, typer.Option(help="With --text: longest prompt in tokens.")] = None,
    beyond_context: Annotated[
        bool, typer.Option("--beyond-context", help="Allow prompts longer than the model's context (rotary positions).")
    ] = False,
    weigh: Annotated[
        str | None, typer.Option(help="values: attention counts by the size of what it moves.", show_default=False)
    ] = None,
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
    from induction_lab.data.prompts import check_numbers, repeated_tokens, text_prompts
    from induction_lab.models.loading import load_model
    from induction_lab.scores.registry import find_scores
    from induction_lab.scores.scoring import score_heads
    from induction_lab.scores.weighed import check_weighing

    names = [name.strip() for name in scores.split(",") if name.strip()] or None
    find_scores(names)  # before a model is loaded
    check_weighing(weigh)
    check_numbers(
        **{"--prompts": prompts}, period=period, n_repeats=repeats, gap=gap, length=length, batch_size=batch_size
    )
    if length is not None and text is None:
        raise ValueError("--length goes with --text; for random tokens choose --period and --repeats.")
    content = text_of(text)
    loaded = load_model(model, device=device, dtype=dtype, revision=revision, offload=offload)
    how: dict[str, Any] = {"n_prompts": prompts, "bos": "model" if bos else None, "beyond_context": beyond_context}
    if content is None:
        block = {"n_repeats": repeats, "gap": gap, "distinct": chance and prompts > 1}
        chosen = repeated_tokens(loaded, period=period, seed=seed, **block, **how)
    else:
        chosen = text_prompts(loaded, content[1], length=length, **how)
    tested = chance and len(chosen) > 1
    say("")
    how = {"batch_size": batch_size, "chance_test": tested, "progress": True}
    found = score_heads(loaded, chosen, scores=names, weigh=weigh, **how)
    about = ("" if content is None else f"_{content[0]}") + ("" if weigh is None else f"_by_{weigh}")
    place = out / (file_name(model, loaded) + about)
    deliver(
        found, place, format, _score_pictures(found) if figures else (), lambda scores: show_scores(scores, top=top)
    )


def _score_pictures(scores: Any) -> Iterator[tuple[str, Any]]:
    """Figures of head scores, and the ends of their files' names."""
    from induction_lab import plots

    yield "_scores", plots.plot_all_scores(scores)
    best = "prefix_matching" if "prefix_matching" in scores.scores else scores.scores[0]
    yield f"_{best}_by_layer", plots.plot_score_by_layer(scores, best).figure
    if scores.loss:
        yield "_loss", plots.plot_loss(scores).figure
