"""Two measurements of the same heads against each other."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from induction_lab.plots.style import ACCENT, INK, QUIET, bare, broken, new_axes
from induction_lab.scores.results import HeadScores, compare_scores


def plot_score_comparison(
    first: HeadScores,
    second: HeadScores,
    score: str | None = None,
    *,
    names: tuple[str, str] | None = None,
    ax: Axes | None = None,
    mark: int = 5,
) -> Axes:
    """Each head a dot, across its score in one measurement and up in another, with standard errors: `compare_scores`.

    Args:
        first: Scores of a model, across.
        second: Scores of a model with as many layers and heads, up.
        score: By default prefix matching, or the first that `first` has.
        names: What tells the two apart on the axes, such as the steps of training; by default what of the prompts
            differs, where that is known.
        ax: Where to draw.
        mark: How many of the heads that differ most are named.

    Raises:
        ValueError: As `compare_scores`.
    """
    table = compare_scores(first, second, score)
    score = score or first.default_score
    ax = ax or new_axes(figsize=(4.6, 4.6), layout="constrained")
    x, y = table["first"].to_numpy(), table["second"].to_numpy()
    errors = (np.nan_to_num(table[name]) for name in ("second_error", "first_error"))
    ax.errorbar(x, y, *errors, fmt="o", ms=3, lw=0.8, color=QUIET, zorder=1)
    low, high = first.about(score).axis(np.concatenate([x, y]))
    margin = 0.04 * (high - low)
    ax.plot([low, high], [low, high], color=INK, lw=0.8, zorder=0)
    named = table.head(mark)[table.head(mark)["difference"].abs() > margin]
    ax.plot(named["first"], named["second"], "o", ms=5, color=ACCENT, zorder=2)
    _name_dots(ax, list(zip(named["label"], named["first"], named["second"], strict=True)), (low + high) / 2, margin)
    limits = (low - margin, high + margin)
    ax.set(xlim=limits, ylim=limits, aspect="equal", title=broken(f"{first.about(score).title} of each head", ax))
    names = names or _told_apart(first, second)
    for put, name, each, up in ((ax.set_xlabel, names[0], first, False), (ax.set_ylabel, names[1], second, True)):
        put(broken(f"{name} ({each.model})", ax, 10, upright=up))
    bare(ax)
    return ax


def _told_apart(first: HeadScores, second: HeadScores) -> tuple[str, str]:
    """What of the prompts differs between two measurements, else which is which."""
    facts = [scores.provenance.get("prompts", {}) for scores in (first, second)]
    for name in ("kind", "period", "gap", "n_repeats", "n_tokens", "n_prompts", "seed"):
        mine, other = (each.get(name) for each in facts)
        if mine != other and None not in (mine, other):
            said = "" if name == "kind" else f"{name.removeprefix('n_')} "
            return f"{said}{mine}", f"{said}{other}"
    return "first", "second"


def _name_dots(ax: Axes, dots: list[tuple[str, float, float]], middle: float, margin: float) -> None:
    """Names beside dots, towards the middle; one that would cover another stands below it, with a line to its dot."""
    placed: list[tuple[float, float]] = []
    for label, across, up in sorted(dots, key=lambda dot: -abs(dot[2] - middle)):
        towards, at = (-1 if across > middle else 1), up
        beside = across + towards * margin
        centre = beside + towards * 2 * margin  # a name is about 4 margins wide and one high
        while any(abs(centre - x) < 4 * margin and abs(at - y) < margin for x, y in placed):
            at += 0.25 * margin * (-1 if up > middle else 1)
        placed.append((centre, at))
        ax.text(beside, at, label, fontsize=8, ha="right" if towards < 0 else "left", va="center")
        if abs(at - up) > 0.5 * margin:
            ax.plot([across, beside], [up, at], color=INK, lw=0.5, zorder=1)
