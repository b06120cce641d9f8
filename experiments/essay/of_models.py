"""An experiment on several models: measured, or judged again from the tables that earlier runs wrote."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from experiments.essay.passages import MODELS, reading_model
from experiments.harness import begin, common_arguments, show_files
from experiments.judging import effect, told
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import load_model

__all__ = ["Least", "names", "on_models", "shown"]


class Least(NamedTuple):
    """An option for a quick look: of what, how many at least, and why."""

    of: str
    n: int
    why: str


def on_models(
    argv: list[str] | None,
    description: str | None,
    name: str,
    measured: Callable[..., list[dict[str, Any]]],
    verdicts: Callable[[pd.DataFrame], list[Verdict]],
    draw: Callable[[pd.DataFrame], Figure | dict[str, Figure]],
    *,
    least: Least | None = None,
    seed: str = "",
    reads: bool = True,
    models: Sequence[str] = MODELS,
) -> None:
    """Read the arguments, make the table, and write it, the verdicts and the figure, all of this name.

    Args:
        argv: Of the command.
        description: The experiment's docstring.
        name: Of the files.
        measured: The rows of one model; given the model, how many of `least` where there is such an option, and the
            seed where there is one.
        verdicts: From the table of all models.
        draw: The same; more than one figure by what follows the name in their files' names.
        least: An option that makes less of something; all by default.
        seed: What a seed would be of, where there is one.
        reads: Whether a model needs a tokenizer.
        models: Which it is by default.
    """
    parser = common_arguments(description)
    parser.add_argument("--models", nargs="+", default=models, help="names, Hugging Face ids or folders")
    parser.add_argument("--tables", nargs="+", type=Path, help=f"what earlier runs wrote ({name}.csv), not run again")
    if least is not None:
        parser.add_argument(f"--{least.of}", type=int, help=f"for a quick look (at least {least.n}); all by default")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help=f"of {seed}")
    args = parser.parse_args(argv)
    how = [] if least is None else [getattr(args, least.of)]
    if least is not None and how[0] is not None and how[0] < least.n:
        parser.error(f"--{least.of} must be at least {least.n}, {least.why}; got {how[0]}.")
    how += [args.seed] if seed else []
    if args.tables:
        begin(args.out)
        table = pd.concat([read_table(path) for path in args.tables], ignore_index=True)
    else:
        try:
            loaded = [reading_model(parser, each) if reads else load_model(each) for each in args.models]
            begin(args.out)
            table = pd.DataFrame([row for model in loaded for row in measured(model, *how)])
        except ValueError as error:
            parser.error(str(error))
    table.to_csv(args.out / f"{name}.csv", index=False, float_format="%.6g")
    save_verdicts(verdicts(table), args.out / f"{name}.json")
    drawn = draw(table)
    figures = {"": drawn} if isinstance(drawn, Figure) else drawn
    for suffix, figure in figures.items():
        figure.savefig(args.out / f"{name}{suffix}.png", dpi=110)
    show_files([args.out / f"{name}{end}" for end in (".csv", ".json", *(f"{suffix}.png" for suffix in figures))])


def read_table(path: Path) -> pd.DataFrame:
    """A table as it was written: where a word was left empty it is empty, and not missing."""
    table = pd.read_csv(path)
    return table.fillna(dict.fromkeys(table.select_dtypes(exclude="number").columns, ""))


def names(table: Any) -> list[str]:
    """The models of a table, in its order."""
    return list(dict.fromkeys(map(str, table["model"])))


def shown(values: Sequence[float]) -> str:
    """A mean of items with its error, as pages give it."""
    return told(effect(values))
