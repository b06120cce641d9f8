"""The head scores there are, by name; and how a score of a user's own is found and checked."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from induction_lab.runtime.nearest import did_you_mean, names_in_short
from induction_lab.scores.attention_scores import BY_NAME
from induction_lab.scores.kinds.copying import Copying
from induction_lab.scores.kinds.every import KINDS_OF_HEADS
from induction_lab.scores.logit_attribution import AnswerLogits
from induction_lab.scores.score import (
    BIETTI,
    ELHAGE,
    OLSSON,
    AttentionScore,
    CausalScore,
    LayerScore,
    Score,
    ScoreWords,
    WeightScore,
)
from induction_lab.scores.weight_scores import OVCopying

ALL = "all"  # of `SCORES`, where names are given
SCORES: dict[str, Score] = {
    **BY_NAME,
    **{score.name: score for score in (Copying(), AnswerLogits(), OVCopying())},
}
KINDS: dict[str, Score] = {score.name: score for score in KINDS_OF_HEADS}
EVERY = SCORES | KINDS
REPEAT_SCORES = tuple(name for name, score in BY_NAME.items() if score.finds_repeats)

MEASURED = {
    "mean_loss": ScoreWords("Mean loss", "Mean over the tokens of the texts.", 0.0, unit="nats"),
    "loss": ScoreWords("Loss at token", "Mean over texts at one index.", 0.0, unit="nats"),
    "loss_by_copy": ScoreWords("Loss on copy", "Mean on one copy of a repeated block.", 0.0, unit="nats"),
    "token_loss": ScoreWords("Loss on one token of text", "One fixed token of one text.", 0.0, unit="nats"),
    "loss_derivative": ScoreWords("Loss derivative", source=OLSSON, unit="nats per e-fold of context"),
    "icl_score": ScoreWords(
        "In-context-learning score", "Loss at a late token minus loss at an early one.", source=OLSSON, unit="nats"
    ),
    **{
        f"composition_{kind}": ScoreWords(
            f"{kind}-composition", "With the earlier head it reads most, above random matrices.", 0.0, source=ELHAGE
        )
        for kind in "QKV"
    },
    "qk_matching": ScoreWords(
        "QK matching", "How far queries look for keys whose previous token is their own.", -1.0, 1.0, ELHAGE
    ),
    "output_memory": ScoreWords(
        "Output memory", "Share of tokens that raise themselves most through the head's weights.", 0.0, 1.0, BIETTI
    ),
    "key_memory": ScoreWords(
        "Key memory", "Share of tokens whose query prefers, of all keys that tell the token before, its own.",
        0.0, 1.0, BIETTI,
    ),
    "position_memory": ScoreWords(
        "Position memory", "Share of positions whose query prefers the position before.", 0.0, 1.0, BIETTI
    ),
    "preferred_offset": ScoreWords(
        "Preferred offset", "How many tokens back the mean query prefers the mean key.", 0.0, unit="tokens"
    ),
}  # fmt: skip


def find_scores(asked: str | Score | Iterable[str | Score] | None = None) -> dict[str, Score]:
    """Scores by name, in the order asked for; by default all of `SCORES`.

    Args:
        asked: Names from `SCORES` and `KINDS`, `all` for all of `SCORES`; scores of your own, or where they stand, as
            `module:name`.

    Raises:
        ValueError: If one is unknown, says too little of itself, or has a name that is taken.
    """
    if asked is None:
        return dict(SCORES)
    found: dict[str, Score] = {}
    every = [asked] if isinstance(asked, str | Score) else list(asked)
    every = [each for one in every for each in (SCORES.values() if one == ALL else [one])]
    unknown = [each for each in every if isinstance(each, str) and ":" not in each and each not in EVERY]
    if unknown or not every:
        there = names_in_short(EVERY)
        raise ValueError(f"Unknown scores {unknown}; there are {there}.{did_you_mean(unknown, EVERY)}")
    for each in every:
        score = (EVERY.get(each) or imported(each)) if isinstance(each, str) else each
        score = checked(score)
        if found.setdefault(score.name, score) is not score:
            raise ValueError(f"Two scores are called {score.name!r}; give one another: score.name = '{score.name}_2'.")
    return found


def words(metric: str) -> ScoreWords:
    """Of a score or another number that is measured, or of a name that is neither."""
    known = EVERY[metric].words if metric in EVERY else MEASURED.get(metric)
    return known or ScoreWords(metric.replace("_", " "), low=0.0)


def imported(place: str) -> Any:
    """What should be a score of a user's own, from where it stands.

    Args:
        place: `module:name` of a score, or of a class that makes one without arguments.

    Raises:
        ValueError: If it is not there.
    """
    module, _, name = place.partition(":")
    found: Any
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"A score of your own is written module:name, the module importable; {place}: {error}."
        ) from None
    return found() if isinstance(found, type) else found


def checked(score: Any) -> Score:
    """What is given, if it is a score.

    Raises:
        ValueError: If it is no score, says too little of itself, or has a name that is taken.
    """
    if not isinstance(score, AttentionScore | LayerScore | WeightScore | CausalScore):
        made = f", so give {score.__name__}()" if isinstance(score, type) else ""
        kinds = "AttentionScore, LayerScore, WeightScore or CausalScore"
        raise ValueError(f"A score is a name or an {kinds}, got {score!r}{made}.")
    name = score.name
    if type(EVERY.get(name)) is type(score):  # itself, or with settings of its own
        return score
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"A score's `name` is a word such as two_back, got {name!r} of {type(score).__name__}.")
    if name in EVERY or name in MEASURED:
        raise ValueError(f"The name {name!r} is taken: {words(name).title}. Give the score another.")
    if not score.meaning:
        raise ValueError(f"{name} does not say what it means: give it a `meaning`, which tables and pages show.")
    if score.low is not None and score.high is not None and not score.low < score.high:
        raise ValueError(f"{name} has no range: `low` must be less than `high`, got {score.low} and {score.high}.")
    return score
