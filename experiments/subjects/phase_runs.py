"""The runs that the experiments on training read: recipe `minute` and what differs from it, five seeds each.

    python -m experiments.subjects.phase_runs    # all of them, about 15 minutes on 2 CPU cores

two-layers           the recipe `minute`: blocks of 4 to 31 random tokens, 20 left out, repeated to the end
one-layer            the same with one layer
two-layers-smeared   the same with smeared keys (each key mixed with the one before it)
one-layer-smeared    both
fixed-period         two layers, but every block has 31 tokens: a negative control

Kept in runs/minute, each with what was measured of it (RUN.parquet); checkpoints every 25 steps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from experiments.harness import RUNS_FOLDER, common_arguments
from induction_lab import (
    Recipe,
    Run,
    Trajectory,
    follow_training,
    load_recipe,
    onset,
    rise_time,
    steepest,
    train_runs,
)
from induction_lab.data.training_streams import TiledBlocks

RUNS = RUNS_FOLDER / "minute"
SEEDS, EVERY = 5, 25
TEXTS, TEXTS_SEED = 256, 1_000_003
UNSEEN = "period 20"  # a length that is not trained on
LOW, HIGH = 0.15, 0.6  # of the best stripe score: between them it rises
VARIANTS = ("two-layers", "one-layer", "two-layers-smeared", "one-layer-smeared", "fixed-period")


def recipe(variant: str, seed: int, *, steps: int = 800) -> Recipe:
    """One of `VARIANTS`."""
    minute = load_recipe("minute", steps=steps, every=EVERY, seed=seed)
    layers = 1 if variant.startswith("one-layer") else 2
    model = replace(minute.model, n_layers=layers, smeared_keys=variant.endswith("smeared"))
    data = TiledBlocks(d_vocab=minute.model.d_vocab, shortest=31, longest=31) if variant == "fixed-period" else None
    return replace(minute, model=model, data=data or minute.data)


def runs(variants: Sequence[str] = VARIANTS, *, seeds: int = SEEDS, steps: int = 800) -> dict[str, dict[int, Run]]:
    """The runs of each variant by seed, trained where they are not there yet."""
    asked = {(variant, seed): f"{variant}-{steps}-seed{seed}" for seed in range(seeds) for variant in variants}
    recipes = {name: recipe(*each, steps=steps) for each, name in asked.items()}
    trained = train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())
    return {
        variant: {seed: trained[name] for (kind, seed), name in asked.items() if kind == variant}
        for variant in variants
    }


def followed(
    variants: Sequence[str] = VARIANTS, *, seeds: int = SEEDS, steps: int = 800
) -> dict[str, dict[int, Trajectory]]:
    """Every checkpoint of the runs measured, once, all on the same prompts and texts; by variant and seed."""
    return {
        variant: {seed: follow(run) for seed, run in by_seed.items()}
        for variant, by_seed in runs(variants, seeds=seeds, steps=steps).items()
    }


def follow(run: Run) -> Trajectory:
    """Every checkpoint of a run measured, once, on the same prompts and texts whatever it was trained on."""
    texts = TiledBlocks().draw(torch.Generator().manual_seed(TEXTS_SEED), n_prompts=TEXTS, n_ctx=64)
    path = run.folder.with_name(f"{run.folder.name}.parquet")
    return follow_training(run, texts=texts, path=path, progress=sys.stderr.isatty())


def summary(found: dict[str, dict[int, Trajectory]]) -> pd.DataFrame:
    """What each run came to, and when: a row a run."""
    return pd.DataFrame([_row(each, variant, seed) for variant, some in found.items() for seed, each in some.items()])


def of(table: pd.DataFrame, variant: str) -> Any:
    """The rows of a variant."""
    return table[table["variant"] == variant]


def number(value: float | None) -> str:
    return "never" if value is None or value != value else f"{value:.0f}"


def spread(values: pd.Series, digits: int = 2) -> str:
    return f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every script on these runs can be told."""
    parser = common_arguments(description)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=800, help="of training; fewer for a quick look")
    return parser


def _row(trajectory: Trajectory, variant: str, seed: int) -> dict[str, Any]:
    """What one run came to, and when."""
    stripe, prefix = (trajectory.best(name, prompts=UNSEEN) for name in ("induction_stripe", "prefix_matching"))
    copied = trajectory.series("loss_by_copy", prompts=UNSEEN, index=2)
    gain = -trajectory.series("icl_score")
    linear = [step for step in trajectory.steps if step % EVERY == 0]  # evaluations at equal intervals
    return {
        "variant": variant,
        "seed": seed,
        "induction_stripe": stripe.iloc[-1],
        "prefix_matching": prefix.iloc[-1],
        "previous_token": trajectory.best("previous_token", prompts=UNSEEN).iloc[-1],
        "gap_prefix_matching": trajectory.best("prefix_matching", prompts="gap 9").iloc[-1],
        "second_copy_loss": copied.iloc[-1],
        "icl_score": trajectory.series("icl_score").iloc[-1],
        "onset": _number(onset(stripe, 0.5)),
        "rise_time": _number(rise_time(stripe, LOW, HIGH)),
        "steepest_prefix": _middle(steepest(prefix.loc[linear])),
        "steepest_icl": _middle(steepest(gain.loc[linear])),
        "loss_halved": _number(onset(-copied, -0.5 * float(np.log(63)))),
    }


def _middle(interval: tuple[int, int] | None) -> float:
    return float("nan") if interval is None else sum(interval) / 2


def _number(step: int | None) -> float:
    return float("nan") if step is None else float(step)


if __name__ == "__main__":
    runs()
