"""What experiments share: arguments, folders, figures without a screen, and saying what was written."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from induction_lab.cli.lists import show_files, show_line
from induction_lab.cli.terminal import show_scores

__all__ = [
    "FIGURES",
    "ROOT",
    "RUNS_FOLDER",
    "begin",
    "common_arguments",
    "put_row",
    "show_files",
    "show_line",
    "show_scores",
]

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
RUNS_FOLDER = ROOT / "runs"


def common_arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the experiment's docstring, with `--out`; the experiment adds its own arguments."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder that tables, figures and verdicts go to")
    return parser


def begin(out: Path) -> None:
    """Figures are drawn into files, in a folder that is there."""
    matplotlib.use("agg")
    out.mkdir(parents=True, exist_ok=True)


def put_row(path: Path, row: dict[str, Any], by: Mapping[str, Sequence[Any] | None]) -> None:
    """Write a row of a table of measurements, in the place of what was measured of the same before.

    Args:
        path: A `.csv` file.
        row: What was measured.
        by: The columns that say of what, in the order that rows are sorted by; and of each the order of its values,
            where that is not their own.
    """
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    table = pd.DataFrame([*(each for each in rows if any(each[name] != row[name] for name in by)), row])

    def place(column: Any) -> Any:
        order = by[column.name]
        return column if order is None else column.map(list(order).index)

    table.sort_values(list(by), key=place).to_csv(path, index=False)
