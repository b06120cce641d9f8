"""The tables of all benchmarks on one page, with the machine and the versions that they were measured with.

    python -m experiments results        # writes RESULTS.md beside this file from the .csv files there

Run by `make bench` after the benchmarks themselves. A table that is missing is named as such.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.benchmarks.scaling import PLAIN
from induction_lab.models.provenance import versions

HERE = Path(__file__).parent
TABLES = {
    "speed": "Scoring every head of SmolLM2-135M on one prompt (`score_speed.py`)",
    "memory": "Peak memory of the same (`score_memory.py`)",
    "scaling": "Time and memory against context, heads and prompts (`scaling.py`)",
    "composition": "K-composition of all pairs of heads (`composition_speed.py`)",
    "circuit": "The likely circuit, in forward passes over the same prompts (`circuit_speed.py`)",
    "ablation": "Mean-ablating every head by itself (`ablation_speed.py`)",
    "training": "Training small models (`training_speed.py`)",
    "looking": "Looking at a checkpoint (`training_speed.py`)",
    "workers": "Many seeds at once (`training_speed.py`)",
    "report": "Writing and using the report (`report_speed.py`)",
    "sweep": "What a cell of a sweep costs beside its measurement (`sweep_overhead.py`)",
    "gpu_exactness": "The engine on a GPU: every path against float64 (`gpu_engine.py`)",
    "gpu": "The engine on a GPU: a model of Llama 3 8B's shape (`gpu_engine.py`)",
}


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    parts = ["# Benchmarks, side by side", machine()]
    for name, title in TABLES.items():
        path = HERE / f"{name}.csv"
        table = pd.read_csv(path) if path.is_file() else None
        if table is not None and name == "scaling":
            table = ways_beside_each_other(table)
        parts += [f"## {title}", "Not measured here." if table is None else as_markdown(table)]
        picture = path.with_suffix(".png")
        parts += [f"![{title}]({picture.name})"] if picture.is_file() else []
    (HERE / "RESULTS.md").write_text("\n\n".join(parts) + "\n")


def machine() -> str:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    of = ", ".join(f"{package} {version}" for package, version in versions().items())
    return (
        f"Each table as its script last wrote it; `make bench` runs all of them. This page was put together on "
        f"{os.cpu_count()} cores of {name}, {gpu}; {of}. The cores are shared and noisy, so ways are compared as "
        "ratios of paired runs (median, lowest, highest), never as seconds of different runs."
    )


def ways_beside_each_other(table: pd.DataFrame) -> pd.DataFrame:
    """A row a point: seconds and MB of each way, and their ratios to the plain forward pass."""
    ways = [PLAIN, *(way for way in table["way"].unique() if way != PLAIN)]
    points: Any = table.pivot(index=["axis", "at"], columns="way")
    columns = {
        f"{way}: s; MB": points["seconds"][way].map("{:.3g}; ".format) + points["peak_mb"][way].map("{:,.0f}".format)
        for way in ways
    }
    ratios = {f"{way}: ratio": points["seconds"][way] / points["seconds"][PLAIN] for way in ways[1:]}
    return pd.DataFrame({**columns, **ratios}).replace("nan; nan", "too large").reset_index()


def as_markdown(table: pd.DataFrame) -> str:
    """A table as people read it."""
    header = [str(column) for column in table.columns]
    rows = [[_shown(value) for value in row] for row in table.itertuples(index=False)]
    lines = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, float):
        return "" if value != value else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


if __name__ == "__main__":
    main()
