"""Does it matter to attention how far apart two words are, and to a recurrent network?

    python experiments/distance.py

A block of random tokens comes a second time after a gap; read are the accuracy and the loss on the second copy (its
first token, which nothing foretells, left out) and how much the induction heads attend to the right earlier token.
Small attention models, GRUs and LSTMs of equal size, three seeds each, trained on the same blocks that come back
(distance_runs.py); gaps up to their context's end and past it. And a trained model: distinct random tokens between two
blocks, up to its context's end. Where the gap is long the prompt is: a control moves the same tokens before both copies
(`near`), so that only the distance differs. (Prompts of one length for all gaps were tried first: the recurrent
networks copied nothing in them at any gap, as that control shows, so their fall with the gap cannot be read there.)
Writes to figures/: distance.csv, distance.json (verdicts), distance.png. 7 minutes on 2 CPU cores, 4 the second time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from distance_reading import BEYOND, FAR, NEAR, SMALL_GAPS, SMALL_PROMPTS, measure_large, measure_small
from distance_runs import CONTEXT, KINDS, STEPS, size, trained
from matplotlib.figure import Figure
from scipy.stats import t as student
from verdicts import Verdict, outcome, save_verdicts

from induction_lab import HookedModel, load_model
from induction_lab.terminal import show_files

KEPT = 0.9  # of the accuracy at NEAR: what "however far apart" must leave
LEARNT = 5  # times chance at NEAR: below that there is nothing to lose
COLOURS = {"attention": "#d1495b", "GRU": "#2a6f97", "LSTM": "#e09f3e"}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    matplotlib.use("agg")
    args.out.mkdir(parents=True, exist_ok=True)
    large = load_model_or_exit(args.model)
    networks = trained(args.seeds, args.steps)
    parts = [measure_small(network, kind, seed) for (kind, seed), network in networks.items()]
    parts.append(measure_large(large, period=args.period, longest=args.longest, seed=args.seed))
    table = pd.concat(parts, ignore_index=True)
    table.round(5).to_csv(args.out / "distance.csv", index=False)
    draw(table).savefig(args.out / "distance.png", dpi=110)
    sizes = {kind: size(network) for (kind, _), network in networks.items()}
    verdicts = [attention_verdict(table), past_verdict(table), recurrent_verdict(table, sizes), large_verdict(table)]
    names = ("distance.csv", "distance.png")
    show_files([save_verdicts(verdicts, args.out / "distance.json"), *(args.out / name for name in names)])


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="the trained model")
    parser.add_argument("--seeds", type=int, default=3, help="small models of each kind")
    parser.add_argument("--steps", type=int, default=STEPS, help="of their training")
    parser.add_argument("--period", type=int, default=25, help="tokens of the trained model's block")
    parser.add_argument("--longest", type=int, default=8192, help="longest prompt of the trained model, in tokens")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
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
        **outcome({name: ok for name, ok in kept.items() if ok is not None}),
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
        **outcome({name: ok for name, ok in kept.items() if ok is not None}),
    )


def recurrent_verdict(table: pd.DataFrame, sizes: dict[str, int]) -> Verdict:
    numbers, passed = {}, {}
    for kind in KINDS:
        found = runs(table, kind)
        slope, low, high = interval([fall_per_doubling(rows) for _, rows in found])
        near, far = (float(np.mean([at(rows, gap)["accuracy"] for _, rows in found])) for gap in (NEAR, FAR))
        numbers[f"{kind}, {sizes[kind]:,} parameters"] = (
            f"accuracy {near:.3f} at a gap of {NEAR}, {far:.3f} at {FAR}; {slope:+.3f} a doubling (95 % interval over "
            f"seeds {low:+.3f} to {high:+.3f})"
        )
        if kind != "attention" and near >= LEARNT * float(found[0][1]["chance"].iloc[0]) and len(found) > 1:
            passed[kind] = bool(high < 0 and far < near / 2)
    return Verdict(
        claim="A recurrent network passes information on step by step: the further back, the more of it is lost",
        source="essay §2.1",
        measured="GRUs and LSTMs with as many parameters, trained on the same rows, batches and steps, on the same "
        f"prompts; least-squares slope of the accuracy over log2 of the gap, {NEAR} to {FAR} tokens, a seed",
        criterion="the slope's 95 % interval over seeds (Student's t) lies below zero and less than half of the "
        f"accuracy at {NEAR} is left at {FAR}; read where the network copies at {NEAR} ({LEARNT} times chance)",
        numbers=numbers,
        control="attention, first row; " + control(table, "GRU") + "; " + control(table, "LSTM"),
        **outcome(passed),
    )


def large_verdict(table: pd.DataFrame) -> Verdict:
    name = str(next(each for each in table["model"].unique() if each not in KINDS))
    ((_, rows),) = runs(table, name)
    gaps = [int(gap) for gap in rows["gap"]]
    ok = held(rows, gaps[-1])
    return Verdict(
        claim="However far apart two words are, attention relates them directly: in a trained language model, up to "
        "the end of its context",
        source="essay §2.1",
        measured=f"{name} on blocks of distinct random tokens written twice, others between them; its "
        f"{int(rows['heads'].iloc[0])} induction heads' mean attention to the token after the first occurrence",
        criterion=f"accuracy at the longest gap at least {KEPT:g} of that at {NEAR}",
        numbers={f"gap {gap:,}": seen(at(rows, gap)) for gap in gaps},
        control=control(table, name),
        **outcome({} if ok is None else {name: ok}),
    )


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
    near = rows[rows["prompts"] == "near"].groupby("length")["accuracy"].mean()
    moved = "".join(f"; the gap before both copies: {near.loc[n]:.3f} in prompts of {n:,}" for n in near.index[-2:])
    return (
        f"{model}, another block in place of the second copy: accuracy {none} (chance {rows['chance'].iloc[0]:.2g}); "
        f"loss of the first copy {first.min():.2f} to {first.max():.2f}{moved}"
    )


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
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    copies: Any = table[table["prompts"] == "copy"]
    for kind in KINDS:
        by_gap = copies[copies["model"] == kind].pivot(index="gap", columns="seed", values="accuracy")
        band(left, by_gap, kind, COLOURS[kind])
        near: Any = table[(table["model"] == kind) & (table["prompts"] == "near")].groupby("length")["accuracy"].mean()
        left.plot(near.index - 13, near, color=COLOURS[kind], lw=1, ls=":")
        gained = copies[copies["model"] == kind].assign(gained=lambda rows: rows["first_loss"] - rows["loss"])
        band(middle, gained.pivot(index="gap", columns="seed", values="gained"), kind, COLOURS[kind])
    ends = {kind: " → ".join(f"{copies[(copies['model'] == kind) & (copies['gap'] == gap)]['accuracy'].mean():.2f}"
                             for gap in (NEAR, FAR)) for kind in KINDS}  # fmt: skip
    left.set(title=f"accuracy from a gap of {NEAR} to one of {FAR}:\n" + ", ".join(f"{k} {v}" for k, v in ends.items()))
    left.set(ylabel="accuracy on the second copy (dotted: same tokens, gap before both)", ylim=(-0.03, 1.05))
    left.axhline(float(copies[copies["model"] == KINDS[0]]["chance"].iloc[0]), color="0.6", lw=0.8, ls=":")
    middle.set(title="what the first copy tells about the second", ylabel="loss of first less second copy, nats")
    for ax in (left, middle):
        ax.axvline(CONTEXT, color="0.3", ls="--", lw=1)
        ax.text(CONTEXT * 1.08, ax.get_ylim()[1], "trained\nlength", va="top", fontsize=8)
    large = copies[~copies["model"].isin(KINDS)]
    for value, colour, label in (
        ("accuracy", "#d1495b", "accuracy"),
        ("induction", "#8d99ae", "its heads' attention"),
    ):
        right.errorbar(large["gap"], large[value], large[f"{value}_error"], color=colour, marker="o", ms=4, label=label)
    first, last = large.iloc[0], large.iloc[-1]
    right.set(title=f"{first['model']}: accuracy {first['accuracy']:.2f} at a gap of {first['gap']},\n"
              f"{last['accuracy']:.2f} at {last['gap']:,}", ylabel="second copy", ylim=(-0.03, 1.05))  # fmt: skip
    if first["trained_length"]:
        right.axvline(first["trained_length"], color="0.3", ls="--", lw=1)
    for ax in (left, middle, right):
        ax.set(xscale="log", xlabel="gap between the two copies, tokens")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def band(ax: Any, by_gap: Any, label: str, colour: str) -> None:
    """Mean over seeds, and from the least of them to the greatest."""
    ax.plot(by_gap.index, by_gap.mean(axis=1), color=colour, marker="o", ms=4, label=label)
    ax.fill_between(by_gap.index, by_gap.min(axis=1), by_gap.max(axis=1), color=colour, alpha=0.2, lw=0)


if __name__ == "__main__":
    main(sys.argv[1:])
