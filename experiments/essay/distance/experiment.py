"""Does it matter to attention how far apart two words are, and to a recurrent network?

    python -m experiments distance

A block of random tokens comes a second time after a gap; read are the accuracy and the loss on the second copy (its
first token, which nothing foretells, left out) and how much the induction heads attend to the right earlier token.
Small attention models, GRUs and LSTMs of equal size, three seeds each, trained on the same blocks that come back; gaps
up to their context's end and past it. And language models: distinct random tokens between two blocks. Where the gap is
long the prompt is: a control moves the same tokens before both copies (`near`), so that only the distance differs.
(Prompts of one length for all gaps were tried first: the recurrent networks copied nothing in them at any gap, as that
control shows, so their fall with the gap cannot be read there.)
Writes to figures/: distance.csv, distance.json (verdicts), distance.png. 12 minutes on one CPU core, 5 later on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import t as student

from experiments.essay.distance.networks import CONTEXT, KINDS, STEPS, size, trained
from experiments.essay.distance.reading import (
    BEYOND,
    FAR,
    NEAR,
    SMALL_GAPS,
    SMALL_PROMPTS,
    measure_large,
    measure_small,
)
from experiments.essay.of_models import names, read_table
from experiments.essay.passages import MODELS
from experiments.harness import begin, common_arguments, show_files
from experiments.judging import Effect, judge, told as said, votes
from experiments.verdicts import OUTCOMES, Verdict, outcome, save_verdicts
from induction_lab import HookedModel, load_model

KEPT = 0.9  # of the accuracy at NEAR: what "however far apart" must leave
KNOWN = 0.9  # accuracy at NEAR that a recurrent network must have for its fall to say anything
LEARNT = 5  # times chance at NEAR: below that there is nothing to lose
SHORTEST = CONTEXT - max(SMALL_GAPS)  # of a small model's prompts, but for the gap
COLOURS = {"attention": "#d1495b", "GRU": "#2a6f97", "LSTM": "#e09f3e"}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    if args.tables:
        table = pd.concat([read_table(path) for path in args.tables], ignore_index=True)
    else:
        models = [load_model_or_exit(name) for name in args.models]
        networks = trained(args.seeds, args.steps)
        parts = [
            measure_small(network, kind, seed).assign(parameters=size(network))
            for (kind, seed), network in networks.items()
        ]
        parts += [measure_large(model, period=args.period, longest=args.longest, seed=args.seed) for model in models]
        table = pd.concat(parts, ignore_index=True)
    table.to_csv(args.out / "distance.csv", index=False, float_format="%.6g")
    draw(table).savefig(args.out / "distance.png", dpi=110)
    verdicts = [attention_verdict(table), past_verdict(table), recurrent_verdict(table), large_verdict(table)]
    names = ("distance.csv", "distance.png")
    show_files([save_verdicts(verdicts, args.out / "distance.json"), *(args.out / name for name in names)])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS, help="trained language models, beside the small ones")
    parser.add_argument("--tables", nargs="+", type=Path, help="what earlier runs wrote (distance.csv), not run again")
    parser.add_argument("--seeds", type=int, default=3, help="small models of each kind")
    parser.add_argument("--steps", type=int, default=STEPS, help="of their training")
    parser.add_argument("--period", type=int, default=25, help="tokens of a language model's block")
    parser.add_argument("--longest", type=int, default=2048, help="longest prompt of a language model, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    args = parser.parse_args(argv)
    for name, least in (("seeds", 1), ("steps", 1), ("period", 2), ("longest", 8)):
        if getattr(args, name) < least:
            parser.error(f"--{name} must be at least {least}, got {getattr(args, name)}.")
    return args


def load_model_or_exit(name: str) -> HookedModel:
    try:
        return load_model(name)
    except ValueError as error:
        raise SystemExit(str(error)) from error


def attention_verdict(table: pd.DataFrame) -> Verdict:
    kept = {name: held(rows, FAR) for name, rows in runs(table, "attention")}
    return Verdict(
        claim="However far apart two words are, attention relates them directly: inside the context that it was "
        "trained in, the distance makes no difference",
        source="essay §2.1",
        measured=f"{len(kept)} two-layer attention models (keys smeared with the key before), {CONTEXT} tokens of "
        f"context; {SMALL_PROMPTS} prompts a gap, two copies of six tokens in each",
        criterion=f"accuracy at a gap of {FAR} tokens at least {KEPT:g} of that at {NEAR}, in every seed that copies "
        f"at {NEAR} ({LEARNT} times chance)",
        numbers={name: told(rows, FAR) for name, rows in runs(table, "attention")},
        control=control(table, "attention"),
        **votes({name: ok for name, ok in kept.items() if ok is not None}),
    )


def past_verdict(table: pd.DataFrame) -> Verdict:
    far = max(BEYOND) * CONTEXT - 13
    kept = {name: held(rows, far) for name, rows in runs(table, "attention")}
    return Verdict(
        claim="However far apart: also further than in any prompt that the model was trained on",
        source="essay §2.1",
        measured=f"the same models, prompts of up to {max(BEYOND)} times the context; their rotary positions were "
        "never trained at such distances",
        criterion=f"accuracy at a gap of {far} tokens at least {KEPT:g} of that at {NEAR}, in every seed",
        numbers={name: told(rows, far) for name, rows in runs(table, "attention")},
        control=control(table, "attention", beyond=True),
        **votes({name: ok for name, ok in kept.items() if ok is not None}),
    )


def recurrent_verdict(table: pd.DataFrame) -> Verdict:
    numbers, passed, fails = {}, {}, []
    for kind in KINDS:
        seeds = runs(table, kind)
        slope, low, high = interval([fall_per_doubling(rows) for _, rows in seeds])
        near, far = (float(np.mean([at(rows, gap)["accuracy"] for _, rows in seeds])) for gap in (NEAR, FAR))
        own: Any = table[table["model"] == kind]
        parameters = int(own["parameters"].iloc[0])
        numbers[f"{kind}, {parameters:,} parameters"] = (
            f"accuracy {near:.3f} at a gap of {NEAR}, {far:.3f} at {FAR}; {slope:+.3f} a doubling (95 % interval over "
            f"seeds {low:+.3f} to {high:+.3f})"
        )
        if kind != "attention" and near >= KNOWN and len(seeds) > 1:
            passed[kind] = bool(high < 0 and far < near / 2)
            side_by_side = moved(table, kind).get(FAR + SHORTEST, float("nan"))
            if side_by_side < near / 2:
                fails.append(f"{kind} {side_by_side:.3f}")
    found: Any = outcome(passed)
    if not passed:
        found["caveat"] = "The recurrent networks never learnt to copy, at any distance: their fall is no test."
    elif found["outcome"] == OUTCOMES[0] and fails:
        found = {
            "outcome": OUTCOMES[1],
            "caveat": f"It is not the distance alone: with the same tokens before both copies, {NEAR} apart, "
            f"they copy no better ({', '.join(fails)}); what the state has read, wherever it stood, is in the way.",
        }
    return Verdict(
        claim="A recurrent network passes information on step by step: the further back, the more of it is lost",
        source="essay §2.1",
        measured="GRUs and LSTMs with as many parameters, trained on the same rows, batches and steps, on the same "
        f"prompts; least-squares slope of the accuracy over log2 of the gap, {NEAR} to {FAR} tokens, a seed",
        criterion="the slope's 95 % interval over seeds (Student's t) lies below zero and less than half of the "
        f"accuracy at {NEAR} is left at {FAR}; tested where the network has learnt to copy ({KNOWN:g} at {NEAR})",
        numbers=numbers,
        control="attention, first row; " + control(table, "GRU") + "; " + control(table, "LSTM"),
        **found,
    )


def large_verdict(table: pd.DataFrame) -> Verdict:
    effects, numbers, controls, undecided = {}, {}, [], {}
    for name in language_models(table):
        rows: Any = table[(table["model"] == name) & (table["prompts"] == "copy")]
        near: Any = table[(table["model"] == name) & (table["prompts"] == "near")].set_index("length")
        far, beside = rows.iloc[-1], near.loc[rows["length"].iloc[-1]]
        effects[name] = over(far, beside)
        fell = f"{far['accuracy']:.3f} of {beside['accuracy']:.3f}"
        numbers[name] = f"gap {far['gap']:,}: {fell}, {said(effects[name])}; {far['n_prompts']} prompts"
        for _, row in rows.iterrows():
            same = (
                f"; {NEAR} apart in such prompts {seen(near.loc[row['length']])}" if row["length"] in near.index else ""
            )
            numbers[f"{name}, gap {row['gap']:,}"] = f"{seen(row)}{same}"
        controls.append(control(table, name))
        if beside["accuracy"] - 2 * beside["accuracy_error"] <= LEARNT * beside["chance"]:
            undecided[name] = f"{name} copies nothing in prompts of that length, however near."
    return Verdict(
        claim="However far apart two words are, attention relates them directly: in a trained language model the "
        "distance makes no difference",
        source="essay §2.1",
        measured="language models on blocks of distinct random tokens written twice, others between them; accuracy on "
        "the second copy at the longest gap, over that with the same tokens before both copies: prompts of one length, "
        "for random tokens harm a model the more of them there are; and the induction heads' mean attention to the "
        "token after the first occurrence",
        criterion=f"more than {KEPT:g} of it",
        numbers=numbers,
        control="; ".join(controls),
        **judge(effects, KEPT, unit="of the accuracy beside each other", undecided=undecided),
    )


def over(far: Any, near: Any) -> Effect:
    """The ratio of two accuracies over as many prompts, with an error from those of both."""
    if not near["accuracy"]:
        return Effect(0.0, None, int(far["n_prompts"]))
    value = far["accuracy"] / near["accuracy"]
    error = np.hypot(far["accuracy_error"], value * near["accuracy_error"]) / near["accuracy"]
    return Effect(float(value), float(error), int(far["n_prompts"]))


def language_models(table: pd.DataFrame) -> list[str]:
    """The models of a table that are no small ones."""
    return [name for name in names(table) if name not in KINDS]


def runs(table: pd.DataFrame, model: str) -> list[tuple[str, Any]]:
    """The copies of each seed, by name."""
    rows: Any = table[(table["model"] == model) & (table["prompts"] == "copy")]
    return [(f"{model}, seed {seed}", each) for seed, each in rows.groupby("seed")]


def at(rows: pd.DataFrame, gap: int) -> Any:
    return rows[rows["gap"] == gap].iloc[0]


def held(rows: pd.DataFrame, far: int) -> bool | None:
    """Whether the accuracy at `far` is what it is near; None where there is none near."""
    near = at(rows, NEAR)
    if near["accuracy"] < LEARNT * near["chance"]:
        return None
    return bool(at(rows, far)["accuracy"] >= KEPT * near["accuracy"])


def seen(row: Any) -> str:
    attention = (
        "" if np.isnan(row["induction"]) else f", attention {row['induction']:.3f} ± {row['induction_error']:.3f}"
    )
    return f"accuracy {row['accuracy']:.3f} ± {row['accuracy_error']:.3f}, loss {row['loss']:.2f}{attention}"


def told(rows: pd.DataFrame, far: int) -> str:
    gaps = [NEAR, far] if far > FAR else [NEAR, FAR, max(SMALL_GAPS)]
    return "; ".join(f"gap {gap}: {seen(at(rows, gap))}" for gap in gaps)


def control(table: pd.DataFrame, model: str, *, beyond: bool = False) -> str:
    rows: Any = table[table["model"] == model]
    rows = rows[(rows["length"] > rows["trained_length"]) == beyond]
    other = rows[rows["prompts"] == "unrelated"]["accuracy"]
    first = rows[rows["prompts"] == "copy"]["first_loss"]
    none = "not run" if other.empty else f"at most {other.max():.3f}"
    near = moved(rows, model).tail(2)
    both = " and ".join(f"{near.loc[n]:.3f} in prompts of {n:,} tokens" for n in near.index)
    both = f"; the same tokens with the gap before both copies: accuracy {both}" * bool(len(near))
    return (
        f"{model}, another block in place of the second copy: accuracy {none} (chance {rows['chance'].iloc[0]:.2g}); "
        f"loss of the first copy {first.min():.2f} to {first.max():.2f}{both}"
    )


def moved(table: pd.DataFrame, model: str) -> Any:
    """Accuracy with the gap moved before both copies, mean over seeds, by the prompt's length."""
    rows: Any = table[(table["model"] == model) & (table["prompts"] == "near")]
    return rows.groupby("length")["accuracy"].mean()


def fall_per_doubling(rows: pd.DataFrame) -> float:
    """Slope of the accuracy over log2 of the gap, up to FAR."""
    inside = rows[rows["gap"] <= FAR]
    return float(np.polyfit(np.log2(inside["gap"]), inside["accuracy"], 1)[0])


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; infinitely wide for one value."""
    n, mean = len(values), float(np.mean(values))
    half = float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5) if n > 1 else float("inf")
    return mean, mean - half, mean + half


def draw(table: pd.DataFrame) -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.4), layout="constrained")
    copies: Any = table[table["prompts"] == "copy"]
    ends = []
    for kind in KINDS:
        rows = copies[copies["model"] == kind].assign(gained=lambda each: each["first_loss"] - each["loss"])
        accuracy = rows.pivot(index="gap", columns="seed", values="accuracy")
        band(left, accuracy, kind)
        band(middle, rows.pivot(index="gap", columns="seed", values="gained"), kind)
        before = moved(table, kind)
        left.plot(before.index - SHORTEST, before, color=COLOURS[kind], lw=1.2, ls=":")
        ends.append(f"{kind} {accuracy.loc[NEAR].mean():.2f} → {accuracy.loc[FAR].mean():.2f}")
    left.set_title(f"Accuracy, gap {NEAR} → {FAR}: attention{ends[0].removeprefix(KINDS[0])},\n" + ", ".join(ends[1:]))
    left.axhline(float(copies["chance"].iloc[0]), color="0.6", lw=0.8, ls=(0, (1, 4)))
    left.set(ylabel="accuracy on the second copy", ylim=(-0.03, 1.05))
    middle.set(
        title="What the first copy tells of the second", ylabel="loss of the first less of the second copy, nats"
    )
    draw_large(right, table)
    for ax, length in ((left, CONTEXT), (middle, CONTEXT), (right, float("nan"))):
        ax.set(xscale="log", xlabel="gap between the two copies, tokens")
        if length == length:  # some models have no context's end
            ax.axvline(length, color="0.3", ls="--", lw=1)
            ax.annotate("trained length", (length, 0.5), (-11, 0), xycoords=("data", "axes fraction"),
                        textcoords="offset points", rotation=90, va="center", fontsize=8)  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
        ax.plot([], [], color="0.4", lw=1.2, ls=":", label="same tokens, gap before both copies")
        if ax is not middle:
            ax.legend(frameon=False, fontsize=8, loc="upper right" if ax is right else "center left")
    return figure


def draw_large(ax: Any, table: pd.DataFrame) -> None:
    """Language models: accuracy with the distance, and with as much text before both copies."""
    for colour, name in zip(("#d1495b", "#2a6f97", "#5f7a4f", "#e09f3e"), language_models(table), strict=False):
        rows: Any = table[(table["model"] == name) & (table["prompts"] == "copy")]
        ax.errorbar(rows["gap"], rows["accuracy"], rows["accuracy_error"], color=colour, marker="o", ms=4, label=name)
        before = moved(table, name)
        ax.plot(before.index - (rows["length"].iloc[0] - rows["gap"].iloc[0]), before, color=colour, lw=1.2, ls=":")
    ax.set(title="Language models, random tokens between", ylabel="accuracy on the second copy", ylim=(-0.03, 1.05))


def band(ax: Any, by_gap: Any, kind: str) -> None:
    """Mean over seeds, and from the least of them to the greatest."""
    ax.plot(by_gap.index, by_gap.mean(axis=1), color=COLOURS[kind], marker="o", ms=4, label=kind)
    ax.fill_between(by_gap.index, by_gap.min(axis=1), by_gap.max(axis=1), color=COLOURS[kind], alpha=0.2, lw=0)


if __name__ == "__main__":
    main(sys.argv[1:])
