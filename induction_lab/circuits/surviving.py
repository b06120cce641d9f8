"""`surviving_kinds`: how much of a kind of heads is left where the heads of another kind are ablated.

Heads of one kind may be what heads of another kind, in later layers, read. The question is that of Yin and Steinhardt
(2025), https://arxiv.org/abs/2502.14010, of induction and function-vector heads; they ablate one kind and measure
tasks, here the other kind's own score is measured.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from induction_lab.circuits.kinds import BY_NAME, HeadKinds
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts, distinct_tokens, repeated_tokens
from induction_lab.interventions.ablating import constant_heads
from induction_lab.interventions.outputs import means_over_positions
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import check_same_model
from induction_lab.results.heads import Head
from induction_lab.results.saved import check_result
from induction_lab.runtime.progress import progress_bar
from induction_lab.runtime.whole_numbers import check_numbers
from induction_lab.scores.planning import plan_scores
from induction_lab.scores.registry import EVERY, find_scores
from induction_lab.scores.results import HeadScores
from induction_lab.scores.score import CausalScore, Score, WeightScore
from induction_lab.scores.scoring import run_plan

REFERENCE = 8  # prompts of random tokens that means are taken over
FARTHEST = 3  # layers between a head and the bystander that stands for it


@takes_names
def surviving_kinds(
    model: HookedModel,
    found: HeadKinds,
    prompts: PromptsLike | None = None,
    *,
    scores: str | Score | Iterable[str | Score] | None = None,
    n_draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """How much of each kind's score is left in later layers, with the heads of another kind ablated.

    >>> model = load_model("smollm2-135m")                                                        # doctest: +SKIP
    >>> surviving_kinds(model, classify_heads(model, causal=False))[["ablated", "kind", "left"]]   # doctest: +SKIP

    Of a kind, those heads count that stand behind the first ablated one and are not ablated themselves. `left` is how
    far their mean score is above chance, as a share of how far it was: 1 where nothing is lost, 0 where chance is left,
    NaN where it was at chance.
    Beside it the same with as many heads of no kind ablated, several draws (`bystanders`).

    Scores have prompts of their own, of many lengths. So an ablated head puts out one vector at all positions: its mean
    over the positions of random tokens that repeat nothing. The first position keeps its own output, which is that of
    BOS on every prompt.

    Args:
        model: Any supported model.
        found: Its kinds, from `classify_heads`.
        prompts: For scores that have none of their own; 16 of 2 x 50 random tokens by default.
        scores: Those of the kinds to be measured; by default all that read one run of the model. Scores of weights do
            not change, and causal ones cost a forward pass a head and prompt: they are measured if given. Cheaper ones
            may be given, such as `TokenMatching(n_prompts=8)`.
        n_draws: Sets of bystanders.
        seed: Of their choice.
        progress: A progress bar on standard error.

    Returns:
        One row a pair of kinds: `model`, `ablated`, `n_ablated`, `kind`, `score`, `n_heads`, the heads that count;
        `clean`, `without`, their mean score before and after; `left`; `others`, the mean of `left` over bystanders,
        with its standard deviation `others_sd`, `others_least` and `others_most`; `n_draws` and `farthest`, see
        `bystanders`. Without rows where no kind has heads behind another's.

    Raises:
        ValueError: If a score is no kind's or cannot be had, `found` is of another model, other weights or another
            dtype, or `n_draws` is no whole number above 0.
    """
    check_numbers(n_draws=n_draws)
    check_result(found, HeadKinds, "found", "classify_heads")
    check_same_model("`found` is", found.model, found.provenance, model)
    by_kind = _measured(found, scores)
    given = repeated_tokens(model) if prompts is None else as_prompts(model, prompts)
    pairs = {ablated: _behind(found, ablated, by_kind) for ablated in found.kinds if found.of(ablated)}
    sets = {ablated: bystanders(found, found.of(ablated), n=n_draws, seed=seed) for ablated in pairs if pairs[ablated]}
    means = means_over_positions(model, _reference(model, given)) if sets else {}
    rows = []
    with progress_bar(sum(1 + len(drawn) for drawn, _ in sets.values()), "ablating kinds", shown=progress) as tick:
        for ablated, (drawn, farthest) in sets.items():
            behind = pairs[ablated]
            plan = plan_scores(model, given, list({kind: by_kind[kind] for kind in behind}.values()), strict=True)
            clean = run_plan(model, plan, loss=False)
            changed = []
            for heads in (found.of(ablated), *drawn):
                with constant_heads(model, heads, means):
                    changed.append(run_plan(model, plan, loss=False))
                tick(1)
            for kind, heads in behind.items():
                row = {"model": model.name, "ablated": ablated, "n_ablated": len(found.of(ablated)), "kind": kind}
                row |= _left(BY_NAME[kind].score, heads, clean, changed)
                rows.append(row | {"n_draws": len(drawn), "farthest": farthest})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


COLUMNS = (
    "model", "ablated", "n_ablated", "kind", "score", "n_heads", "clean", "without", "left", "others", "others_sd",
    "others_least", "others_most", "n_draws", "farthest",
)  # fmt: skip


def bystanders(found: HeadKinds, heads: Sequence[Head], *, n: int = 10, seed: int = 0) -> tuple[list[list[Head]], int]:
    """Different sets of as many heads of no kind, each from the layers of those for which they stand.

    Args:
        found: The kinds.
        heads: For which they stand.
        n: How many sets.
        seed: Of the choice.

    Returns:
        The sets, and how many layers a bystander may be away from the head for which it stands: 0, or where there are
        too few sets so, 1 to 3. There may be fewer than `n`, also none, and smaller ones, where too few heads are of no
        kind.
    """
    named = set(found.table.loc[found.table["is_kind"], "label"])
    every = [Head(*pair) for pair in found.table[["layer", "head"]].drop_duplicates().itertuples(index=False)]
    free = [head for head in every if str(head) not in named]
    size, best = min(len(heads), len(free)), 0
    drawn: dict[tuple[Head, ...], None] = {}
    for farthest in range(FARTHEST + 1):
        generator = random.Random(seed)
        for _ in range(20 * n):
            some = tuple(sorted(_drawn(free, heads, farthest, generator)))
            if len(some) == size and some not in drawn and len(drawn) < n:
                drawn[some], best = None, farthest
        if len(drawn) == n:
            break
    return [list(some) for some in drawn if some], best


def _drawn(free: list[Head], heads: Sequence[Head], farthest: int, generator: random.Random) -> list[Head]:
    """One set; smaller where some head has nobody near it."""
    chosen: list[Head] = []
    for head in heads:
        near = [other for other in free if other not in chosen and abs(other.layer - head.layer) <= farthest]
        if near:
            chosen.append(generator.choice(near))
    return chosen


def _measured(found: HeadKinds, scores: Any) -> dict[str, Score]:
    """The score of each kind that is measured."""
    if scores is None:
        named = [EVERY[BY_NAME[kind].score] for kind in found.kinds]
        given = {score.name: score for score in named if not isinstance(score, WeightScore | CausalScore)}
    else:
        given = find_scores(scores)
    kind_of = {BY_NAME[kind].score: kind for kind in found.kinds}
    unknown = [name for name in given if name not in kind_of]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no kind here has this score; they have {', '.join(kind_of)}.")
    return {kind_of[name]: score for name, score in given.items()}


def _behind(found: HeadKinds, ablated: str, measured: Iterable[str]) -> dict[str, list[Head]]:
    """Of each other kind, the heads behind the first ablated one that are not ablated."""
    gone = found.of(ablated)
    first = min(head.layer for head in gone)
    heads = {
        kind: [head for head in found.of(kind) if head.layer > first and head not in gone]
        for kind in measured
        if kind != ablated
    }
    return {kind: some for kind, some in heads.items() if some}


def _reference(model: HookedModel, given: Prompts) -> Prompts:
    """Random tokens that repeat nothing, as long as half of a prompt: so many different ones there are."""
    length = max(1, (given.tokens.shape[1] - given.first) // 2)
    return distinct_tokens(model, n_prompts=REFERENCE, length=length, seed=(given.seed or 0) + 1, bos=given.bos)


def _left(score: str, heads: list[Head], clean: HeadScores, changed: list[HeadScores]) -> dict[str, Any]:
    """How much is left of some heads' score: of the first of `changed` the ablated kind, then of bystanders."""
    layers, which = [head.layer for head in heads], [head.head for head in heads]
    before, *after = (float(scores[score][layers, which].double().mean()) for scores in (clean, *changed))
    chance = clean.uniform[score]
    chance = 0.0 if np.isnan(chance) else chance
    far = before - chance or np.nan  # of a score that is at chance with nothing ablated there is no share
    left = np.array([(value - chance) / far for value in after])
    others = left[1:] if len(left) > 1 else np.array([np.nan])
    spread = float(others.std(ddof=1)) if len(others) > 1 else np.nan
    return {
        "score": score, "n_heads": len(heads), "clean": before, "without": after[0], "left": left[0],
        "others": others.mean(), "others_sd": spread, "others_least": others.min(), "others_most": others.max(),
    }  # fmt: skip
