"""Single heads on short prompts: attention patterns, and how much a head could write from each source.

Whole patterns are held in memory here, so only those of the heads that are shown, on prompts of a few dozen tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.internals.activations import capture
from induction_lab.models.head_weights import output_weight
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import Head
from induction_lab.scores.results import HeadScores

KINDS = ("prefix_matching", "previous_token", "duplicate_token", "logit_attribution")
EACH, MOST = 6, 24


class HeadView(NamedTuple):
    """One head on one prompt.

    Attributes:
        pattern: Attention from each query to each key.
        written: `|v_s W_O|`, the size of what the head would write if it attended to `s` alone.
    """

    pattern: Float[Tensor, "query key"]
    written: Float[Tensor, " key"]


def worth_showing(scores: HeadScores, *, also: Sequence[Head] = (), each: int = EACH, most: int = MOST) -> list[Head]:
    """The heads with the highest scores of each kind in `KINDS`, then those in `also`.

    By logit attribution heads rank by absolute value: those that write against the right token are shown too.

    Args:
        scores: Scores of every head; where none of `KINDS` is among them, their first score ranks the heads.
        also: Heads to append, such as those of a circuit.
        each: How many heads each kind contributes; the best of every kind come before the second-best of any.
        most: How many heads are returned at most.
    """
    ranked: list[list[Head]] = []
    for kind in KINDS:
        if kind in scores.scores:
            values = scores[kind].abs() if kind == "logit_attribution" else scores[kind]
            best = values.nan_to_num(-torch.inf).flatten().topk(min(each, values.numel())).indices.tolist()
            ranked.append([Head(*divmod(int(i), scores.n_heads)) for i in best])
    if not ranked:
        ranked = [[head for head, _ in scores.top(scores.scores[0], each)]]
    in_turn = [column[place] for place in range(each) for column in ranked if place < len(column)]
    return list(dict.fromkeys([*in_turn, *also]))[:most]


def head_views(
    model: HookedModel, heads: Sequence[Head], prompts: Mapping[str, Prompts]
) -> dict[Head, dict[str, HeadView]]:
    """Patterns of `heads` on the first prompt of each of the named `prompts`.

    Returns:
        By head, then by the prompts' name.

    Raises:
        ValueError: If this architecture's patterns, values or weights cannot be read.
    """
    found: dict[Head, dict[str, HeadView]] = {head: {} for head in heads}
    for name, several in prompts.items():
        acts = capture(model, several[:1], ["pattern", "v"], heads=list(heads))
        for layer, chosen in acts.heads.items():
            v = acts["v", layer][0].float()
            W_O = output_weight(model, layer).float()[[head.head for head in chosen]]
            written = torch.einsum("phn,hnd->hpd", v, W_O).norm(dim=-1).cpu()
            patterns = acts["pattern", layer][0].float().cpu()
            for row, head in enumerate(chosen):
                found[head][name] = HeadView(patterns[row], written[row])
    return found
