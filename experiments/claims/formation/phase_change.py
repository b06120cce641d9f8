"""Do induction heads form, when, how fast, and what forms with them?

    python -m experiments phase_change

Two-layer models on random blocks that repeat (recipe `minute`), five seeds, every 25 steps; one-layer models and a
model that only ever saw blocks of one length as controls. Intervals are over seeds of this one recipe, and say nothing
of others. Writes to figures/: phase_change.csv (a row a run),
phase_change.json (verdicts), phase_change_analysis.png (the panels of the paper's model-analysis table),
phase_change_seeds.png, phase_change_paths.png, phase_change_correlations.png, phase_change.gif. About 4 minutes on 2
CPU cores once the runs are there (`phase_runs.py`, 15 minutes).
"""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.harness import begin, show_files
from experiments.judging import Effect, judge, votes
from experiments.subjects.phase_runs import (
    EVERY,
    HIGH,
    LOW,
    UNSEEN,
    VARIANTS,
    arguments,
    followed,
    number,
    of,
    runs,
    spread,
    summary,
)
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import (
    Trajectory,
    ablation_sweep,
    animate_heads,
    before_and_after,
    loss_paths,
    pivot,
    plot_loss_paths,
    plot_model_analysis,
    plot_over_training,
    repeated_tokens,
    save_animation,
    steepest,
)
from induction_lab.training.runs import Run

FORMED, COPIED = 0.7, 0.2  # claim 2: stripe at least, nats on the second copy at most
WITHIN = 200  # claim 3: steps
APART, RISEN = 2, 0.3  # claim 4: evaluation intervals; prefix matching at least, for there to be a rise
FLAT = 0.1  # claim 17: nats per unit of ln index
CORRELATED, EXCHANGES = 0.5, 200  # claim 19
TURN = 45.0  # claim 15: degrees
LENGTHLESS = "An angle is the wrong statistic: it does not say how far the path goes after the turn."


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    begin(args.out)
    found = followed(VARIANTS, seeds=args.seeds, steps=args.steps)
    table = summary(found)
    table.round(4).to_csv(args.out / "phase_change.csv", index=False)
    same_data = [each for variant, some in found.items() if variant != "fixed-period" for each in some.values()]
    paths = loss_paths(same_data)
    verdicts = [
        formed_verdict(table),
        abrupt_verdict(table),
        together_verdict(table),
        pivot_verdict(paths, found),
        derivative_verdict(found),
        *correlation_verdicts(found["two-layers"]),
    ]
    written = [args.out / "phase_change.csv", save_verdicts(verdicts, args.out / "phase_change.json")]
    first = runs(["two-layers"], seeds=args.seeds, steps=args.steps)["two-layers"][0]
    analysis = plot_model_analysis(found["two-layers"][0], paths=paths, effects=attributions(first))
    figures = {"analysis": analysis, "seeds": draw_seeds(found), "paths": draw_paths(paths)}
    figures["correlations"] = draw_correlations(found["two-layers"])
    for name, figure in figures.items():
        written.append(args.out / f"phase_change_{name}.png")
        figure.savefig(written[-1], dpi=110)
    animation = animate_heads(found["two-layers"][0], "prefix_matching")
    written.append(save_animation(animation, args.out / "phase_change.gif"))
    show_files(written)


def formed_verdict(table: pd.DataFrame) -> Verdict:
    two, fixed = of(table, "two-layers"), of(table, "fixed-period")
    return Verdict(
        claim="Two attention layers form induction heads",
        source="Olsson et al. 2022; Elhage et al. 2021",
        criterion=f"on blocks of a length never trained on, the best stripe score is at least {FORMED} and the loss on "
        f"the second copy below {COPIED} nats, in every seed",
        numbers={
            f"seed {each['seed']}": f"stripe {each['induction_stripe']:.2f}, previous token "
            f"{each['previous_token']:.2f}, second copy {each['second_copy_loss']:.3f} nats, stripe over 0.5 at step "
            f"{number(each['onset'])}"
            for each in two.to_dict("records")
        },
        control="trained on blocks of 31 tokens alone, seen on 20: stripe "
        f"{spread(fixed['induction_stripe'])}, second copy {spread(fixed['second_copy_loss'])} nats (ln 63 = 4.14)",
        **votes(
            {
                f"seed {each['seed']}": each["induction_stripe"] >= FORMED and each["second_copy_loss"] < COPIED
                for each in two.to_dict("records")
            }
        ),
    )


def abrupt_verdict(table: pd.DataFrame) -> Verdict:
    two = of(table, "two-layers").to_dict("records")
    one = of(table, "one-layer")
    return Verdict(
        claim="Induction heads form abruptly",
        source="Olsson et al. 2022",
        criterion=f"the best stripe score goes from below {LOW} to above {HIGH} within {WITHIN} steps",
        numbers={f"seed {each['seed']}": f"{number(each['rise_time'])} steps" for each in two},
        control=f"one layer: in {one['rise_time'].notna().sum()} of {len(one)} runs",
        **votes({f"seed {each['seed']}": each["rise_time"] <= WITHIN for each in two}),
    )


def together_verdict(table: pd.DataFrame) -> Verdict:
    two = of(table, "two-layers").to_dict("records")
    one = of(table, "one-layer")
    gaps = {f"seed {each['seed']}": abs(each["steepest_prefix"] - each["steepest_icl"]) / EVERY for each in two}
    return Verdict(
        claim="Induction heads and in-context learning come at the same time",
        source="Olsson et al. 2022, argument 1",
        criterion=f"prefix matching comes to {RISEN} or more, and it and the in-context gain are steepest at most "
        f"{APART} evaluations ({EVERY} steps each) apart",
        numbers={
            f"seed {each['seed']}": f"prefix matching at step {each['steepest_prefix']:.0f}, gain at "
            f"{each['steepest_icl']:.0f}"
            for each in two
        },
        control=f"one layer: no rise (prefix matching at most {one['prefix_matching'].max():.2f}), gain steepest at "
        f"{spread(one['steepest_icl'], 0)}",
        **votes(
            {
                f"seed {each['seed']}": each["prefix_matching"] >= RISEN and gaps[f"seed {each['seed']}"] <= APART
                for each in two
            }
        ),
    )


def pivot_verdict(paths: pd.DataFrame, found: dict[str, dict[int, Trajectory]]) -> Verdict:
    """Claim 15: the path turns where prefix matching rises."""
    numbers, passed, control = {}, {}, []
    for variant in ("two-layers", "two-layers-smeared", "one-layer-smeared", "one-layer"):
        for seed, trajectory in found[variant].items():
            own: Any = paths[paths["run"] == trajectory.runs[0]]
            turn = pivot(own)
            span = steepest(trajectory.best("prefix_matching", prompts=UNSEEN))
            told = f"{turn.angle:.0f}° at step {turn.step}"
            if variant == "one-layer":
                control.append(turn.angle)
                continue
            assert span is not None
            name = f"{variant}, seed {seed}"
            numbers[name] = f"{told}; prefix matching steepest at {span[0]} to {span[1]}"
            near = span[0] / 2 <= turn.step <= 2 * span[1]
            passed[name] = turn.angle > TURN and near
    return Verdict(
        claim="In the plane of per-token losses, runs turn where induction heads form",
        source="Olsson et al. 2022",
        criterion=f"a turn of more than {TURN:.0f}° between half and twice the step at which prefix matching is "
        "steepest; one-layer runs turn less",
        numbers=numbers,
        control=f"one layer: {min(control):.0f}° to {max(control):.0f}°",
        **votes({name: ok and max(control) <= TURN for name, ok in passed.items()}, undecided=LENGTHLESS),
    )


def derivative_verdict(found: dict[str, dict[int, Trajectory]]) -> Verdict:
    """Claim 17, at the indices where a copy begins for some lengths and goes on for the others."""
    numbers, passed = {}, {}
    for seed, trajectory in found["two-layers"].items():
        rise = steepest(trajectory.best("prefix_matching", prompts=UNSEEN))
        assert rise is not None
        before, after = (late_slope(trajectory, step) for step in (earlier(trajectory, rise[0]), trajectory.steps[-1]))
        numbers[f"seed {seed}"] = f"before {before:+.2f}, after {after:+.2f} nats per unit of ln index"
        passed[f"seed {seed}"] = abs(before) <= FLAT and after < -FLAT
    one = [late_slope(each, each.steps[-1]) for each in found["one-layer"].values()]
    as_well = "One layer's loss ends falling with the index, too: the size tells them apart, not the sign."
    return Verdict(
        claim="Late in the context the loss falls with the index only after the phase change",
        source="Olsson et al. 2022",
        criterion=f"mean derivative over the last half of the context at most {FLAT} in size 100 steps before prefix "
        f"matching is steepest, below -{FLAT} at the end",
        numbers=numbers,
        control=f"one layer, at the end: {min(one):+.2f} to {max(one):+.2f}",
        **votes(passed, caveat=as_well * (min(one) < -FLAT)),
    )


def earlier(trajectory: Trajectory, step: int) -> int:
    return max(each for each in trajectory.steps if each <= max(0, step - 100))


def late_slope(trajectory: Trajectory, step: int) -> float:
    rows: Any = trajectory.table[(trajectory.table["metric"] == "loss_derivative") & (trajectory.table["step"] == step)]
    return float(rows.loc[rows["index"] >= rows["index"].max() / 2, "value"].mean())


def correlation_verdicts(found: dict[int, Trajectory]) -> list[Verdict]:
    """Claim 19: what activations say against what weights say, over heads and snapshots."""
    pairs = {
        "copying": ("copying", "ov_copying", "what a head copies, and the eigenvalues of its OV circuit"),
        "matching": ("prefix_matching", "qk_matching", "prefix matching, and the eigenvalues of the QK circuit"),
    }
    verdicts = []
    for seen, weights, words in pairs.values():
        numbers, effects = {}, {}
        for seed, trajectory in found.items():
            x, y = together(trajectory, seen, weights)
            r = float(np.corrcoef(x, y)[0, 1])
            draw = np.random.default_rng(seed)
            exchanged = [abs(np.corrcoef(draw.permutation(x), y)[0, 1]) for _ in range(EXCHANGES)]
            chance = np.quantile(exchanged, 0.95)
            numbers[f"seed {seed}"] = f"r = {r:.2f} over {len(x)} heads and snapshots (by chance: {chance:.2f})"
            effects[f"seed {seed}"] = Effect(r)
        verdicts.append(
            Verdict(
                claim=f"Over heads and snapshots they go together: {words}",
                source="Olsson et al. 2022; Elhage et al. 2021",
                criterion=f"correlation above {CORRELATED}",
                numbers=numbers,
                control="in brackets: what 95 % of exchanges of one of the two among heads and snapshots stay below",
                **judge(effects, CORRELATED),
            )
        )
    return verdicts


def together(trajectory: Trajectory, one: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    """Two head metrics over all heads and evaluations that have both."""
    x, y = (trajectory.heads(name).flatten().numpy() for name in (one, other))
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def attributions(run: Run, *, n: int = 9) -> pd.DataFrame:
    """Before-and-after attribution of every head at some of the checkpoints."""
    start, end = run.model(0), run.model()
    prompts = repeated_tokens(end, n_prompts=32, period=20)
    metric = before_and_after(start, end, prompts)
    linear = [step for step in run.steps if step % EVERY == 0]
    some = sorted({linear[i] for i in np.linspace(0, len(linear) - 1, n).round().astype(int)})
    parts = []
    for step in some:
        effects = ablation_sweep(run.model(step), prompts, metric=metric).table
        parts.append(effects.assign(step=step))
    return pd.concat(parts, ignore_index=True)


def draw_seeds(found: dict[str, dict[int, Trajectory]]) -> Figure:
    figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    groups = {each.runs[0]: variant for variant, some in found.items() for each in some.values()}
    every = [each for some in found.values() for each in some.values()]
    plot_over_training(every, "induction_stripe", prompts=UNSEEN, groups=groups, ax=axes[0])
    plot_over_training(every, "loss_by_copy", prompts=UNSEEN, index=2, groups=groups, ax=axes[1])
    plot_over_training(every, "icl_score", groups=groups, ax=axes[2])
    for ax in axes[:2]:
        ax.get_legend().remove()
    return figure


def draw_paths(paths: pd.DataFrame) -> Figure:
    figure, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    plot_loss_paths(paths, ax=ax)
    return figure


def draw_correlations(found: dict[int, Trajectory]) -> Figure:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for ax, (one, other) in zip(axes, (("copying", "ov_copying"), ("prefix_matching", "qk_matching")), strict=True):
        for seed, trajectory in found.items():
            x, y = together(trajectory, one, other)
            ax.scatter(x, y, s=8, alpha=0.5, label=f"seed {seed}")
        ax.set(xlabel=one.replace("_", " "), ylabel=f"{other.replace('_', ' ')} (weights alone)")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
