"""After a token that it has seen before, what does a model expect, and which heads make it do so?

    python -m experiments lag_profile

The probability of the tokens around the earlier occurrence, by their distance from it, on repeated random tokens: of
the model as it is, with its eight best induction heads mean-ablated, and with eight other heads (five random sets).
Writes to figures/: lag_profile.csv, lag_profile.json (verdict), lag_profile.png. 3 minutes on 2 CPU cores.
"""

from __future__ import annotations

import random
import sys
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.harness import begin, show_files
from experiments.judging import Effect, judge
from experiments.subjects.induction_models import REFERENCE, Subject, arguments, subject
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import ablate, lag_profile, load_model, repeated_tokens

LOWERED, SPARED = 0.5, 0.8  # of the probability at lag +1: at most without the heads, at least without others
SETS = 5


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    begin(args.out)
    models = {name: subject(load_model(name), n_prompts=8) for name in args.models}
    table = pd.concat([profiles(one) for one in models.values()], ignore_index=True)
    table.round(5).to_csv(args.out / "lag_profile.csv", index=False)
    draw(table).savefig(args.out / "lag_profile.png", dpi=130)
    names = ("lag_profile.csv", "lag_profile.png")
    written = save_verdicts([verdict(table)], args.out / "lag_profile.json")
    show_files([written, *(args.out / name for name in names)])


def profiles(one: Subject) -> pd.DataFrame:
    """As it is, without the induction heads, and without as many others."""
    chosen = one.induction
    reference = repeated_tokens(one.model, n_prompts=REFERENCE, period=one.prompts.period or 50, seed=1)
    sets = {"as it is": [], f"without its {len(chosen)} induction heads": chosen}
    bystanders = one.bystanders
    for i in range(SETS if len(bystanders) >= len(chosen) else 0):
        sets[f"without {len(chosen)} other heads, set {i}"] = random.Random(i).sample(bystanders, len(chosen))
    parts = []
    for label, heads in sets.items():
        if heads:
            with ablate(one.model, heads, reference=reference):
                found = lag_profile(one.model, one.prompts)
        else:
            found = lag_profile(one.model, one.prompts)
        parts.append(found.assign(model=one.model.name, heads=label))
    return pd.concat(parts, ignore_index=True)


def verdict(table: pd.DataFrame) -> Verdict:
    numbers, effects, control, failed = {}, {}, [], {}
    by_model: Any = table.groupby("model", sort=False)
    for name, rows in by_model:
        wide = rows.pivot(index="lag", columns="heads", values="probability")
        own, ablated = wide["as it is"], next(column for column in wide if "induction" in str(column))
        others = wide[[column for column in wide if "other" in str(column)]].loc[1] / own[1]
        second = own.drop(1)
        numbers[str(name)] = (
            f"peak at lag {own.idxmax():+d}: {own.max():.3f} (next: {second.max():.4f} at {second.idxmax():+d}); "
            f"{ablated}: {wide.loc[1, ablated]:.4f}"
        )
        at_one = rows[rows["lag"] == 1].set_index("heads")
        left = wide.loc[1, ablated] / own[1] if own.idxmax() == 1 else 1.0  # no peak there: nothing hangs on it
        effects[str(name)] = Effect(left, at_one.loc[ablated, "standard_error"] / own[1])
        if len(others):
            if float(others.min()) <= SPARED:
                failed[str(name)] = f"Other heads matter as well in {name}."
            control.append(f"{name}: {others.min():.2f} to {others.max():.2f} of it")
    return Verdict(
        claim="After a repeated token the next one is expected at lag +1, and that is the induction heads' doing",
        source="Olsson et al. 2022; Ji-An et al. 2024",
        criterion=f"the profile peaks at lag +1; without the induction heads (at most 8) less than {LOWERED} of that "
        f"is left, without as many other heads more than {SPARED}",
        numbers=numbers,
        control="without as many random other heads: " + ("; ".join(control) or "no model has as many"),
        **judge(effects, LOWERED, at_most=True, unit="of the probability left", undecided=failed),
    )


def draw(table: pd.DataFrame) -> Figure:
    """What followed before against the likeliest of the other lags, a row a set of heads that is replaced."""
    names = list(table["model"].unique())
    figure, axes = plt.subplots(1, len(names), figsize=(3.7 * len(names), 2.4), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        found: Any = table[table["model"] == name]
        rows = list(dict.fromkeys(label.split(", set")[0] for label in found["heads"]))
        for label, profile in found.groupby("heads", sort=False):
            place = len(rows) - 1 - rows.index(str(label).split(", set")[0])
            followed = profile.loc[profile["lag"] == 1].iloc[0]
            other = profile.loc[profile["lag"] != 1, "probability"].max()
            ax.plot(other, place, "o", ms=7, color="C0", mfc="none")
            ax.errorbar(followed["probability"], place, xerr=followed["standard_error"], fmt="o", ms=5, color="C3")
        ax.set(xlabel="probability")
        ax.set_title(name, fontsize=11)
        ax.set(yticks=range(len(rows)), yticklabels=[textwrap.fill(each, 18) for each in rows[::-1]])
        ax.set(xlim=(-0.03, 1.03), ylim=(-0.5, len(rows) - 0.5))
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
    marks = [
        Line2D([], [], marker="o", ls="", ms=5, color="C3", label="what followed it before (lag +1)"),
        Line2D([], [], marker="o", ls="", ms=7, mfc="none", color="C0", label="likeliest of the other lags"),
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
