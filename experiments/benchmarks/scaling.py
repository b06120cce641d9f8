"""How time and memory grow with context, heads and prompts: induction_lab, plain transformers, TransformerLens.

    python -m experiments scaling

SmolLM2-135M, float32, two threads. Along context one prompt on its first four layers, 256 to 32,768 tokens; along
heads one prompt of 1,025 tokens on its first 5 to 30 layers; along prompts 1 to 16 of 257 tokens on all. Each point is
a fresh process: a run on a few tokens to warm up, then the peak counter of Linux is reset; peak is what the first run
takes above the loaded model, time the best of three runs (of one where that takes more than ten seconds). Ways that
build matrices stop where these alone would take more than `--most` GB. Writes scaling.csv and scaling.png beside this
file. About 15 minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.benchmarks.score_memory import cut, resident
from induction_lab import load_model, repeated_tokens, score_heads
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.attention_scores import ATTENTION_SCORES

HERE = Path(__file__).parent
PLAIN, OURS = "transformers, plain forward (SDPA)", "induction_lab, 7 attention scores"
EAGER, LENS = "transformers, output_attentions", "TransformerLens, cached patterns"
COLOURS = {OURS: "#d1495b", PLAIN: "#222222", EAGER: "#e09f3e", LENS: "#2a6f97"}
N_HEADS, N_LAYERS = 9, 30
LONG = 10.0  # seconds: longer runs are timed once


class Job(NamedTuple):
    """One point of the figure."""

    axis: str
    way: str
    tokens: int
    layers: int
    prompts: int

    @property
    def matrices(self) -> float:
        """Gigabytes of all attention matrices."""
        return 4 * self.prompts * self.layers * N_HEADS * self.tokens**2 / 2**30

    @property
    def at(self) -> int:
        """Where on its axis."""
        return {"context": self.tokens, "heads": self.layers * N_HEADS, "prompts": self.prompts}[self.axis]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.job is not None:
        print(json.dumps(measure(Job(*json.loads(args.job)))))
        return
    if args.redraw:
        draw(pd.read_csv(args.out / "scaling.csv")).savefig(args.out / "scaling.png", dpi=110)
        return
    wanted = jobs(args.most)
    rows = []
    with progress_bar(len(wanted), "points", shown=sys.stderr.isatty()) as tick:
        for job in wanted:
            command = [sys.executable, __file__, "--job", json.dumps(job)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            rows.append({**job._asdict(), "at": job.at, **json.loads(done.stdout.splitlines()[-1])})
            tick(1)
    table = pd.DataFrame(rows)
    table.to_csv(args.out / "scaling.csv", index=False)
    draw(table).savefig(args.out / "scaling.png", dpi=110)
    print(table.to_string(index=False))


def jobs(most: float) -> list[Job]:
    """Every point; ways that build matrices only where these fit."""
    points = [("context", tokens, 4, 1) for tokens in (256, 1024, 4096, 16_384, 32_768)]
    points += [("heads", 1025, layers, 1) for layers in (5, 10, 20, N_LAYERS)]
    points += [("prompts", 257, N_LAYERS, prompts) for prompts in (1, 2, 4, 8, 16)]
    every = [Job(axis, way, *rest) for axis, *rest in points for way in COLOURS]
    return [job for job in every if job.way in (OURS, PLAIN) or job.matrices <= most]


def measure(job: Job) -> dict[str, float]:
    """Run one job in this process."""
    torch.set_num_threads(2)
    model = cut(load_model("smollm2-135m"), n_layers=job.layers, n_ctx=max(8193, job.tokens))
    prompts = repeated_tokens(model, n_prompts=job.prompts, period=(job.tokens - 1) // 2)
    run = way(model, job, prompts)
    small = way(model, job, repeated_tokens(model, n_prompts=1, period=4))
    small()  # what the first call allocates once
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    seconds = [timed(run)]
    peak = round((resident("VmHWM") - before) / 1024)
    seconds += [timed(run) for _ in range(2)] if seconds[0] < LONG else []
    return {"seconds": round(min(seconds), 3), "peak_mb": peak}


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def way(model: HookedModel, job: Job, prompts: Any) -> Callable[[], object]:
    """A function that does the job's work once."""

    def lens() -> object:
        with torch.inference_mode():
            return model.hooked.run_with_cache(prompts.tokens, names_filter=lambda name: name.endswith("hook_pattern"))

    def eager() -> object:
        model.network.set_attn_implementation("eager")
        with torch.inference_mode():
            return model.network.base_model(prompts.tokens, use_cache=False, output_attentions=True)

    return {
        PLAIN: lambda: model.hidden(prompts.tokens),
        OURS: lambda: score_heads(model, prompts, scores=ATTENTION_SCORES, loss=False),
        EAGER: eager,
        LENS: lens,
    }[job.way]


def draw(table: Any) -> Figure:
    """Seconds above, peak memory below, one column an axis."""
    axes_of = {"context": "tokens, 4 layers", "heads": "heads, 1,025 tokens", "prompts": "prompts of 257 tokens"}
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharex="col", sharey="row")
    for column, (axis, label) in enumerate(axes_of.items()):
        for row, measured in enumerate(("seconds", "peak_mb")):
            ax = axes[row, column]
            for name, colour in COLOURS.items():
                own = table[(table["axis"] == axis) & (table["way"] == name)]
                ax.plot(own["at"], own[measured].clip(lower=1e-3), "o-", ms=4, lw=1.4, color=colour, label=name)
            ax.set(xscale="log", yscale="log", ylabel=["seconds", "MB above the model"][row] if column == 0 else "")
            ax.set_xticks(sorted(table.loc[table["axis"] == axis, "at"].unique()))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1024:g}k" if x % 1024 == 0 else f"{x:g}")
            ax.yaxis.set_major_formatter("{x:,g}")
            ax.spines[["top", "right"]].set_visible(False)
        axes[1, column].set_xlabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=6.0, help="GB that attention matrices may take")
    parser.add_argument("--redraw", action="store_true", help="only draw scaling.csv again")
    parser.add_argument("--job", help="run one job and print its numbers (used by the script itself)")
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
