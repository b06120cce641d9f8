"""A race: heads whose effect is certainly small drop out after few prompts, the others are measured on all of them.

Every head is measured on the first prompt; after 1, 2, 4, 8, … prompts those leave whose interval for the mean effect
over *all* prompts lies within ± a bound: they are equivalent to nothing, which is more than not to differ from it. Who
stays to the end has the numbers of a whole sweep. Prompts are whole ones: on shorter prompts heads do something else,
and a token tells no more there.

What makes few prompts enough is a control variate. A head's effect goes up and down from prompt to prompt, and its
gradient estimate, which costs next to nothing, mostly goes with it. So the estimate is the mean of the gradient's over
all prompts plus the mean difference between measured and estimated over the prompts run: whatever the gradient is worth
it is without bias, and a bad one only leaves a wider interval. Where there are no gradients the estimate is 0.

How far the difference varies from prompt to prompt has to be known after one. It is put together from three sources, as
in empirical-Bayes tests of many genes: how far parts of the first prompt disagree (times `TOGETHER`, as tokens of one
prompt go together), a share `CURVED` of the spread of the gradient's estimates, and, with its own degrees of freedom,
the spread over the prompts run. Intervals are Student's, at error probability `ERROR` for all heads and looks together
(Bonferroni: no more is assumed about how heads go together, and there are three looks, so little is given away).
They are as good as this model of the spread, whose constants were chosen on two language models.

Sources: Cochran (1977), *Sampling Techniques*, 7 (difference estimator); Smyth (2004), doi:10.2202/1544-6115.1027
(pooled variances); Schuirmann (1987), doi:10.1007/BF01068419 (equivalence).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.behaviour.metrics import Metric, name_of
from induction_lab.interventions.prepared import PreparedBatch, PreparedPrompts
from induction_lab.results.statistics import number_and_error, t_exceeded
from induction_lab.runtime.progress import Ticker

ERROR = 0.05  # probability that any interval of a race misses
PARTS = 7  # of the first prompt
TOGETHER = 2.25  # so many times as much do prompts vary as they would if their tokens were independent
CURVED = 0.2  # of the spread of the gradient's estimates: the least that is thought to be missing in them
PRIOR = 5.0  # prompts' worth of degrees of freedom that this is trusted with

Run = Callable[[PreparedBatch, Sequence[str], int], Iterator[tuple[str, Float[Tensor, "prompt part"]]]]
Predict = Callable[[PreparedBatch, int], Float[Tensor, "name prompt part"]]


class Raced(NamedTuple):
    """What is known of one runner.

    Attributes:
        effect: The mean effect over all prompts, estimated if not all were run.
        error: Its standard error over prompts; of an estimate with its own error.
        n_prompts: How many were run.
    """

    effect: float
    error: float
    n_prompts: int


def race(
    prepared: PreparedPrompts,
    names: Sequence[str],
    run: Run,
    *,
    within: float,
    n_all: int,
    predict: Predict | None,
    tick: Ticker,
) -> tuple[Float[Tensor, " prompt"], dict[str, Raced]]:
    """The metric of each prompt as it is, and what each runner does to it.

    Args:
        prepared: In stages, the first of one prompt.
        names: The runners.
        run: The metric of a batch, in parts, with each of some runners' interventions.
        within: The bound, in units of the metric.
        n_all: How many runners there are, where these are some of them.
        predict: What a batch's parts change by, estimated for all runners; None where there are no gradients.
        tick: Told how many prompts were run or need not be.

    """
    n_parts = _parts_of_first(prepared)
    guess, expected = _predicted(prepared, len(names), n_parts, predict)
    changes, missing = torch.full_like(guess, math.nan), -expected
    clean: list[Tensor] = []
    found: dict[str, Raced] = {}
    left = list(range(len(names)))
    for rows, batch in zip(prepared.slices, prepared, strict=True):
        before = batch.clean_parts(n_parts)
        clean.append(before.sum(1))
        place = {names[i]: i for i in left}
        for name, after in run(batch, list(place), n_parts):
            change = (after.cpu() - before).double()
            changes[place[name], rows] = change.sum(1)
            if rows.start == 0:
                missing[place[name]] += change[0]
        tick(len(left) * len(batch.prompts))
        if rows.stop == len(prepared.prompts) or not left:
            continue
        level = ERROR / 2 / n_all / (len(prepared) - 1)
        effect, error, bound = _estimated(changes[left, : rows.stop], guess[left], missing[left], level)
        gone: dict[int, Raced] = {
            left[i]: Raced(float(effect[i]), float(error[i]), rows.stop)
            for i in (effect.abs() + bound < within).nonzero()[:, 0].tolist()
        }
        found.update((names[i], raced) for i, raced in gone.items())
        tick(len(gone) * (len(prepared.prompts) - rows.stop))
        left = [i for i in left if i not in gone]
    found.update((names[i], Raced(*number_and_error(changes[i]), len(changes[i]))) for i in left)
    return torch.cat(clean), found


def staged(prepared: PreparedPrompts, within: float) -> PreparedPrompts:
    """The prompts in the stages of a race.

    Raises:
        ValueError: If the bound is not above 0, a prompt has no value, the metric has no parts, or reads fewer than
            two tokens of the first prompt.
    """
    measure = prepared.measure
    if not 0 < within < math.inf:
        raise ValueError(f"`screen` is how small an effect may be left out, above 0 in units of the metric; {within=}.")
    if not isinstance(measure.metric, Metric):
        raise ValueError(
            f"Heads are left out by how far tokens of a prompt agree, and {name_of(measure.metric)} is a function of "
            "all of them: leave `screen` out."
        )
    if not bool(measure.defined.all()) or _parts_of_first(prepared) < 2:
        raise ValueError(
            f"Heads are left out by how far tokens of a prompt agree, and of some prompt {measure.metric.name} reads "
            "fewer than two here: leave `screen` out, or those prompts."
        )
    return prepared.in_stages()


def _parts_of_first(prepared: PreparedPrompts) -> int:
    """Into how many parts the first prompt's tokens are put."""
    return min(PARTS, int((prepared.measure.weights[0] != 0).sum()))


def _predicted(
    prepared: PreparedPrompts, n_names: int, n_parts: int, predict: Predict | None
) -> tuple[Float[Tensor, "name prompt"], Float[Tensor, "name part"]]:
    """What each prompt, and each part of the first, is estimated to change by."""
    guess = torch.zeros(n_names, len(prepared.prompts), dtype=torch.float64)
    expected = torch.zeros(n_names, n_parts, dtype=torch.float64)
    for rows, batch in zip(prepared.slices, prepared, strict=True):
        if predict is not None:
            found = predict(batch, n_parts if rows.start == 0 else 1).double().cpu()
            guess[:, rows] = found.sum(2)
            expected = found[:, 0] if rows.start == 0 else expected
    return guess, expected


def _estimated(
    changes: Float[Tensor, "name measured"],
    guess: Float[Tensor, "name prompt"],
    missing: Float[Tensor, "name part"],
    level: float,
) -> tuple[Float[Tensor, " name"], Float[Tensor, " name"], Float[Tensor, " name"]]:
    """The mean effect over all prompts, its standard error over prompts, and how far off it is at a one-sided level."""
    n, n_prompts, n_parts = changes.shape[1], guess.shape[1], missing.shape[1]
    left_over, spread = changes - guess[:, :n], guess.var(1)
    prior = min(PRIOR, n_parts - 1.0)
    variance = prior * (TOGETHER * n_parts * missing.var(1) + CURVED**2 * spread)
    variance = (variance + (left_over.var(1) * (n - 1) if n > 1 else 0.0)) / (prior + n - 1)
    unknown = variance * (1 / n - 1 / n_prompts)
    bound = t_exceeded(level, prior + n - 1) * unknown.sqrt()
    return guess.mean(1) + left_over.mean(1), ((spread + variance) / n_prompts + unknown).sqrt(), bound
