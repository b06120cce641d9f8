"""The scores of other kinds of heads, which `score_heads` measures where they are asked for by name."""

from __future__ import annotations

from induction_lab.scores.kinds.context_matching import ContextMatching
from induction_lab.scores.kinds.copy_suppression import CopySuppression, CopySuppressionShare
from induction_lab.scores.kinds.displaced import DisplacedInduction, InductionLag
from induction_lab.scores.kinds.dual_route import ConceptMatching, TokenMatching
from induction_lab.scores.kinds.dual_route_copying import ConceptCopying, TokenCopying
from induction_lab.scores.kinds.function_vectors import FunctionVector
from induction_lab.scores.kinds.match_length import MATCH_LENGTHS
from induction_lab.scores.kinds.retrieval import Retrieval
from induction_lab.scores.kinds.successor import Successor
from induction_lab.scores.score import Score

KINDS_OF_HEADS: tuple[Score, ...] = (
    DisplacedInduction(),
    InductionLag(),
    *MATCH_LENGTHS,
    CopySuppression(),
    CopySuppressionShare(),
    TokenMatching(),
    ConceptMatching(),
    TokenCopying(),
    ConceptCopying(),
    FunctionVector(),
    Retrieval(),
    Successor(),
    ContextMatching(),
)
