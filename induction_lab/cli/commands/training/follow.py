"""`induction-lab follow`: every checkpoint of a training run, measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import (
    Folder,
    Spread,
    Stage,
    Steps,
    kind_names,
    save_figure,
    say,
    stem,
    text_of,
    whole_numbers,
)
from induction_lab.runtime.nearest import did_you_mean, names_in_short

commands = typer.Typer()
TEXT_SEED = 2_000_000_011  # no run trains with it, so texts to measure on are not those it begins with


@commands.command(
    epilog="Examples:  [bold]induction-lab follow runs/minute[/bold]   ·   "
    "[bold]induction-lab follow runs/minute-seed* --no-animation[/bold]   ·   "
    "[bold]induction-lab follow runs/minute --kinds all[/bold]   ·   "
    "[bold]induction-lab follow out/my-gpt2[/bold]   ·   "
    "[bold]induction-lab follow EleutherAI/pythia-70m --steps 0,512,1000,143000 --text essay.txt[/bold]   ·   "
    "[bold]induction-lab follow allenai/OLMo-2-0425-1B --n 12[/bold]"
)
def follow(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Run folders, folders of checkpoint-*, Hugging Face ids with --steps or --n."),
    ] = None,
    out: Folder = Path("results"),
    score: Annotated[str, typer.Option(help="Of heads: for table, figure and animation.")] = "prefix_matching",
    steps: Steps = "",
    n: Spread = None,
    stage: Stage = None,
    texts: Annotated[int, typer.Option(help="Texts to measure losses on, drawn as the run's own data.")] = 128,
    text: Annotated[str | None, typer.Option(help="Measure losses on this text, or text file, instead.")] = None,
    probes: Annotated[bool, typer.Option(help="Measure what weights alone say, too.")] = True,
    kinds: Annotated[
        str, typer.Option(help="Also in which order kinds of heads appear: all, or names separated by commas.")
    ] = "",
    causal: Annotated[
        bool, typer.Option(help="Also the kinds that only changing each head shows: slow, at every checkpoint.")
    ] = True,
    animation: Annotated[bool, typer.Option(help="Animate all heads (GIF).")] = True,
    device: Annotated[str | None, typer.Option(help="Of a Hugging Face model: cpu, cuda, ….")] = None,
) -> None:
    """Measure every checkpoint of training runs alike: when did induction heads form?

    The tables are kept in the folder; what they hold is not measured again.
    """
    say("loading libraries …")
    from induction_lab.circuits.kinds import check_kinds
    from induction_lab.cli.lists import show_files
    from induction_lab.cli.terminal import show_trajectory
    from induction_lab.development.following import follow_training
    from induction_lab.scores.registry import SCORES
    from induction_lab.training.checkpoints import choose_steps
    from induction_lab.weights.probes_over_training import PROBES

    if not runs:
        raise ValueError(f"Which run? {_runs_here()}")
    there = (*SCORES, *(PROBES if probes else ()))
    if score not in there:
        raise ValueError(
            f"There is no score {score!r} here; there are {names_in_short(there)}.{did_you_mean(score, there)}"
        )
    if texts < 2:
        raise ValueError(f"--texts must be at least 2, got {texts}.")
    asked, of_kinds = whole_numbers(steps, "--steps"), kind_names(kinds, causal=causal) if kinds else []
    content = text_of(text)
    sources = [_checkpoints(name, asked, n, stage, device) for name in runs]
    places = _places(sources, out)
    for source in sources if of_kinds else ():  # before anything is measured
        if at_hand := [step for step in source.steps if not asked or step in asked]:
            check_kinds(source.model(min(at_hand)), of_kinds)
    found, drawn = [], []
    for source, place in zip(sources, places, strict=True):
        say(f"{source.name}: drawing texts …")
        given = _texts(source, texts, None if content is None else content[1])
        say("")
        chosen = asked if n is None else choose_steps(source.name, source.steps, asked, n=n)
        measured: Any = {"texts": given, "probes": PROBES if probes else (), "steps": chosen or None}
        followed = follow_training(source, **measured, path=place, progress=True)
        found.append(followed)
        show_trajectory(followed, score)
        if of_kinds:
            drawn += _follow_kinds(source, of_kinds, chosen, place)
    written = [*places, *drawn]
    say("drawing …")
    for followed, place in zip(found, places, strict=True):
        written += _draw(followed, found, place, score, animation)
    say("")
    show_files(written)


def _checkpoints(name: str, steps: list[int], n: int | None, stage: str | None, device: str | None) -> Any:
    """The training of that name; of a Hugging Face model the steps are asked for, and there may be many."""
    from induction_lab.training.checkpoints import Revisions, find_checkpoints, steps_in_words, why_no_training

    found = find_checkpoints(name, steps, n=n, stage=stage, device=device)
    if found is not None:
        return found
    if why := why_no_training(name):
        raise ValueError(f"{why} {_runs_here(name)}")
    try:
        there = list(Revisions(name, stage=stage).there)
    except ValueError as error:
        raise ValueError(
            f"{name} is no training run. {_runs_here(name)} Or give a folder of checkpoint folders or a Hugging Face "
            f"id that publishes checkpoints."
        ) from error
    raise ValueError(
        f"{name} has {len(there)} checkpoints: {steps_in_words(there)}. Say which: induction-lab follow {name} "
        f"--steps {there[0]},{there[-1]}; or how many, evenly through them: --n {min(12, len(there))}."
    )


def _runs_here(name: str = "") -> str:
    """Which runs lie in the folder of that name's, or where `train` puts them."""
    from induction_lab.training.checkpoints import find_checkpoints

    runs = []
    for folder in dict.fromkeys((Path(name).parent, Path("runs")) if name else (Path("runs"),)):
        for path in sorted(each for each in folder.glob("*") if each.is_dir()):
            try:
                runs += [str(path)] if find_checkpoints(str(path), []) is not None else []
            except ValueError:  # a folder of something else
                continue
    if not runs:
        return "Train one: induction-lab train minute."
    return f"Here are {', '.join(runs[:8])}{', …' if runs[8:] else ''}.{did_you_mean(name, runs)}"


def _follow_kinds(source: Any, kinds: list[str], steps: list[int], place: Path) -> list[Path]:
    """Measure kinds of heads at the checkpoints, in a table of its own, and draw them."""
    from induction_lab.cli.terminal_kinds import show_order
    from induction_lab.development.following import follow_training
    from induction_lab.plots.kinds import plot_kinds_over_training

    path = place.with_name(place.name.replace("_training.parquet", "_kinds.parquet"))
    how: Any = {"prompts": {}, "scores": (), "probes": (), "kinds": kinds, "steps": steps or None}
    followed = follow_training(source, **how, path=path, progress=True)
    show_order(followed)
    return [path, save_figure(plot_kinds_over_training(followed), path.with_suffix(".png"))]


def _places(sources: list[Any], out: Path) -> list[Path]:
    """Where each run's table is; a run whose name, or table, is another's is called after the folders it is in, too.

    Raises:
        ValueError: If two are the same run.
    """
    above = [s.folder.resolve().parent.parts[:0:-1] if hasattr(s, "folder") else () for s in sources]
    parts = [(source.name, *folders) for source, folders in zip(sources, above, strict=True)]
    used = [1] * len(sources)
    while True:
        names = ["_".join(reversed(each[:n])) for each, n in zip(parts, used, strict=True)]
        places = [out / f"{stem(name)}_training.parquet" for name in names]
        taken = [places.count(p) > 1 or _is_of_another(p, s) for p, s in zip(places, sources, strict=True)]
        longer = [i for i, each in enumerate(parts) if taken[i] and used[i] < len(each)]
        if any(taken) and not longer:
            raise ValueError(f"Runs of different names are wanted, got {', '.join(each[0] for each in parts)}.")
        if not longer:
            break
        for i in longer:
            used[i] += 1
    for source, name in zip(sources, names, strict=True):
        if source.name != name:
            say("")
            typer.echo(f"{source.name} is the name of another run too; this one is called {name}.", err=True)
            source.name = name
    return places


def _is_of_another(place: Path, source: Any) -> bool:
    """Whether a table is there of a run that has other weights at the same step."""
    from induction_lab.models.provenance import weights_sha256
    from induction_lab.results.tables import facts_of

    known = facts_of(place).get("provenance", {}).get("weights_sha256", {}) if place.is_file() else {}
    both = [step for step in source.steps if str(step) in known]
    return bool(both) and weights_sha256(source.model(both[0])) != known[str(both[0])]


def _texts(source: Any, n_texts: int, text: str | None) -> Any:
    """The text that was given, or texts like the run's own data: of those held out, where they are text."""
    import torch

    from induction_lab.data.prompts import Prompts, text_prompts
    from induction_lab.training.runs import Run

    if text is not None:
        if not source.steps:
            raise ValueError(f"{source.name} has no checkpoint yet.")
        return text_prompts(source.model(min(source.steps)), text, n_prompts=n_texts)
    if not isinstance(source, Run):
        return None
    n_ctx, stream = source.recipe.model.n_ctx, source.stream()
    generator = torch.Generator().manual_seed(TEXT_SEED)
    held_out = getattr(stream, "held_out", ())
    part: Any = {"held_out": True} if len(held_out) >= n_ctx else {}
    return Prompts(stream.draw(generator, n_prompts=n_texts, n_ctx=n_ctx, **part), seed=TEXT_SEED)


def _draw(followed: Any, all_followed: list[Any], place: Path, score: str, animation: bool) -> list[Path]:
    """The six panels, and the heads as they form."""
    import matplotlib.pyplot as plt

    from induction_lab.development.loss_space import loss_paths
    from induction_lab.plots.animations import animate_heads, save_animation
    from induction_lab.plots.training_sheets import plot_model_analysis

    try:
        paths = loss_paths(all_followed)
    except ValueError:  # of other texts, or too few checkpoints: each by itself
        paths = None
    figure = plot_model_analysis(followed, metric=score, paths=paths)
    written = [save_figure(figure, place.with_suffix(".png"))]
    if animation and len(followed.steps) > 1:
        name = place.name.replace("_training.parquet", f"_{score}.gif")
        written.append(save_animation(animate_heads(followed, score), place.with_name(name)))
        plt.close("all")
    return written
