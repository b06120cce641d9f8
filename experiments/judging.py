"""From effects to outcomes: where an interval lies against a threshold, per class of models.

Models are the groups and prompts (or heads) lie inside them. Seeds of one recipe are alike, and no five of them say
what other data, sizes or lengths of training would give: they are one model, whose items are its seeds. A name says of
which recipe a model is: all but the seed at its end (`repeats-600-seed0` of `repeats-600`, `one-layer, seed 0` of
`one-layer`, `seed 0` of a recipe without a name); a model without a seed is a recipe of its own.

A class's effect is the mean of its recipes' effects, each counted once; its interval is Student's, over recipes:
`mean ± t(k - 1) · √(s² / k)`. The spread s² of the recipes' means holds both kinds of variation, between recipes and
within them, so where these are alike in size and number of items the interval is exact, and it stays wide while there
are few: t is 6.3 for two and 2.9 for three. (A bootstrap over models then items was the other choice; of three models
it can only ever draw those three, and its intervals are far too narrow.) By chance a few may lie closer together than
the errors of each allow: the spread is never taken to be less than the mean of their squared errors. One recipe says
nothing about others: its interval is over its seeds, or over the items of its one model, and at best the claim holds
with that caveat. So it is where a few recipes are too unlike for an interval over them and each by itself lies on the
same side of the threshold: in these, and nothing is said about others.

What was found in each model (its value, error and items, or whether it passed) is kept beside the outcome, so that
where this rule changes the verdicts follow without measuring anew: `again`.

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
ASKED = ("needed", "at_most", "unit", "undecided", "beside")  # of a class, whatever was measured


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
    """The mean over recipes with its interval (see above); a single one's is over its items.

    Raises:
        ValueError: If there is no effect, or one is not finite.
    """
    if not effects or not all(math.isfinite(each.value) for each in effects):
        raise ValueError(f"Finite effects of at least one model are wanted, got {[each.value for each in effects]}.")
    together = _mean(effects)
    if together.error is None:
        return Interval(together.value, -math.inf, math.inf)
    factor = t.ppf(1 - SIDE, together.items - 1) if together.items else norm.ppf(1 - SIDE)
    half = float(factor) * together.error
    return Interval(together.value, together.value - half, together.value + half)


def _mean(effects: Sequence[Effect]) -> Effect:
    """Several effects as the items of one: their mean, its error no less than the errors of each allow."""
    if len(effects) == 1:
        return effects[0]
    k = len(effects)
    value = math.fsum(each.value for each in effects) / k
    within = [each.error**2 for each in effects if each.error is not None]
    between = math.fsum((each.value - value) ** 2 for each in effects) / (k - 1)
    spread = max(between, math.fsum(within) / len(within) if within else 0.0)
    return Effect(value, math.sqrt(spread / k), k)


def judge(
    effects: Mapping[str, Effect],
    needed: float,
    *,
    at_most: bool = False,
    unit: str = "",
    undecided: str | Mapping[str, str] = "",
    caveat: str = "",
) -> dict[str, Any]:
    """The outcome in each class of models: the interval above `needed` holds, below it does not, across is undecided.

    >>> Verdict(claim, source, criterion, numbers, control, **judge(effects, 0.5))         # doctest: +SKIP

    Args:
        effects: By model; what class and what recipe it is of, its name says.
        needed: The threshold, stated before the effects were seen.
        at_most: The claim is that the effect is below the threshold.
        unit: Of the effects.
        undecided: Why nothing can be concluded (the control failed, still rising), whatever the interval says; by
            model where it is said of some, whose classes alone are undecided.
        caveat: What is to be said beside it even where it holds.
    """
    asked = {"needed": needed, "at_most": at_most, "unit": unit}
    classes = {}
    for kind, own in by_class(effects).items():
        reason = (
            undecided if isinstance(undecided, str) else " ".join(undecided[name] for name in own if name in undecided)
        )
        kept = {"undecided": reason, "beside": caveat, "effects": {name: _rounded(each) for name, each in own.items()}}
        classes[kind] = _judged(asked | kept)
    side, other = ("below", "above") if at_most else ("above", "below")
    mended = "once what leaves it undecided is mended, " * any(each["undecided"] for each in classes.values())
    change = f"an interval {other} {needed:g}{' ' * bool(unit)}{unit}; it holds where the interval lies {side} it"
    return _together(classes) | {"would_change": mended + change}


def votes(passed: Mapping[str, bool], *, undecided: str = "", caveat: str = "") -> dict[str, Any]:
    """The outcome in each class of models of which each passed or failed: do more than half of such models pass?

    From the exact (Clopper-Pearson) interval of their share: four models or fewer decide nothing, five do if they are
    of one mind. Seeds of one recipe vote on that recipe; where there are several, each has one vote, as most of its
    seeds have it. Better than votes is an effect, where there is one: `judge`.
    """
    classes = {}
    for kind, own in by_class(passed).items():
        kept = {"undecided": undecided, "beside": caveat, "passed": {name: bool(ok) for name, ok in own.items()}}
        classes[kind] = _voted(kept)
    return _together(classes) | {"would_change": "as many models of the class failing as makes half of them possible"}


def again(classes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `judge` or `votes` find today in the effects that a verdict's classes keep; nothing where one keeps none."""
    if not classes or not all("effects" in found or "passed" in found for found in classes.values()):
        return {}
    return _together({kind: (_judged if "effects" in found else _voted)(found) for kind, found in classes.items()})


def _judged(kept: Mapping[str, Any]) -> dict[str, Any]:
    """One class of models, from what it keeps: effects, threshold, and what is said whatever the interval is."""
    own = {name: Effect(**each) for name, each in kept["effects"].items()}
    needed, at_most, recipes = kept["needed"], kept["at_most"], by_recipe(own)
    bounds = pooled(list(recipes.values()))
    limit = -needed if at_most else needed
    whole = _side(_sides(bounds, at_most), limit)
    alone = [_side(_sides(pooled([each]), at_most), limit) for each in recipes.values()]
    failing = [name for name, each in own.items() if (each.value >= needed if at_most else each.value <= needed)]
    told = {"value": bounds.value, "low": bounds.low, "high": bounds.high}
    measured = {name: float(f"{value:.6g}") if math.isfinite(value) else None for name, value in told.items()}
    counted = {"models": len(own), "recipes": len(recipes)}
    undecided = "The interval holds the threshold: too few models, or too unlike."
    found = _decided(whole, alone, failing, recipes, kept, undecided)
    return found | measured | counted | {name: kept[name] for name in (*ASKED, "effects")}


def _voted(kept: Mapping[str, Any]) -> dict[str, Any]:
    """One class of models, from which of them passed."""
    own, recipes = kept["passed"], {}
    for name, ok in own.items():
        recipes.setdefault(recipe_of(name), []).append(ok)
    several = len(recipes) > 1
    ballots = [sum(each) > len(each) / 2 for each in recipes.values()] if several else list(own.values())
    (n, k), failing = (len(ballots), sum(ballots)), [name for name, ok in own.items() if not ok]
    low, high = _share(k, n)
    alone = [_side(_share(sum(each), len(each)), 0.5) for each in recipes.values()]
    voters = "models" if len(recipes) == len(own) else "recipes" if several else "seeds"
    undecided = f"{k} of {n} pass, which leaves open whether most do. " + _failing(failing, own)
    found = _decided(_side((low, high), 0.5), alone, failing, recipes, kept, undecided.strip())
    if kept["undecided"]:
        found["caveat"] = f"{found['caveat']} {_failing(failing, own)}".strip()
    asked = {"needed": 0.5, "at_most": False, "unit": f"of {voters} pass", "undecided": kept["undecided"]}
    counted = {"value": k / n, "low": low, "high": high, "models": len(own), "recipes": len(recipes)}
    return found | counted | asked | {name: kept[name] for name in ("beside", "passed")}


def _decided(
    whole: int,
    alone: list[int],
    failing: list[str],
    recipes: Mapping[str, Any],
    kept: Mapping[str, Any],
    undecided: str,
) -> dict[str, str]:
    """The outcome and its caveat, from the sides of the threshold on which all together and each recipe alone lie."""
    own: Mapping[str, Any] = kept.get("effects") or kept["passed"]
    names = [name or "one recipe" for name in recipes]
    others = "nothing is said about others."
    if len(own) == 1:
        only = f"One model, {next(iter(own))}: {others}"
    else:
        of = f" of one recipe, {names[0]}" if next(iter(recipes)) else " of one recipe"
        only = f"{len(own)} seeds{of}: {others}" if len(recipes) == 1 else ""
    each_of = f"In each of these {len(recipes)}, {', '.join(names)}; {others}"
    if kept["undecided"]:
        found, why = UNDECIDED, kept["undecided"]
    elif whole > 0:
        why = " ".join(said for said in (_failing(failing, own), only) if said)
        found = CAVEAT if why or kept["beside"] else HOLDS
    elif whole < 0:
        found, why = NOT, only
    elif len(recipes) > 1 and (all(one > 0 for one in alone) or all(one < 0 for one in alone)):
        found, why = (CAVEAT if alone[0] > 0 else NOT), each_of
    else:
        found, why = UNDECIDED, undecided
    return {"outcome": found, "caveat": f"{why} {kept['beside']}".strip()}


def _failing(names: Sequence[str], own: Mapping[str, Any]) -> str:
    if not names:
        return ""
    return f"Fails for {'each of them' if len(names) == len(own) else ', '.join(names)}."


def _side(interval: tuple[float, float], limit: float) -> int:
    """Above the threshold (1), below it (-1), or across."""
    low, high = interval
    return 1 if low > limit else -1 if high < limit else 0


def _sides(bounds: Interval, at_most: bool) -> tuple[float, float]:
    """The interval, turned round where the claim is that an effect is small."""
    return (-bounds.high, -bounds.low) if at_most else (bounds.low, bounds.high)


def _share(k: int, n: int) -> tuple[float, float]:
    """The exact interval of a share of which k of n were seen."""
    low = float(beta.ppf(SIDE, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(1 - SIDE, k + 1, n - k)) if k < n else 1.0
    return low, high


def _rounded(found: Effect) -> dict[str, Any]:
    """An effect as files keep it: what is judged is what they say."""
    told = found._asdict()
    return told | {name: float(f"{told[name]:.6g}") for name in ("value", "error") if told[name] is not None}


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


def by_recipe(effects: Mapping[str, Effect]) -> dict[str, Effect]:
    """Seeds of one recipe as one model, whose items they are; a model that is alone keeps its own items."""
    groups: dict[str, list[Effect]] = {}
    for model, found in effects.items():
        groups.setdefault(recipe_of(model), []).append(found)
    return {name: _mean(own) for name, own in groups.items()}


def recipe_of(model: str) -> str:
    """A model's name without its seed; empty where it is named by nothing else."""
    return re.sub(r"(^|-|, )seed ?\d+$", "", model)


def _together(classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if not classes:
        return {"outcome": UNTESTED, "caveat": "No model here has what the claim is about."}
    outcomes = {each["outcome"] for each in classes.values()}
    if outcomes == {HOLDS, CAVEAT}:
        outcomes = {CAVEAT}
    return {"outcome": outcomes.pop() if len(outcomes) == 1 else DIFFERS, "classes": classes}
