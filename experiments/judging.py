"""From effects to outcomes: where an interval lies against a threshold, per class of models.

Models are the groups and prompts (or heads) lie inside them. A class's effect is the mean of its models' effects, each
counted once; its interval is Student's, over models: `mean ± t(k - 1) · √(s² / k)`. The spread s² of the models' means
holds both kinds of variation, between models and within them, so where the models are alike in size and number of items
the interval is exact, and it stays wide while there are few: t is 6.3 for two models and 2.9 for three. (A bootstrap
over models then items was the other choice; of three models it can only ever draw those three, and its intervals are
far too narrow.) By chance a few models may lie closer together than the errors of each allow: the spread is never taken
to be less than the mean of their squared errors. One model says nothing about others: its interval is over its own
items, and at best the claim holds with that caveat. So it is where a few models are too unlike for an interval over
models and each by itself lies on the same side of the threshold: in these, and nothing is said about others.

Intervals are 90 %, so that an effect that lies on the threshold is taken to be above it once in 20 times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy.stats import beta, norm, t

HOLDS, CAVEAT, NOT = "holds", "holds with a caveat", "does not hold here"
UNDECIDED, CONSTRUCTION, UNTESTED = "not decided", "true by construction, checked", "not tested"
OUTCOMES = (HOLDS, CAVEAT, NOT, UNDECIDED, CONSTRUCTION, UNTESTED)
DIFFERS = "differs by class of models"
SIDE = 0.05  # of error on each side of an interval
LANGUAGE = ("smollm2", "gemma3")  # how the names of language models begin
ENCODER = "encoder "  # what is put before the name of a model that reads in both directions
SMALL_MODELS, LANGUAGE_MODELS, ENCODERS = "small models", "language models", "bidirectional encoders"


class Effect(NamedTuple):
    """What was found in one model: a mean over items (prompts, heads), its standard error, how many items."""

    value: float
    error: float | None = None
    items: int | None = None


class Interval(NamedTuple):
    """An effect in a class of models; without bounds where nothing bounds it."""

    value: float
    low: float
    high: float


def effect(items: Sequence[float]) -> Effect:
    """One model's effect from its items."""
    n = len(items)
    if not n:
        raise ValueError("An effect needs at least one item, got none.")
    mean = math.fsum(items) / n
    error = math.sqrt(math.fsum((each - mean) ** 2 for each in items) / (n - 1) / n) if n > 1 else None
    return Effect(mean, error, n)


def ratio(part: Sequence[float], whole: Sequence[float]) -> Effect:
    """A ratio of two means over the same items, its error by leaving out each in turn (the jackknife)."""
    n, over, under = len(part), sum(part), sum(whole)
    left = [(over - a) / (under - b) for a, b in zip(part, whole, strict=True)]
    mean = sum(left) / n
    return Effect(over / under, ((n - 1) / n * sum((each - mean) ** 2 for each in left)) ** 0.5, n)


def told(found: Effect) -> str:
    """An effect with its error, as pages give it."""
    return f"{found.value:+.3f} ± {found.error or 0.0:.3f}"


def pooled(effects: Sequence[Effect]) -> Interval:
    """The mean over models with its interval (see above); a single model's is over its items.

    Raises:
        ValueError: If there is no effect, or one is not finite.
    """
    if not effects or not all(math.isfinite(each.value) for each in effects):
        raise ValueError(f"Finite effects of at least one model are wanted, got {[each.value for each in effects]}.")
    k = len(effects)
    value = math.fsum(each.value for each in effects) / k
    within = [each.error**2 for each in effects if each.error is not None]
    if k == 1:
        (one,) = effects
        if one.error is None:
            return Interval(value, -math.inf, math.inf)
        factor = t.ppf(1 - SIDE, one.items - 1) if one.items else norm.ppf(1 - SIDE)
        half = float(factor) * one.error
    else:
        between = math.fsum((each.value - value) ** 2 for each in effects) / (k - 1)
        spread = max(between, math.fsum(within) / len(within) if within else 0.0)
        half = float(t.ppf(1 - SIDE, k - 1)) * math.sqrt(spread / k)
    return Interval(value, value - half, value + half)


def judge(
    effects: Mapping[str, Effect],
    needed: float,
    *,
    at_most: bool = False,
    unit: str = "",
    undecided: str | Mapping[str, str] = "",
) -> dict[str, Any]:
    """The outcome in each class of models: the interval above `needed` holds, below it does not, across is undecided.

    >>> Verdict(claim, source, criterion, numbers, control, **judge(effects, 0.5))         # doctest: +SKIP

    Args:
        effects: By model; what class it is of, its name says.
        needed: The threshold, stated before the effects were seen.
        at_most: The claim is that the effect is below the threshold.
        unit: Of the effects.
        undecided: Why nothing can be concluded (the control failed, still rising), whatever the interval says; by
            model where it is said of some, whose classes alone are undecided.
    """
    classes = {}
    for kind, own in by_class(effects).items():
        bounds = pooled(list(own.values()))
        low, high = _sides(bounds, at_most)
        limit = -needed if at_most else needed
        alone = [_sides(pooled([each]), at_most) for each in own.values()]
        failing = [name for name, each in own.items() if (each.value >= needed if at_most else each.value <= needed)]
        reason = (
            undecided if isinstance(undecided, str) else " ".join(undecided[name] for name in own if name in undecided)
        )
        each_of = f"In each of these {len(own)}, {', '.join(own)}; nothing is said about others."
        if reason:
            found, why = UNDECIDED, reason
        elif low > limit:
            reasons = [f"Fails for {', '.join(failing)}."] if failing else []
            reasons += [f"One model, {next(iter(own))}: nothing is said about others."] if len(own) == 1 else []
            found, why = (CAVEAT if reasons else HOLDS), " ".join(reasons)
        elif high < limit:
            found, why = NOT, ""
        elif all(one > limit for one, _ in alone):
            found, why = CAVEAT, each_of
        elif all(one < limit for _, one in alone):
            found, why = NOT, each_of
        else:
            found, why = UNDECIDED, "The interval holds the threshold: too few models, or too unlike."
        told = {"value": bounds.value, "low": bounds.low, "high": bounds.high}
        measured = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in told.items()}
        classes[kind] = {"outcome": found, "caveat": why, **measured, "models": len(own), "needed": needed,
                         "at_most": at_most, "unit": unit}  # fmt: skip
    side, other = ("below", "above") if at_most else ("above", "below")
    change = f"an interval {other} {needed:g}{' ' * bool(unit)}{unit}; it holds where the interval lies {side} it"
    return _together(classes) | {"would_change": change}


def _sides(bounds: Interval, at_most: bool) -> tuple[float, float]:
    """The interval, turned round where the claim is that an effect is small."""
    return (-bounds.high, -bounds.low) if at_most else (bounds.low, bounds.high)


def votes(passed: Mapping[str, bool], *, undecided: str = "") -> dict[str, Any]:
    """The outcome in each class of models of which each passed or failed: do more than half of such models pass?

    From the exact (Clopper-Pearson) interval of their share: four models or fewer decide nothing, five do if they are
    of one mind. Better than votes is an effect, where there is one: `judge`.
    """
    classes = {}
    for kind, own in by_class(passed).items():
        n, k = len(own), sum(map(bool, own.values()))
        low = float(beta.ppf(SIDE, k, n - k + 1)) if k else 0.0
        high = float(beta.ppf(1 - SIDE, k + 1, n - k)) if k < n else 1.0
        failing = [name for name, ok in own.items() if not ok]
        named = f"Fails for {'each of them' if len(failing) == n else ', '.join(failing)}." if failing else ""
        found = (CAVEAT if failing else HOLDS) if low > 0.5 else NOT if high < 0.5 else UNDECIDED
        if undecided or found == UNDECIDED:
            found, why = UNDECIDED, undecided or f"{k} of {n} pass, which leaves open whether most do."
            named = f"{why} {named}".strip()
        classes[kind] = {"outcome": found, "caveat": named, "value": k / n, "low": low, "high": high, "models": n,
                         "needed": 0.5, "at_most": False, "unit": "of models pass"}  # fmt: skip
    return _together(classes) | {"would_change": "as many models of the class failing as makes half of them possible"}


def by_construction(checked: Mapping[str, bool]) -> dict[str, Any]:
    """What cannot be otherwise, if it was measured right: by model, whether the check (with its control) came out."""
    if not checked:
        return _together({})
    failed = [name for name, ok in checked.items() if not ok]
    told = f"The check failed for {', '.join(failed)}: measured wrongly, for it cannot be otherwise." if failed else ""
    change = "nothing could: it follows from how the model is built; a failed check is a fault of the measurement"
    return {"outcome": NOT if failed else CONSTRUCTION, "caveat": told, "would_change": change}


def outcome(passed: Mapping[str, bool]) -> dict[str, Any]:
    """Parts of a claim in one model, each decided by its own errors: named where they fail.

    Not for models or seeds, which are no parts of each other: `judge` and `votes`.
    """
    if not passed:
        return {"outcome": UNTESTED, "caveat": "No model here has what the claim is about."}
    failed = [name for name, ok in passed.items() if not ok]
    which = HOLDS if not failed else CAVEAT if len(failed) < len(passed) / 2 else NOT
    named = "each of them" if len(failed) == len(passed) else ", ".join(failed)
    return {"outcome": which, "caveat": f"Fails for {named}." if failed else ""}


def by_class(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Small models, language models and bidirectional encoders apart."""
    parts: dict[str, dict[str, Any]] = {SMALL_MODELS: {}, LANGUAGE_MODELS: {}, ENCODERS: {}}
    for name, each in found.items():
        kind = LANGUAGE_MODELS if name.startswith(LANGUAGE) else ENCODERS if name.startswith(ENCODER) else SMALL_MODELS
        parts[kind][name] = each
    return {kind: own for kind, own in parts.items() if own}


def by_recipe(effects: dict[str, Effect]) -> dict[str, Effect]:
    """Seeds of one recipe as one model: they are alike, and no five of them say what other data would give."""
    groups: dict[str, list[Effect]] = {}
    for model, found in effects.items():
        groups.setdefault(re.sub(r"-seed\d+$", "", model), []).append(found)
    return {name: own[0] if len(own) == 1 else effect([each.value for each in own]) for name, own in groups.items()}


def _together(classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if not classes:
        return {"outcome": UNTESTED, "caveat": "No model here has what the claim is about."}
    outcomes = {each["outcome"] for each in classes.values()}
    if outcomes == {HOLDS, CAVEAT}:
        outcomes = {CAVEAT}
    return {"outcome": outcomes.pop() if len(outcomes) == 1 else DIFFERS, "classes": classes}
