"""Which part of the circuit is waiting for which?

    python -m experiments clamping

Two-layer models in which, from the first step, one head of layer 0 attends exactly to the token before (its queries and
keys then have nothing to learn), or one head of layer 1 attends as a perfect induction head; five seeds. What forms
sooner than in the free model was waiting for what was clamped. Intervals are over these seeds of one recipe (`minute`),
and say nothing of others. Writes to figures/: clamping.csv, clamping.json (verdicts), clamping.png. 8 minutes on 2 CPU
cores the first time.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from experiments.harness import begin, show_files
from experiments.judging import votes
from experiments.subjects.phase_runs import EVERY, RUNS, UNSEEN, arguments, follow, number, recipe, runs
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import Trajectory, onset, plot_over_training, train_runs

CLAMPS = {
    "previous token clamped": {"L0H0": "previous_token"},
    "induction clamped": {"L1H0": "induction"},
    "layer 1 clamped to the token before": {"L1H0": "previous_token"},  # a control: the right pattern, the wrong place
}
HALF = 0.5 * 4.143  # nats: half of ln 63


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    begin(args.out)
    found = {"free": {seed: follow(run) for seed, run in free(args.seeds, args.steps).items()}}
    for label, clamps in CLAMPS.items():
        name = label.replace(" ", "-")
        recipes = {
            f"{name}-{args.steps}-seed{seed}": replace(recipe("two-layers", seed, steps=args.steps), clamps=clamps)
            for seed in range(args.seeds)
        }
        trained = train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())
        found[label] = {seed: follow(run) for seed, run in enumerate(trained.values())}
    table = pd.DataFrame([row(each, label, seed) for label, some in found.items() for seed, each in some.items()])
    table.round(4).to_csv(args.out / "clamping.csv", index=False)
    draw(found).savefig(args.out / "clamping.png", dpi=110)
    verdicts = [keys_verdict(table), free_verdict(table)]
    names = ("clamping.csv", "clamping.png")
    show_files([save_verdicts(verdicts, args.out / "clamping.json"), *(args.out / name for name in names)])


def free(seeds: int, steps: int) -> dict:
    return runs(("two-layers",), seeds=seeds, steps=steps)["two-layers"]


def row(trajectory: Trajectory, label: str, seed: int) -> dict[str, object]:
    copied = trajectory.series("loss_by_copy", prompts=UNSEEN, index=2)
    heads = trajectory.heads("induction_stripe", UNSEEN)
    layer_1 = heads[:, 1, 1:] if heads.shape[1] > 1 else heads[:, 0]  # head 0 may be clamped
    free_heads = pd.Series(layer_1.max(1).values.numpy(), index=trajectory.steps)
    return {
        "run": label,
        "seed": seed,
        "loss_halved": nan_or(onset(-copied, -HALF)),
        "induction_forms": nan_or(onset(free_heads, 0.5)),
        "previous_token": float(trajectory.heads("previous_token", UNSEEN)[-1, 0, 1:].max()),
        "second_copy_loss": copied.iloc[-1],
    }


def keys_verdict(table: pd.DataFrame) -> Verdict:
    clamped, plain, wrong = (of(table, name) for name in (list(CLAMPS)[0], "free", list(CLAMPS)[2]))
    return Verdict(
        claim="Induction heads wait for the previous-token head: given one from the start, they form sooner",
        source="Singh et al. 2024",
        criterion="with a head of layer 0 clamped to the token before, some free head of layer 1 passes a stripe "
        "score of 0.5 at an earlier step than in the free run of the same seed, in every seed",
        numbers={
            f"seed {seed}": f"step {number(clamped[seed]['induction_forms'])} against "
            f"{number(plain[seed]['induction_forms'])}"
            for seed in plain
        },
        control="the same pattern clamped in layer 1, where no later head can use it: "
        + ", ".join(number(each["induction_forms"]) for each in wrong.values()),
        **votes(
            {
                f"seed {seed}": late(clamped[seed]["induction_forms"]) < late(plain[seed]["induction_forms"])
                for seed in plain
            }
        ),
    )


def free_verdict(table: pd.DataFrame) -> Verdict:
    clamped, plain = of(table, list(CLAMPS)[1]), of(table, "free")
    return Verdict(
        claim="What is left to learn beside a perfect induction pattern, copying values, is learnt at once: the "
        "pattern is what takes the time",
        source="Singh et al. 2024",
        criterion="with a head of layer 1 clamped to ideal induction the loss on the second copy halves in at most "
        "half the steps of the free run of the same seed, in every seed",
        numbers={
            f"seed {seed}": f"step {number(clamped[seed]['loss_halved'])} against "
            f"{number(plain[seed]['loss_halved'])}; previous-token score among free heads of layer 0 at the end "
            f"{clamped[seed]['previous_token']:.2f} against {plain[seed]['previous_token']:.2f}, second copy "
            f"{clamped[seed]['second_copy_loss']:.2f} against {plain[seed]['second_copy_loss']:.2f} nats"
            for seed in plain
        },
        control=f"the free runs; evaluations are {EVERY} steps apart",
        **votes(
            {
                f"seed {seed}": late(clamped[seed]["loss_halved"]) <= late(plain[seed]["loss_halved"]) / 2
                for seed in plain
            }
        ),
    )


def of(table: pd.DataFrame, label: str) -> dict[int, dict[str, Any]]:
    rows: Any = table[table["run"] == label]
    return {each["seed"]: each for each in rows.to_dict("records")}


def nan_or(step: int | None) -> float:
    return float("nan") if step is None else float(step)


def late(step: float | None) -> float:
    return float("inf") if step is None or step != step else step


def draw(found: dict[str, dict[int, Trajectory]]):
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    every = [each for some in found.values() for each in some.values()]
    groups = {each.runs[0]: label for label, some in found.items() for each in some.values()}
    plot_over_training(every, "loss_by_copy", prompts=UNSEEN, index=2, groups=groups, ax=axes[0])
    plot_over_training(every, "induction_stripe", prompts=UNSEEN, groups=groups, ax=axes[1])
    axes[0].get_legend().remove()
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
