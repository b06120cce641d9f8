"""After a token that it has seen before, what does a model expect, and which heads make it do so?

    python -m experiments lag_profile

The probability of the tokens around the earlier occurrence, by their distance from it, on repeated random tokens: of
the model as it is, with its eight best induction heads mean-ablated, and with eight other heads (five random sets).
Writes to figures/: lag_profile.csv, lag_profile.json (verdict), lag_profile.png. 3 minutes on 2 CPU cores.
"""

from __future__ import annotations

import random
import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

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
    draw(table).savefig(args.out / "lag_profile.png", dpi=110)
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
    names = list(table["model"].unique())
    figure, axes = plt.subplots(1, len(names), figsize=(5.2 * len(names), 3.8), squeeze=False, layout="constrained")
    for ax, name in zip(axes[0], names, strict=True):
        for label, rows in table[table["model"] == name].groupby("heads", sort=False):
            others = "other" in str(label)
            colour = "0.7" if others else "C0" if label == "as it is" else "C3"
            shown = None if others and not str(label).endswith("set 0") else str(label).split(", set")[0]
            ax.errorbar(
                rows["lag"], rows["probability"], rows["standard_error"], color=colour, label=shown, marker="o", ms=3,
                lw=1.2, zorder=1 if others else 2,
            )  # fmt: skip
        ax.set(title=name, xlabel="lag from the earlier occurrence", ylabel="probability of that token")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
