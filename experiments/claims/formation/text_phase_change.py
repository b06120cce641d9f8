"""Is there a phase change on real text, at a scale that trains in half an hour?

    python -m experiments text_phase_change

The recipe `text-2l` (two attention layers on the sources of Python's standard library), three seeds, and one layer as a
control. Every checkpoint is looked at on held-out text and on repeated random tokens. Intervals are over these seeds of
one recipe, and say nothing of others. Writes to figures/: text_phase_change.csv (a row a run), text_phase_change.json
(verdicts), text_phase_change_analysis.png (one run), text_phase_change_seeds.png. An hour and a half on 2 CPU cores the
first time, which is why `make claims` leaves it out; `--table` judges again what an earlier run wrote.
"""

from __future__ import annotations

import argparse
import ast
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.harness import RUNS_FOLDER, begin, common_arguments, show_files
from experiments.judging import Effect, judge
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import (
    Recipe,
    Run,
    Trajectory,
    ablation_sweep,
    follow_training,
    load_recipe,
    loss_paths,
    onset,
    plot_model_analysis,
    plot_over_training,
    repeated_tokens,
    rise_time,
    steepest,
    train_runs,
)

RUNS = RUNS_FOLDER / "text"
TEXTS, TEXTS_SEED = 128, 1_000_003
PERIOD = 50
ON = f"period {PERIOD}"
FORMED, NONE = 0.4, 0.15  # prefix matching on random tokens: an induction head; none
START = 0.05  # several times what uniform attention gives
LATE = (128, 256)  # token indices at which the loss should come to fall
FLAT = 0.1  # nats per unit of ln index
SETTLED = 2 / 3  # of the training: where prefix matching rises fastest after that, it has not come to an end
GAIN = 0.05  # nats: what two layers gain in context beyond one


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    if args.table:
        show_files([save_verdicts(verdicts(read_table(args.table)), args.out / "text_phase_change.json")])
        return
    found = {kind: {seed: follow(run) for seed, run in some.items()} for kind, some in runs(args).items()}
    table = pd.DataFrame([row(each, kind, seed) for kind, some in found.items() for seed, each in some.items()])
    table.round(4).to_csv(args.out / "text_phase_change.csv", index=False)
    written = [args.out / "text_phase_change.csv", save_verdicts(verdicts(table), args.out / "text_phase_change.json")]
    every = [each for some in found.values() for each in some.values()]
    figures = {
        "analysis": plot_model_analysis(
            found["two layers"][0], paths=loss_paths(every), effects=effects(runs(args)["two layers"][0])
        ),
        "seeds": draw(found),
    }
    for name, figure in figures.items():
        written.append(args.out / f"text_phase_change_{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    return [formed_verdict(table), gain_verdict(table), derivative_verdict(table)]


def read_table(path: Path) -> pd.DataFrame:
    """A row a run, as an earlier run wrote them."""
    table = pd.read_csv(path)
    for column in ("steepest_prefix", "steepest_icl"):
        table[column] = [ast.literal_eval(each) if isinstance(each, str) else None for each in table[column]]
    return table


def recipe(layers: int, seed: int, args: argparse.Namespace) -> Recipe:
    """`text-2l` with so many layers; one thread a run, two runs at once."""
    changes: dict[str, Any] = {"seed": seed, "threads": 1} | ({"steps": args.steps} if args.steps else {})
    base = load_recipe(args.recipe, **changes)
    return replace(base, model=replace(base.model, n_layers=layers))


def runs(args: argparse.Namespace) -> dict[str, dict[int, Run]]:
    """Two layers with several seeds, one layer with one."""
    wanted = {("two layers", seed): recipe(2, seed, args) for seed in range(args.seeds)}
    wanted[("one layer", 0)] = recipe(1, 0, args)
    names = {
        each: f"{Path(args.recipe).stem}-{each[0].replace(' ', '-')}-{r.training.steps}-seed{each[1]}"
        for each, r in wanted.items()
    }
    recipes = {names[each]: wanted[each] for each in wanted}
    trained = train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())
    result: dict[str, dict[int, Run]] = {}
    for (kind, seed), name in names.items():
        result.setdefault(kind, {})[seed] = trained[name]
    return result


def follow(run: Run) -> Trajectory:
    """Every checkpoint on held-out text and on repeated random tokens, once."""
    model = run.model(0)
    texts = held_out(run, TEXTS)
    period = min(PERIOD, (run.recipe.model.n_ctx - 1) // 2)
    prompts = {ON: repeated_tokens(model, n_prompts=16, period=period)}
    path = run.folder.with_name(f"{run.folder.name}.parquet")
    return follow_training(run, prompts=prompts, texts=texts, path=path, progress=sys.stderr.isatty())


def held_out(run: Run, n: int) -> torch.Tensor:
    text: Any = run.stream()
    generator = torch.Generator().manual_seed(TEXTS_SEED)
    return text.draw(generator, n_prompts=n, n_ctx=run.recipe.model.n_ctx, held_out=True)


def effects(run: Run, *, n: int = 9) -> pd.DataFrame:
    """What ablating each head costs on held-out text, at some of the checkpoints."""
    linear = [step for step in run.steps if step % run.recipe.training.every == 0]
    some = sorted({linear[i] for i in np.linspace(0, len(linear) - 1, n).round().astype(int)})
    texts = held_out(run, 32)
    parts = [ablation_sweep(run.model(step), texts, metric="loss").table.assign(step=step) for step in some]
    return pd.concat(parts, ignore_index=True)


def row(trajectory: Trajectory, kind: str, seed: int) -> dict[str, Any]:
    prefix = trajectory.best("prefix_matching", prompts=ON)
    icl = trajectory.series("icl_score")
    every = trajectory.steps[-1] - trajectory.steps[-2]
    linear = [step for step in trajectory.steps if step % every == 0 and step]
    return {
        "run": kind,
        "seed": seed,
        "steps": trajectory.steps[-1],
        "mean_loss": trajectory.series("mean_loss").iloc[-1],
        "prefix_matching": prefix.iloc[-1],
        "previous_token": trajectory.best("previous_token", prompts=ON).iloc[-1],
        "icl_score": icl.iloc[-1],
        "icl_error": trajectory.series("icl_score", column="standard_error").iloc[-1],
        "first_copy": trajectory.series("loss_by_copy", prompts=ON, index=1).iloc[-1],
        "second_copy": trajectory.series("loss_by_copy", prompts=ON, index=2).iloc[-1],
        "onset": onset(prefix, FORMED),
        "start": onset(prefix, START),
        "rise_time": rise_time(prefix, NONE, FORMED),
        "steepest_prefix": steepest(prefix.loc[linear]),
        "steepest_icl": steepest(-icl.loc[linear]),
        "late_slope_early": late_slope(trajectory, linear[max(0, len(linear) // 10 - 1)]),
        "late_slope_end": late_slope(trajectory, trajectory.steps[-1]),
    }


def late_slope(trajectory: Trajectory, step: int) -> float:
    """Mean derivative of the loss at late token indices."""
    rows: Any = trajectory.table[(trajectory.table["metric"] == "loss_derivative") & (trajectory.table["step"] == step)]
    top = float(rows["index"].max())
    return float(rows.loc[rows["index"] >= min(LATE[0], top / 2), "value"].mean())


def formed_verdict(table: pd.DataFrame) -> Verdict:
    two, one = of(table, "two layers").to_dict("records"), of(table, "one layer")
    return Verdict(
        claim="On real text, too, two layers form induction heads, and at once",
        source="Olsson et al. 2022",
        measured="the best prefix matching on repeated random tokens at the end of the training",
        criterion=f"above {FORMED}, and from below {NONE} within a fifth of the training; not decided while it rises "
        f"fastest in the last {1 - SETTLED:.0%} of the training (this clause was added after a look: the runs had not "
        "settled)",
        numbers={
            f"seed {each['seed']}": f"prefix matching {each['prefix_matching']:.2f} ({when(each)}), previous token "
            f"{each['previous_token']:.2f}; second copy {each['second_copy']:.2f} nats, first {each['first_copy']:.2f}"
            for each in two
        },
        control=f"one layer: prefix matching {one['prefix_matching'].max():.2f}, second copy "
        f"{one['second_copy'].min():.2f} nats",
        **judge(
            {f"seed {each['seed']}": Effect(each["prefix_matching"]) for each in two},
            FORMED,
            undecided=rising(two) or slow(two),
        ),
    )


def rising(runs: list[dict[str, Any]]) -> str:
    """Which runs have not come to an end of the rise, if any."""
    late = [each for each in runs if (each["steepest_prefix"] or (0, 0))[0] >= SETTLED * each["steps"]]
    named = ", ".join(f"seed {each['seed']} ({interval(each['steepest_prefix'])})" for each in late)
    return (
        f"Prefix matching still rises after {runs[0]['steps']} steps, fastest late in the training: {named}."
        if late
        else ""
    )


def slow(runs: list[dict[str, Any]]) -> str:
    """Which runs formed induction heads, though not at once."""
    late = [f"seed {each['seed']}" for each in runs if each["prefix_matching"] >= FORMED
            and not each["rise_time"] <= 0.2 * each["steps"]]  # fmt: skip
    return f"Formed, though not at once: {', '.join(late)}." if late else ""


def unformed(runs: list[dict[str, Any]]) -> str:
    """Why nothing can be said of what comes with induction heads, where none have formed."""
    without = [f"seed {each['seed']}" for each in runs if each["prefix_matching"] < FORMED]
    return f"No induction head has formed ({', '.join(without)}): there is no change to go by." if without else ""


def gain_verdict(table: pd.DataFrame) -> Verdict:
    two, one = of(table, "two layers").to_dict("records"), of(table, "one layer").iloc[0]
    return Verdict(
        claim="On real text two layers gain more from the context than one, and they gain it as induction heads form",
        source="Olsson et al. 2022, argument 1",
        criterion=f"the in-context-learning score at the end is lower than one layer's by {GAIN} nats; score and "
        "prefix matching are steepest in intervals that touch; not decided where no induction head forms (this last "
        "clause was added after a look)",
        numbers={
            f"seed {each['seed']}": f"score {each['icl_score']:+.3f} ± {each['icl_error']:.3f} nats; prefix matching "
            f"steepest in {interval(each['steepest_prefix'])}, score in {interval(each['steepest_icl'])}"
            for each in two
        },
        control=f"one layer: {one['icl_score']:+.3f} ± {one['icl_error']:.3f} nats, steepest in "
        f"{interval(one['steepest_icl'])}",
        **judge(
            {f"seed {each['seed']}": gained(each, one) for each in two}, GAIN, unit="nats", undecided=unformed(two)
        ),
    )


def derivative_verdict(table: pd.DataFrame) -> Verdict:
    two, one = of(table, "two layers").to_dict("records"), of(table, "one layer").iloc[0]
    return Verdict(
        claim="On real text the loss falls with the token index late in the context only after the change",
        source="Olsson et al. 2022",
        criterion=f"mean derivative over indices {LATE[0]} to {LATE[1]} at most {FLAT} in size after a tenth of the "
        f"training (else the run counts as 0), below -{FLAT} at the end; not decided where no induction head forms "
        "(this last clause was added after a look)",
        numbers={
            f"seed {each['seed']}": f"{each['late_slope_early']:+.2f}, then {each['late_slope_end']:+.2f} nats per "
            "unit of ln index"
            for each in two
        },
        control=f"one layer: {one['late_slope_early']:+.2f}, then {one['late_slope_end']:+.2f}",
        **judge(
            {
                f"seed {each['seed']}": Effect(each["late_slope_end"] * (abs(each["late_slope_early"]) <= FLAT))
                for each in two
            },
            -FLAT,
            at_most=True,
            unit="nats per unit of ln index",
            undecided=unformed(two),
        ),
    )


def gained(run: dict[str, Any], one: Any) -> Effect:
    """What two layers gain in context beyond one; nothing where they gain it at another time than the heads form."""
    if not touch(run["steepest_prefix"], run["steepest_icl"]):
        return Effect(0.0)
    return Effect(one["icl_score"] - run["icl_score"], float(np.hypot(run["icl_error"], one["icl_error"])))


def of(table: pd.DataFrame, kind: str) -> Any:
    return table[table["run"] == kind]


def touch(one: tuple[int, int] | None, other: tuple[int, int] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def interval(steps: tuple[int, int] | None) -> str:
    return "no interval" if steps is None else f"steps {steps[0]} to {steps[1]}"


def when(each: dict[str, Any]) -> str:
    if each["onset"] != each["onset"] or each["onset"] is None:
        return f"never over {FORMED}; over {START} first at step {number(each['start'])}"
    return f"over {FORMED} at step {number(each['onset'])}, risen in {number(each['rise_time'])} steps"


def number(value: float | None) -> str:
    return "never" if value is None or value != value else f"{value:.0f}"


def draw(found: dict[str, dict[int, Trajectory]]) -> Figure:
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.8), layout="constrained")
    every = [each for some in found.values() for each in some.values()]
    groups = {each.runs[0]: kind for kind, some in found.items() for each in some.values()}
    plot_over_training(every, "mean_loss", groups=groups, ax=axes[0])
    plot_over_training(every, "icl_score", groups=groups, ax=axes[1])
    plot_over_training(every, "prefix_matching", prompts=ON, groups=groups, ax=axes[2])
    plot_over_training(every, "loss_by_copy", prompts=ON, index=2, groups=groups, ax=axes[3])
    for ax in axes[:3]:
        ax.get_legend().remove()
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", type=Path, help="text_phase_change.csv of an earlier run: judged again, not run")
    parser.add_argument("--recipe", default="text-2l", help="a ready recipe on text, or a TOML file")
    parser.add_argument("--steps", type=int, help="of training; the recipe's by default")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
