"""What a page sends as JSON, checked; and numbers as JSON for the page."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from induction_lab.internals.reading import heads_of
from induction_lab.interventions.ablation_methods import find_method
from induction_lab.models.hooked_model import HookedModel
from induction_lab.pages.live.scene import SCALE
from induction_lab.results.heads import Head, parse_head

MOST_GROUPS = 256  # in one question
LARGEST_PARTS = 14  # of a prediction, or of an attention weight


def can(model: HookedModel, method: str) -> bool:
    """Whether heads of this model can be changed so."""
    try:
        return method == SCALE or find_method(model, method) is not None
    except ValueError:
        return False


def head_of(given: Any, model: HookedModel) -> Head:
    """A head that is there."""
    return parse_head(str(given), n_layers=model.n_layers, n_heads=model.n_heads)


def groups_of(given: Any, model: HookedModel) -> dict[str, tuple[Head, ...]]:
    """Lists of heads, each left out together, by their number."""
    if not isinstance(given, list) or not 0 < len(given) <= MOST_GROUPS or not all(map(_is_list, given)):
        raise ValueError(f"Groups are lists of heads, 1 to {MOST_GROUPS} of them.")
    groups = [tuple(head_of(name, model) for name in group) for group in given]
    return {str(i): tuple(heads_of(model, list(group))) for i, group in enumerate(groups)}  # none twice, all attend


def _is_list(given: Any) -> bool:
    return isinstance(given, list) and len(given) > 0


def place_of(given: Any, n_pos: int, *, least: int = 0) -> int:
    """A position of the text."""
    if not isinstance(given, int) or isinstance(given, bool) or not least <= given < n_pos:
        raise ValueError(f"A position is a whole number from {least} to {n_pos - 1}, got {given!r}.")
    return given


def token_of(given: Any, model: HookedModel) -> int:
    """A token of the vocabulary."""
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given < model.d_vocab:
        raise ValueError(f"A token is a number from 0 to {model.d_vocab - 1}, got {given!r}.")
    return given


def largest_parts(parts: dict[str, float]) -> dict[str, Any]:
    """The largest parts, either sign, and the sum of all others."""
    order = sorted(parts, key=lambda name: -abs(parts[name]))
    named = order[:LARGEST_PARTS]
    rest = order[LARGEST_PARTS:]
    return {
        "parts": [[name, round(parts[name], 6)] for name in named],
        "others": [len(rest), round(sum(parts[name] for name in rest), 6)],
        "sum": round(sum(parts.values()), 6),
    }


def numbers_of(values: Tensor) -> Any:
    """Nested lists to six digits; None where a number is none."""
    if values.ndim > 1:
        return [numbers_of(row) for row in values]
    return [None if x != x else float(f"{x:.6g}") for x in values.tolist()]
