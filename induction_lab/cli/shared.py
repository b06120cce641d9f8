"""What the commands share: arguments, names of files, figures to disk, words on a terminal."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.data.text_files import SUFFIXES, read_text
from induction_lab.models.named_models import BUNDLED
from induction_lab.models.store import locate
from induction_lab.runtime.dtypes import DTYPES

ModelName = Annotated[
    str,
    typer.Argument(
        help=f"{BUNDLED}, smollm2-135m, gemma3-270m, a Hugging Face id, a folder, a training run or a .gguf file."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help=f"{', '.join(DTYPES)} or auto.")]
Revision = Annotated[str | None, typer.Option(help="Of a Hugging Face model, e.g. step1000.")]
Steps = Annotated[
    str, typer.Option(help="Checkpoints, by their steps, separated by commas; of runs and folders all by default.")
]
Spread = Annotated[int | None, typer.Option("--n", help="So many checkpoints instead, evenly through all there are.")]
Stage = Annotated[str | None, typer.Option(help="Of training, where checkpoints name several; pretraining by default.")]
Period = Annotated[
    int | None, typer.Option(help="Tokens of the repeated block; 50, fewer where there is no room.", show_default=False)
]
Seed = Annotated[int, typer.Option(help="Of the random tokens.")]
Bos = Annotated[bool, typer.Option("--bos/--no-bos", help="Begin prompts with BOS, or with the first token.")]
Offload = Annotated[
    bool, typer.Option("--offload", help="Leave weights on disk, read block by block: for models larger than memory.")
]
Text = Annotated[str | None, typer.Option(help="A text, or a text file.", show_default=False)]


def look_for(*names: str, files: Iterable[Path] = ()) -> None:
    """Refuse, before libraries are loaded, names that no model can have, and files that are not there.

    Raises:
        ValueError: If there is one.
    """
    for file in files:
        if not file.exists():
            raise ValueError(f"There is no file {file}.")
    for name in names:
        if not name.strip():
            raise ValueError(f"A model is wanted, got {name!r}: {BUNDLED}, a Hugging Face id, a folder, a .gguf file.")
        if not Path(name).expanduser().is_dir():  # which may be a training run
            locate(name)


def load(name: str, *, offload: bool = False, **where: Any) -> Any:
    """The model of that name; of a training run, or a folder of checkpoints alone, the last there is.

    Raises:
        ValueError: If there is no such model, or no checkpoint yet.
    """
    from induction_lab.models.hooked_model import HookedModel
    from induction_lab.models.loading import load_model
    from induction_lab.training.checkpoints import open_by_name

    if offload:
        return load_model(name, offload=True, **where)
    found = open_by_name(name, **where)
    if isinstance(found, HookedModel):
        return found
    if not found.steps:
        raise ValueError(f"{name} has no checkpoint yet.")
    return found.model(max(found.steps))


def writable(place: Path | None) -> Path | None:
    """A file or folder that results are to be written to, looked at before anything is computed; none is made.

    Raises:
        ValueError: If it cannot be written.
    """
    if place is None:
        return None
    here = place.expanduser().absolute()
    there = next(each for each in (here, *here.parents) if os.path.lexists(each))
    why = "it may not be written to" if not os.access(there, os.W_OK) else ""
    if not there.is_dir() and (there != here or place.suffix not in PAGES):
        why = "it is no folder"
    elif there.is_dir() and there == here and place.suffix in PAGES:
        why = "it is a folder"
    if why:
        raise ValueError(f"{place} cannot be written: {there} is there, and {why}. Give another --out.")
    return place


PAGES = (".html", ".png", ".svg", ".pdf")  # what a file given as --out may end in
Folder = Annotated[Path, typer.Option(help="Folder for the files.", callback=writable)]


class Format(StrEnum):
    """How results are given out."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


Given = Annotated[
    Format, typer.Option(help="table: for people, with a CSV file. Else: printed for programs, and the file.")
]


def stem(name: str) -> str:
    """A name with all characters replaced that a file's name should not have."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


def file_name(given: str, model: Any) -> str:
    """How files about a model are called: its run's name where it is a checkpoint of one, its own, its revision.

    Args:
        given: What the command was given, perhaps a folder.
        model: What was loaded.
    """
    from induction_lab.models.checkpoint_names import parse_checkpoint

    folder = Path(given)
    run = folder.resolve().parent.name if folder.is_dir() and parse_checkpoint(folder.resolve().name) else ""
    return stem("_".join(part for part in (run, model.name, model.revision) if part))


def own_place(place: Path, facts: dict[str, Any]) -> Path:
    """A place for results where none of another model, other weights or other prompts lie: this one, or one beside.

    Args:
        place: The files' folder and the beginning of their names.
        facts: What `save` writes beside the table.
    """
    from induction_lab.results.tables import SUFFIXES, facts_of

    mine = _identity(facts)
    files = [place.with_name(place.name + suffix) for suffix in SUFFIXES]
    others = [file for file in files if file.is_file() and _identity(facts_of(file)) != mine]
    if not others:
        return place
    say("")
    beside = place.with_name(f"{place.name}_{hashlib.sha256(mine.encode()).hexdigest()[:8]}")
    typer.echo(f"{others[0]} holds other results and is kept; these are {beside.name}.", err=True)
    return beside


def _identity(facts: dict[str, Any]) -> str:
    """What makes results those of one model and one set of arguments, wherever and whenever they were measured."""
    known = facts.get("provenance", {})
    names = ("model", "revision", "weights_sha256", "dtype", "prompts", "method", "metric", "seed")
    return json.dumps([{name: known.get(name) for name in names}, sorted(facts.get("words", ()))], sort_keys=True)


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure and close it."""
    import matplotlib.pyplot as plt

    from induction_lab.results.tables import writing

    figure.set_dpi(150)
    if (engine := figure.get_layout_engine()) is not None:  # matplotlib would draw twice, the first time to lay out
        engine.execute(figure)
        figure.set_layout_engine(None)
    with writing(path) as part:
        figure.savefig(part, dpi=150)
    plt.close(figure)
    return path


def deliver(
    found: Any,
    place: Path,
    format: Format,
    pictures: Iterable[tuple[str, Any]],
    show: Callable[[Any], object],
    *,
    kept_as: str = "csv",
    also: Sequence[Path] = (),
) -> None:
    """Give out a result: a file and pictures, with tables for people or the file's text for programs.

    Args:
        found: Anything that `save` writes.
        place: The files' folder and the beginning of their names.
        format: For people (`table`), or the file's, which is printed as well where it is text.
        pictures: Ends of names, and figures; each is drawn when the file and the figures before it are written.
        show: Prints the result as tables.
        kept_as: Suffix of the file that goes with tables.
        also: Other files that were written, to be named with these.
    """
    from induction_lab.cli.lists import show_files

    people = format is Format.table
    place = own_place(place, found._facts())
    path = found.save(place.with_name(f"{place.name}.{kept_as if people else format.value}"))
    drawn = [save_figure(figure, place.with_name(f"{place.name}{end}.png")) for end, figure in pictures]
    if people:
        show(found)
    show_files([path, *drawn, *also], err=not people)
    if format in (Format.csv, Format.json):
        sys.stdout.write(path.read_text())


def text_of(given: str | None) -> tuple[str, str] | None:
    """What `--text` names: a text file's name and what stands in it, or the text itself; None where none was given.

    Raises:
        ValueError: If the file cannot be read, or there is no text.
    """
    if given is None:
        return None
    named = os.path.exists(given) or (given.endswith(SUFFIXES) and len(given.split()) == 1)
    name, text = (stem(Path(given).stem), read_text(Path(given))) if named else ("text", given)
    if not text.strip():
        raise ValueError('A text is wanted, this one is empty: --text "one two three one two", or --text letter.txt.')
    return name, text


def counted(n: int, noun: str) -> str:
    """A number with its noun: `1 cell`, `2 cells`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def say(message: str) -> None:
    """A line on a terminal that the next one replaces; nothing where output is piped."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{message}")
        sys.stderr.flush()


def kind_names(text: str, *, causal: bool) -> list[str]:
    """Names of kinds of heads separated by commas, or `all` of them, in order, each once; or a ValueError."""
    from induction_lab.circuits.kinds import find_kinds

    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--kinds wants names separated by commas, or all; got {text!r}.")
    return [kind.name for kind in find_kinds(None if names == ["all"] else names, causal=causal)]


def whole_numbers(text: str, option: str, *, negative: bool = False) -> list[int]:
    """Numbers separated by commas, in order, each once; or a ValueError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all((part.removeprefix("-") if negative else part).isdecimal() for part in parts):
        like = "0,12,-1" if negative else "0,1000,143000"
        raise ValueError(f"{option} wants whole numbers separated by commas, e.g. {like}, got {text!r}.")
    return sorted({int(part) for part in parts})
