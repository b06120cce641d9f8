"""Where does the time of each command go: into products and attention, or into something that could be left out?

    python -m experiments profiles                                     # every command on SmolLM2-135M
    python -m experiments profiles --model induction-2l --command report

One thread; the commands are those of `computed_twice`. PyTorch's profiler says how long each operation took by itself.
Products are what multiplies matrices (`mm`, `bmm`, …), attention is the fused kernel; `largest_other` is the greatest
of all other operations, and `outside` what passed between operations: Python. Shares are of the time of all of it. Adds
its rows to profiles.csv beside this file, or replaces them. `heads` and `explain` take longest by far.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.benchmarks.computed_twice import COMMANDS
from experiments.harness import put_row, show_files, show_line
from induction_lab import HookedModel, load_model, repeated_tokens, score_heads

HERE = Path(__file__).parent
MODELS = ("induction-2l", "smollm2-135m")
PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::addmv", "aten::mv", "aten::dot")
ATTENTION = "_scaled_dot_product"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    for name in args.model:
        model = load_model(name)
        _ = model.unembeds_by_parts  # found out once a model
        score_heads(model, repeated_tokens(model, n_prompts=1, period=4), loss=False)  # what the first run builds
        for command in args.command:
            if command == "activity" and model.tokenizer is None:
                continue
            row = {"command": command, "model": name} | profiled(model, COMMANDS[command])
            put_row(args.out, row, by={"model": MODELS, "command": list(COMMANDS)})
            show_line(pd.DataFrame([row]).to_string(index=False))
    show_files([args.out])


def profiled(model: HookedModel, run: Callable[[HookedModel], object]) -> dict[str, Any]:
    """Shares of the time, and the operation that takes most of it besides products and attention."""
    begin = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as found:
        run(model)
        seconds = time.perf_counter() - begin
    alone = {event.key: event.self_cpu_time_total / 1e6 for event in found.key_averages()}
    products = sum(spent for name, spent in alone.items() if name in PRODUCTS)
    attention = sum(spent for name, spent in alone.items() if ATTENTION in name)
    others = {name: spent for name, spent in alone.items() if name not in PRODUCTS and ATTENTION not in name}
    largest = max(others, key=lambda name: others[name])
    return {
        "products": round(products / seconds, 3),
        "attention": round(attention / seconds, 3),
        "largest_other": largest.removeprefix("aten::"),
        "its_share": round(others[largest] / seconds, 3),
        "all_others": round(sum(others.values()) / seconds, 3),
        "outside": round(max(0.0, 1 - sum(alone.values()) / seconds), 3),
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=[MODELS[1]], choices=MODELS)
    parser.add_argument("--command", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--out", type=Path, default=HERE / "profiles.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
