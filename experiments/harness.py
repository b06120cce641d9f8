"""What experiments share: arguments, folders, figures without a screen, and saying what was written."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from induction_lab.cli.lists import show_files, show_line
from induction_lab.cli.terminal import show_scores

__all__ = ["FIGURES", "ROOT", "RUNS_FOLDER", "begin", "common_arguments", "show_files", "show_line", "show_scores"]

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
