"""What the commands share: arguments, names of files, figures to disk, words on a terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

ModelName = Annotated[
    str, typer.Argument(help="attn-only-2l, smollm2-135m, a Hugging Face id, a folder or a .gguf file.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, float64 or auto.")]
Revision = Annotated[str | None, typer.Option(help="Of a Hugging Face model, e.g. step1000.")]
Folder = Annotated[Path, typer.Option(help="Folder for the files.")]


def stem(name: str) -> str:
    """A name as files can be called."""
    return "".join(c if c.isalnum() or c in "-._" else "_" for c in name)


def save_figure(figure: Any, path: Path) -> Path:
    """Write a figure and close it."""
    import matplotlib.pyplot as plt

    from induction_lab.results.tables import writing

    with writing(path) as part:
        figure.savefig(part, dpi=150)
    plt.close(figure)
    return path


def counted(n: int, noun: str) -> str:
    """`1 cell`, `2 cells`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def say(message: str) -> None:
    """A line on a terminal that the next one replaces; nothing where output is piped."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{message}")
        sys.stderr.flush()


def whole_numbers(text: str, option: str) -> list[int]:
    """Numbers separated by commas, in order, each once; or a ValueError."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"{option} wants whole numbers separated by commas, e.g. 0,1000,143000, got {text!r}.")
    return sorted({int(part) for part in parts})
