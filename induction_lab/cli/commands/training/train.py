"""`induction-lab train`: small models from recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from induction_lab.cli.shared import say, stem, writable
from induction_lab.training.ready_recipes import recipe_file

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab train[/bold]   ·   [bold]induction-lab train minute[/bold]   ·   "
    "[bold]induction-lab train minute --seeds 5 --workers 2[/bold]   ·   "
    "[bold]induction-lab train minute --every 10[/bold]   ·   "
    "[bold]induction-lab train my.toml --steps 200 --plot[/bold]"
)
def train(
    config: Annotated[
        str | None, typer.Argument(help="A ready recipe's name or a TOML file; none: lists them.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Train so many runs, with seeds 0, 1, 2, ….")] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, in place of the recipe's.")] = None,
    every: Annotated[
        int | None,
        typer.Option(help="Steps between checkpoints, after 0, 1, 2, 4, … below it, in place of the recipe's."),
    ] = None,
    out: Annotated[Path, typer.Option(callback=writable, help="Folder for the runs' folders.")] = Path("runs"),
    workers: Annotated[int | None, typer.Option(help="With --seeds, on a CPU: processes at once.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; a GPU by default if there is one.")] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the loss at every checkpoint (one run).")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the ready recipes.")] = False,
) -> None:
    """Train a small model as CONFIG says, or several that differ in their seed.

    A run that was cut off goes on when the same command is given again.
    """
    if config is None or list_:
        from induction_lab.cli.lists import show_recipes

        show_recipes()
        return
    recipe_file(config)  # before libraries are loaded
    say("loading libraries …")
    from induction_lab.cli.terminal import show_runs
    from induction_lab.runtime.machine import find_device
    from induction_lab.training.many_runs import over_seeds, train_runs
    from induction_lab.training.one_run import train_run
    from induction_lab.training.recipes import load_recipe

    if seeds is None and workers is not None:
        raise ValueError("--workers goes with --seeds: one run is one process.")
    if seeds is not None and plot:
        raise ValueError("--plot goes with one run; follow several to draw them: induction-lab follow RUN RUN ….")
    changes = {name: value for name, value in (("steps", steps), ("every", every)) if value is not None}
    recipe = load_recipe(config, **changes)
    own = ("" if steps is None else f"-{steps}", "" if every is None else f"-every{every}")
    name = stem(Path(config).stem) + "".join(own)
    found = find_device(device)
    say("")
    if seeds is None:
        runs = [train_run(recipe, out / name, device=found, plot=plot, progress=True)]
    else:
        several = over_seeds(recipe, seeds, name=f"{name}-seed")
        runs = list(train_runs(several, out, workers=workers, device=found, progress=True).values())
    show_runs(runs)
