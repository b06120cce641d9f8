"""When and how fast a measurement changes over training.

Each reads a series of evaluations by training step, as `Trajectory.series` gives it; NaN evaluations are passed over.
Steps are those of the evaluations: nothing is interpolated, so that an answer is no finer than they are.
"""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd


def onset(series: pd.Series, threshold: float) -> int | None:
    """The first evaluation at or over `threshold`; None if none is. Since when: `onset_between`."""
    between = onset_between(series, threshold)
    return None if between is None else between[1]


def onset_between(series: pd.Series, threshold: float) -> tuple[int | None, int] | None:
    """The evaluations between which `threshold` is first reached: the last one below it and the first one not.

    None if it never is; the former is None if the very first evaluation is there.
    """
    before = None
    for step, value in _evaluations(series):
        if value >= threshold:
            return before, step
        before = step
    return None


def steepest(series: pd.Series) -> tuple[int, int] | None:
    """The two successive evaluations between which the value changes most, up or down; None if it never changes.

    The change between one evaluation and the next counts, however many steps lie between them; of equal ones the
    first.

    Raises:
        ValueError: If there are fewer than two evaluations.
    """
    seen = _evaluations(series)
    if len(seen) < 2:
        raise ValueError(f"Two evaluations or more are wanted, got {len(seen)}.")
    pairs = list(zip(seen, seen[1:], strict=False))
    before, after = max(pairs, key=lambda pair: abs(pair[1][1] - pair[0][1]))
    return (before[0], after[0]) if before[1] != after[1] else None


def rise_time(series: pd.Series, low: float, high: float) -> int | None:
    """Steps from the last evaluation below `low` to the first one over `high` that follows it.

    None if the rise was not seen: the value is never over `high`, or was not below `low` before it first was.

    Raises:
        ValueError: If `low` is above `high`.
    """
    if low > high:
        raise ValueError(f"`low` must not be above `high`, got {low=} and {high=}.")
    seen = _evaluations(series)
    above = next((step for step, value in seen if value > high), None)
    if above is None:
        return None
    below = [step for step, value in seen if step < above and value < low]
    return above - below[-1] if below else None


class Rise(NamedTuple):
    """Steps between which a value rises: the last evaluation before it and the first one after."""

    start: int
    end: int


def rise(series: pd.Series, *, least: float = 0.3, share: float = 0.2) -> Rise | None:
    """Where a value goes from `share` to `1 - share` of the way between its first and its greatest evaluation.

    None if it rises by less than `least` in all. `end - start` is the `rise_time` between the two.

    Args:
        series: Values by step.
        least: How far it must rise to count, in its own unit; 0.3 suits scores from 0 to 1.
        share: Of the way, left out at both ends; below 0.5.

    Raises:
        ValueError: If `share` is out of range.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"`share` must be from 0 to below 0.5, got {share}.")
    seen = _evaluations(series)
    values = [value for _, value in seen]
    if not seen or max(values) - values[0] < least:
        return None
    way = max(values) - values[0]
    end = next(step for step, value in seen if value >= values[0] + (1 - share) * way)
    before = [step for step, value in seen if step < end and value <= values[0] + share * way]
    return Rise(before[-1], end)


def _evaluations(series: pd.Series) -> list[tuple[int, float]]:
    """Steps in order and their values."""
    ordered = series.dropna().sort_index()
    return [(int(step), float(value)) for step, value in zip(ordered.index, ordered, strict=True)]
