"""What each score says, in words: title, definition, range, source. For pages and tables that people read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from induction_lab.results.heads import LOOKS

OLSSON = "Olsson et al. (2022), arxiv.org/abs/2209.11895"
ELHAGE = "Elhage et al. (2021), transformer-circuits.pub/2021/framework"
WANG = "Wang et al. (2022), arxiv.org/abs/2211.00593"


class ScoreWords(NamedTuple):
    """One score.

    Attributes:
        title: Short, for headings.
        definition: What number it is.
        low, high: What it can be; None where nothing bounds it.
        source: Where the definition comes from.
    """

    title: str
    definition: str
    low: float | None
    high: float | None
    source: str


SCORE_WORDS = {
    "prefix_matching": ScoreWords(
        "Prefix matching",
        "Attention from a token that occurred before to the tokens that followed it then, summed over them. What "
        f"people mean by an induction head is a head that scores above {LOOKS}.",
        0.0, 1.0, OLSSON,
    ),
    "induction_stripe": ScoreWords(
        "Induction stripe",
        "The same for the latest earlier occurrence alone. Equal to prefix matching where nothing occurs a third time.",
        0.0, 1.0, "Nanda, induction mosaic",
    ),
    "previous_token": ScoreWords(
        "Previous token", "Attention to the token before, from the third position on.", 0.0, 1.0, ELHAGE
    ),
    "duplicate_token": ScoreWords(
        "Duplicate token", "Attention from a token to its own earlier occurrences.", 0.0, 1.0, WANG
    ),
    "resting": ScoreWords(
        "Resting",
        "Attention to the first position (BOS) from tokens that did not occur before: where a head rests that finds "
        "nothing to copy.",
        0.0, 1.0, ELHAGE,
    ),
    "current_token": ScoreWords(
        "Current token", "Attention from a token to itself.", 0.0, 1.0, "as its name says"
    ),
    "anti_induction": ScoreWords(
        "Anti-induction",
        "Attention to the token before each earlier occurrence: the mirror image of prefix matching, a control that "
        "stays near 0 in trained models.",
        0.0, 1.0, "control",
    ),
    "copying": ScoreWords(
        "Copying",
        "Of what the head raises among 25 distinct tokens, the share that belongs to the token attended to, scaled to "
        "run from −1 to 1. Known to fail in deep models.",
        -1.0, 1.0, OLSSON,
    ),
    "logit_attribution": ScoreWords(
        "Logit attribution",
        "Logits that the head adds to the right next token where copying is right, less what it adds to the mean "
        "logit, the final norm's scale held. Not causal.",
        None, None, ELHAGE,
    ),
    "ov_copying": ScoreWords(
        "OV copying",
        "From the weights alone: Re(Σ λ) / Σ |λ| over the eigenvalues λ of the head's output circuit. 1 copies, −1 "
        "suppresses what it attends to, about 0 is random.",
        -1.0, 1.0, ELHAGE,
    ),
}  # fmt: skip


def words(score: str) -> ScoreWords:
    """Of a score, or of a name that has none."""
    return SCORE_WORDS.get(score) or ScoreWords(score.replace("_", " "), "", None, None, "")


def score_range(score: str, values: np.ndarray) -> tuple[float, float]:
    """The range to draw a score on: its own, else 0 to 1 or to the largest, around 0 where values are signed."""
    about = SCORE_WORDS.get(score)
    if about is not None and about.low is not None and about.high is not None:
        return about.low, about.high
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max(initial=0.0)) or 1.0
    if about is not None or finite.min(initial=0.0) < 0:
        return -largest, largest
    return 0.0, max(1.0, largest)
