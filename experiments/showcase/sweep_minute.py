"""When do induction heads form, in each of three short runs of recipe `minute`? A sweep over their checkpoints.

    python -m experiments sweep_minute

Trains the runs into runs/ unless they are there, sweeps every checkpoint on two draws of prompts whose block length was
never trained on into results/sweep_minute, and writes to figures/: sweep_minute.csv (when they form),
sweep_minute.png. Three minutes on 2 CPU cores, most of them training. The sweep is that of sweep_minute.toml.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from experiments.harness import ROOT, begin, show_files
from induction_lab import formation, induction_counts, load_recipe, load_sweep, over_seeds, sweep, train_runs

HERE = Path(__file__).parent
PLAN = HERE / "sweep_minute.toml"
RUNS, DATA = ROOT / "runs", ROOT / "results" / "sweep_minute"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    recipe = load_recipe("minute", steps=args.steps)
    recipes = over_seeds(recipe, args.seeds, name=f"minute-{args.steps}-seed")
    runs = train_runs(recipes, args.runs, progress=sys.stderr.isatty())
    plan = tomllib.loads(PLAN.read_text())
    plan["models"] = [str(run.folder) for run in runs.values()]
    done = sweep(plan, args.data, executor=args.executor, progress=sys.stderr.isatty())
    if done.failed:
        raise SystemExit(f"{len(done.failed)} cells failed: {next(iter(done.failed.items()))}")
    frame = load_sweep(args.data)
    formed = formation(frame)
    print(f"{done.cells} cells, {done.computed} measured now, in {done.seconds:.0f} s\n")
    print(formed.round(1).to_string(index=False))
    formed.round(3).to_csv(args.out / "sweep_minute.csv", index=False)
    figure = draw(induction_counts(frame), formed)
    figure.savefig(args.out / "sweep_minute.png", dpi=110)
    show_files([args.data, args.out / "sweep_minute.csv", args.out / "sweep_minute.png"])


def draw(counts: pd.DataFrame, formed: pd.DataFrame) -> Any:
    """Induction heads and the best head's score over training, one line a seed; when they form."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for i, (model, each) in enumerate(counts.groupby("model")):
        steps, dashes = each["step"].astype(float), ("-", "--", ":")[i % 3]  # two may lie on top of each other
        axes[0].plot(steps, each["count"], dashes, marker=".", color=f"C{i}", label=model)
        axes[0].fill_between(steps, each["lowest"], each["highest"], color=f"C{i}", alpha=0.2, linewidth=0)
        axes[1].plot(steps, each["best"], marker=".", color=f"C{i}", label=model)
    for i, row in enumerate(formed.sort_values("model").to_dict("records")):
        axes[1].axvline(row["step"], color=f"C{i}", linestyle=":", linewidth=1)
    axes[1].axhline(0.4, color="grey", linewidth=0.8)
    axes[0].yaxis.get_major_locator().set_params(integer=True)
    axes[0].set(xlabel="step", ylabel="induction heads (prefix matching ≥ 0.4)", ylim=(0, None))
    axes[1].set(xlabel="step", ylabel="best head's prefix matching", ylim=(0, 1))
    axes[1].legend(title="dotted: first over 0.4")
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="training runs")
    parser.add_argument("--steps", type=int, default=400, help="updates")
    parser.add_argument("--executor", default="local", help="local, pool or ray")
    parser.add_argument("--runs", type=Path, default=RUNS)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    return parser.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
