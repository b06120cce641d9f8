"""The tables of all benchmarks on one page, with the machine and the versions that they were measured with.

    python -m experiments results        # writes README.md beside this file from the .csv files there

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
SECTIONS = {
    "Scores": {
        "speed": "Every head of SmolLM2-135M on one prompt (`score_speed.py`). TransformerLens and transformers' own "
        "matrices are asked for one score, a diagonal, where the row says so; ours are seven.",
        "memory": "Peak memory of the same above the loaded model, each row a fresh process (`score_memory.py`). "
        "At the longest context the matrices of a single layer would not fit.",
        "offload": "A model whose weights stay on disk (`larger_than_memory.py`): peak memory in GB above the "
        "interpreter, and seconds beside those of reading the files once and of the products of as many tokens alone.",
        "scaling": "How both grow with context, heads and prompts (`scaling.py`): each point a fresh process, best of "
        "three runs. Ways that hold matrices end where they no longer fit.",
    },
    "Composition": {
        "composition": "K-composition of all pairs of heads (`composition_speed.py`). `max_difference` is that between "
        "the ways' numbers; about half of our time goes to the small QR decompositions before the products.",
    },
    "Circuits": {
        "circuit": "The likely circuit of SmolLM2-135M, in forward passes over the same prompts (`circuit_speed.py`).",
        "explain": "Forward passes that `explain` spends, counted in multiplications (`explain_speed.py`): with every "
        "head on all prompts (`passes_exact`) and by default; and in how many heads the answers agree.",
    },
    "The first second": {
        "first_second": "Processor seconds of commands on the bundled model, each a fresh process, and of which "
        "importing each library (`first_second.py`); `rest` is the interpreter, the command line and our own modules, "
        "`work` what is not importing.",
        "first_second_ratio": "The same beside a checkout from before TransformerLens, transformers and pandas were "
        "loaded only where they are used, in alternating pairs (`first_second.py --against`).",
        "first_second_cold": "The same by the clock, every file being read from the disk again (`--cold`).",
    },
    "Computed twice": {
        "computed_twice": "What each command computes, in thousands of tokens that enter a layer, of tokens that are "
        "unembedded, and in layers whose weights are folded; and how much of each was there already "
        "(`computed_twice.py`). What `follow` runs again is, nearly all of it, one token at other positions, where "
        "nothing but its rotation is read.",
    },
    "Before and after": {
        "before_after": "The same jobs by an earlier commit of this library and by this one, in pairs, on one thread "
        "(`before_after.py`): CPU time, and how far the process grows in memory. `activity` does more than it did: "
        "it sets random heads of the same layers beside the induction heads.",
    },
    "Profiles": {
        "profiles": "Where the time of each command goes, with an earlier commit of this library and now "
        "(`profiles.py`): shares of products, of the fused attention, of the largest other operation, of all others, "
        "and of Python between them.",
    },
    "Growth": {
        "growth": "How every analysis grows with prompts, context, heads, layers and vocabulary (`growth.py`): "
        "numbers at three sizes of the axis, the power by which they grow from the second to the third, and `work`, "
        "that by which the work grows at last.",
    },
    "Ablation": {
        "ablation": "All heads of SmolLM2-135M, each ablated by its mean over the other prompts (`ablation_speed.py`). "
        "The floor is what cannot be left out: on average half the layers, and logits at half the positions.",
        "below_the_floor": "Below the floor, where numbers are no longer those of the exact sweep (float32, eager, the "
        "whole second copy), in time (`below_the_floor.py`): ratios to that sweep; `seconds_once` is CPU time for "
        "compiling, which pays for itself after so many sweeps. Of `compiled` the sweep runs the network's own code, "
        "so that its row shows how noisy these ratios are.",
        "below_the_floor_error": "The same in error, in nats, over the heads of every fourth layer. `median_error` and "
        "`beyond_error` speak of the exact effects' standard errors over prompts, `above_0.1` and `change_sides` of "
        "heads whose effect is above 0.1 nats and of those that cross that line, `beyond_2_errors` and "
        "`verdicts_change` of signs that are certain by two standard errors. `error_ratio` is the standard error over "
        "the exact one, `error_same_time` the same with as many more prompts as the time allows.",
    },
    "Training": {
        "training": "The same rotary model in float32, paired rounds (`training_speed.py`); `speed_up` is that of ours "
        "over the row's way.",
        "looking": "What looking at a checkpoint costs beside the training until the next one, in seconds.",
        "callback": "What `InductionCallback` adds to training at its default, one measurement in 100 updates "
        "(`callback_cost.py`): a measurement over an update, paired; larger batches make the share smaller.",
        "workers": "Several seeds by two processes instead of one. On a GPU seeds are stacked instead.",
    },
    "The report": {
        "report": "Writing the page of SmolLM2-135M beside its computations alone, and using it: milliseconds from "
        "event to frame in headless Chromium (`report_speed.py`).",
    },
    "Sweeps": {
        "sweep": "What a sweep adds to a cell's own work, with a measurement that does nothing (`sweep_overhead.py`).",
    },
    "On a GPU": {
        "gpu_exactness": "Every path of the engine against float64 on the same rounded inputs (`gpu_engine.py`; "
        "`make bench-gpu` measures this section): the largest difference over plain and grouped keys, unlike widths, "
        "masks, soft-capping, sinks, fewer queries than keys and queries that see nothing.",
        "gpu_scores": "The seven attention scores of every head of a trained model, against float64.",
        "gpu": "A random model of Llama 3 8B's shape in bfloat16, one prompt: all seven attention scores over the "
        "plain forward pass, paired; at most 1.05 is asked for.",
        "gpu_jobs": "An ablation sweep over SmolLM2-135M's shape, and training steps of two recipes.",
    },
}


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    parts = ["# Timings beside what people use today", machine()]
    for heading, tables in SECTIONS.items():
        parts.append(f"## {heading}")
        for name, words in tables.items():
            parts += [words, *shown(HERE / f"{name}.csv")]
    (HERE / "README.md").write_text("\n\n".join(parts) + "\n")


def shown(path: Path) -> list[str]:
    """A table and the picture beside it, if there is one."""
    if not path.is_file():
        return ["Not measured here."]
    table = pd.read_csv(path)
    table = ways_beside_each_other(table) if path.stem == "scaling" else table
    table = worst_of_paths(table) if path.stem == "gpu_exactness" else table
    picture = path.with_suffix(".png")
    return [as_markdown(table), *([f"![{path.stem}]({picture.name})"] if picture.is_file() else [])]


def machine() -> str:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.is_file() else None
    name = found[1] if found else platform.processor() or platform.machine()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    of = ", ".join(f"{package} {version}" for package, version in versions().items())
    return (
        "`make bench` runs every script of this folder (`python -m experiments NAME`: one of them); each table is as "
        "its script last wrote it. This page was put together on "
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


def worst_of_paths(table: pd.DataFrame) -> pd.DataFrame:
    """A row a kernel and precision: the largest difference of all paths."""
    by: Any = table.groupby(["kernel", "dtype", "tolerance", "on"], sort=False)
    worst = by.agg({"output": "max", "probabilities": "max", "within": "all"}).reset_index()
    return worst[["kernel", "dtype", "output", "probabilities", "tolerance", "within", "on"]]


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
