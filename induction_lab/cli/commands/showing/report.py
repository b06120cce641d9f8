"""The command `induction-lab report`: one page to look at what was found in a model, or in several."""

from __future__ import annotations

import re
import shlex
import sys
import webbrowser
from html import unescape
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import (
    Device,
    Dtype,
    Revision,
    Spread,
    Stage,
    Steps,
    file_name,
    look_for,
    say,
    text_of,
    whole_numbers,
    writable,
)
from induction_lab.models.named_models import BUNDLED
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab report[/bold]   ·   "
    "[bold]induction-lab report smollm2-135m -o smollm2.html --open[/bold]   ·   "
    "[bold]induction-lab report runs/minute gpt2 -o both.html[/bold]   ·   "
    "[bold]induction-lab report gpt2 --explanation results/gpt2_explained.json --text essay.txt[/bold]   ·   "
    "[bold]induction-lab report EleutherAI/pythia-70m --steps 0,512,1000,143000[/bold]"
)
def report(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"{BUNDLED} (by default), smollm2-135m, Hugging Face ids, folders, .gguf files, runs, checkpoints."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", callback=writable, help="The page, an .html file; report.html unless that is of others."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(help="How many prompts to score on.")] = 16,
    period: Annotated[
        int | None, typer.Option(help="Tokens of the block, which is written twice; 50, fewer where there is no room.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the random tokens.")] = 0,
    text: Annotated[
        str | None, typer.Option(help="Show what heads look at in the beginning of this text, or text file.")
    ] = None,
    all_heads: Annotated[bool, typer.Option("--all-heads", help="Show every head in full, not the best 24.")] = False,
    all_kinds: Annotated[
        bool, typer.Option("--all-kinds", help="Look for all kinds of heads; takes long. See induction-lab heads.")
    ] = False,
    ablate: Annotated[bool, typer.Option(help="Ablate the heads that are shown in full.")] = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also ablate every head and patch paths; takes long.")
    ] = False,
    explanation: Annotated[
        list[Path] | None, typer.Option(help="Take causes from a file that `induction-lab explain` wrote.")
    ] = None,
    training: Annotated[
        list[Path] | None,
        typer.Option(help="Take the training history from a table that `induction-lab follow` wrote."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    steps: Steps = "",
    n: Spread = None,
    stage: Stage = None,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
) -> None:
    """Write one HTML file, to open anywhere, in which to explore what was found.

    The map of all heads; each head's attention, profiles, eigenvalues, partners and effects; which heads are of which
    kinds; the circuit; the training history of run folders; several models side by side; and what was measured, with
    the tables to download.
    """
    check_numbers(**{"--prompts": prompts, "--period": period})
    content = text_of(text)
    asked = whole_numbers(steps, "--steps")
    look_for(*(models or ()), files=[*(explanation or ()), *(training or ())])
    say("loading libraries and models …")
    from induction_lab.circuits.explanation import Explanation
    from induction_lab.cli.lists import show_files, show_line
    from induction_lab.development.trajectory import Trajectory
    from induction_lab.models.hooked_model import HookedModel
    from induction_lab.pages.html import check_libraries
    from induction_lab.pages.report import write_report
    from induction_lab.training.checkpoints import open_by_name

    check_libraries()
    explained = [Explanation.load(path) for path in explanation or []]
    followed = [Trajectory.load(path) for path in training or []]
    names = models or [BUNDLED]
    how: Any = {"n": n, "stage": stage, "revision": revision, "device": device, "dtype": dtype}
    shown = [open_by_name(name, asked, **how) for name in names]
    if (asked or n is not None) and all(isinstance(each, HookedModel) for each in shown):
        raise ValueError(f"--steps and --n are for training runs and Hugging Face ids, got {', '.join(names)}.")
    say("")
    path = write_report(
        shown,
        out or _own_page(names, shown),
        period=period,
        n_prompts=prompts,
        seed=seed,
        text=None if content is None else content[1],
        all_heads=all_heads,
        all_kinds=all_kinds,
        ablate=ablate,
        with_explanation=explain,
        explanations={found.model: found for found in explained},
        trajectories={run: found.run(run) for found in followed for run in found.runs},
        command=shlex.join(["induction-lab", *sys.argv[1:]]),
        progress=True,
    )
    for headline in _headlines(path.read_text(encoding="utf-8")):
        show_line(headline)
    show_files([path])
    if open_:
        webbrowser.open(path.resolve().as_uri())


def _headlines(page: str) -> list[str]:
    """What a page says first of each model, without its marks."""
    leads = re.findall(r'<p class="lead">(.*?)</p>', page, re.DOTALL)
    return [" ".join(unescape(re.sub(r"<[^>]+>", "", lead)).split()) for lead in leads]


def _own_page(names: list[str], shown: list[Any]) -> Path:
    """`report.html`, or where that is a page on other models one named after these."""
    from induction_lab.models.hooked_model import HookedModel
    from induction_lab.models.provenance import weights_sha256

    page = Path("report.html")
    if not page.is_file():
        return page
    models = [each if isinstance(each, HookedModel) else each.model(max(each.steps)) for each in shown]
    marks = [weights_sha256(model)[:16] for model in models]
    if (
        re.findall(r"<dt>Weights</dt><dd><code>(\w+)</code>", page.read_text(encoding="utf-8", errors="replace"))
        == marks
    ):
        return page
    called = "_".join(file_name(name, model) for name, model in zip(names, models, strict=True))
    beside = page.with_name(f"report_{called}_{'_'.join(mark[:8] for mark in marks)}.html")
    typer.echo(f"{page} is of other models and is kept; this page is {beside}.", err=True)
    return beside
