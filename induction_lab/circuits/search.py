"""`find_circuit`: the most likely induction circuit, which previous-token head feeds which induction head's keys.

Where heads look comes from prompts, who reads whom from the weights. An edge runs from an earlier head that attends to
the token before, through K-composition, to a later head that attends to what followed its token; its strength is the
product of the three. The weights also say whether that head's queries match such keys (`qk_matching`) and whether it
raises what it attends to (`ov_copying`). A likely circuit, not a proven one: nothing is ablated or patched here.
Source: Elhage et al. (2021), "Induction heads", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_repeats, repeated_tokens
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.models.frozen_norms import refuse_projected
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import check_same_model, provenance
from induction_lab.results.cards import html_card
from induction_lab.results.heads import LOOKS, Head
from induction_lab.results.saved import Loadable, check_result
from induction_lab.runtime.progress import progress_bar
from induction_lab.runtime.whole_numbers import check_numbers
from induction_lab.scores.results import HeadScores
from induction_lab.scores.scoring import score_heads
from induction_lab.weights.composition import composition_scores, pair_baseline, pair_composition
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import ov_copying, qk_matching

COLUMNS = (
    "previous", "induction", "strength", "previous_token", "prefix_matching", "K", "K_rank", "Q", "V", "qk_matching",
    "ov_copying",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class InductionCircuit(Loadable):
    """Edges from previous-token heads to induction heads, strongest first.

    Attributes:
        model: The model's name.
        n_layers: Its layers.
        n_heads: Heads of each.
        edges: One row an edge: `previous`, `induction` (heads), `strength` (previous_token x prefix_matching x K, 0
            below its baseline), `previous_token` of the first and `prefix_matching` of the second, `K`, `Q`, `V`
            (composition less its baseline), `K_rank` (of the first among all earlier heads that the second's keys could
            read, 1 the best), and `qk_matching`, `ov_copying` of the second; the latter is NaN where another layer
            stands before the unembedding (heads of masked language models).
        baseline: What Gaussian matrices as wide as the first edge's heads score in composition.
        baseline_error: Its standard error.
        provenance: Model, prompts, seed, versions.
    """

    model: str
    n_layers: int
    n_heads: int
    edges: pd.DataFrame
    baseline: float
    baseline_error: float
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _TABLE, _COLUMNS = "circuit", "edges", COLUMNS
    _FACTS = ("model", "n_layers", "n_heads", "baseline", "baseline_error")

    @property
    def likely(self) -> pd.DataFrame:
        """Edges with a head at either end that looks as it should, and K-composition above random matrices."""
        edges: Any = self.edges
        looks = edges[["previous_token", "prefix_matching"]].min(axis=1) >= LOOKS
        return edges[looks & (edges["K"] > 0)]

    def __repr__(self) -> str:
        """The strongest edge."""
        best = self.edges.iloc[0]
        return f"InductionCircuit({self.model!r}, {len(self.edges)} edges, best {best.previous} > {best.induction})"

    def _repr_html_(self) -> str:
        """The strongest edges, for notebooks."""
        columns = ["previous", "induction", "strength", "previous_token", "prefix_matching", "K", "K_rank"]
        rows = self.edges[columns].head(8).itertuples(index=False)
        facts = f"Composition above random matrices, which score {self.baseline:.4f}."
        return html_card(f"Induction circuit of {self.model}", facts, columns, rows, note="Likely, not proven.")


@takes_names
def find_circuit(
    model: HookedModel,
    prompts: PromptsLike | None = None,
    *,
    n: int = 20,
    scores: HeadScores | None = None,
    folded: FoldedWeights | None = None,
    progress: bool = False,
) -> InductionCircuit:
    """Find the `n` strongest edges from previous-token heads to the keys of induction heads.

    >>> find_circuit(load_model())                                        # doctest: +SKIP
    InductionCircuit('induction-2l', 16 edges, best L0H3 > L1H3)

    Args:
        model: Any whose projections are linear maps of the normalised stream.
        prompts: Prompts in which tokens repeat, to see by where heads look; `repeated_tokens(model)` by default.
            Rotary queries are matched with keys at these prompts' own distance, of texts the median of it.
        n: How many edges.
        scores: What these heads scored on these prompts, where that is known already; else they are scored.
        folded: The model's folded weights, where they are at hand.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If the model has one layer, so that no head can feed another, its weights are not to be had, or
            nothing repeats in the prompts.
    """
    refuse_on_disk(model, "find_circuit", model.n_layers)
    if (n_layers := len(model.anatomy.attending)) < 2:
        raise ValueError(f"{model.name} has {n_layers} layer that attends: no head can feed another.")
    check_numbers(n=n)
    prompts = repeated_tokens(model) if prompts is None else as_repeats(model, prompts)
    distance = _distance(prompts)
    if scores is not None:
        check_result(scores, HeadScores, "scores", "score_heads")
        check_same_model("`scores` are", scores.model, scores.provenance, model)
    folded = FoldedWeights.of(model, folded)
    with progress_bar(6, "reading the weights", shown=progress) as tick:
        if scores is None:
            scores = score_heads(model, prompts, scores=["previous_token", "prefix_matching"], loss=False)
        previous, prefix = scores["previous_token"], scores["prefix_matching"]
        tick(1)
        K = composition_scores(model, "K", later=_candidates(folded, previous, prefix, n), folded=folded)
        tick(1)
        pairs = _strongest_pairs(previous, prefix, K, n)
        later = list(dict.fromkeys(b for _, b in pairs))  # the rest is asked of these heads alone
        others = {}
        for kind in ("Q", "V"):
            others[kind] = pair_composition(folded, kind, pairs)
            tick(1)
        matching = qk_matching(model, previous, offset=distance, heads=later, folded=folded)
        tick(1)
        left_out = why_no_copying(model)
        copying = {} if left_out else ov_copying(model, heads=later, folded=folded)
        tick(1)
    edges = _edges(pairs, previous, prefix, K)
    edges["Q"], edges["V"] = others["Q"].tolist(), others["V"].tolist()
    edges["qk_matching"] = [float(matching[b]) for _, b in pairs]
    edges["ov_copying"] = [math.nan if left_out else float(copying[b]) for _, b in pairs]
    first, second = pairs[0]
    baseline = pair_baseline(model, "K", first.layer, second.layer)
    facts = provenance(model, prompts, left_out={"ov_copying": left_out} if left_out else None)
    return InductionCircuit(model.name, model.n_layers, model.n_heads, edges, *baseline, provenance=facts)


def _distance(prompts: Prompts) -> int:
    """How far before a repeated token stands what followed it: of blocks the same everywhere, of texts the median."""
    if prompts.period is not None:
        return prompts.period + prompts.gap - 1
    _, query, earlier = Recurrences(prompts).latest
    if not len(query):
        raise ValueError(
            "Nothing repeats in these prompts: no token occurs twice, so no head can look at what followed it. Give a "
            "text that repeats itself, or repeated_tokens(model)."
        )
    return max(1, int((query - earlier).median()) - 1)


def why_no_copying(model: HookedModel) -> str | None:
    """Why what heads write cannot be read through the unembedding; None if it can."""
    try:
        refuse_projected(model)
    except ValueError as error:
        return str(error)
    return None


def _candidates(
    folded: FoldedWeights, previous: Float[Tensor, "layer head"], prefix: Float[Tensor, "layer head"], n: int
) -> list[Head]:
    """The later heads of the `n` strongest pairs, and others that cannot be ruled out before their K is known.

    K lies below 1 less the baseline. So with the K of a few likely pairs, which bounds the strength of the `n`-th from
    below, many heads are ruled out by where they look alone.
    """
    looks = _looks(previous, prefix)
    likely = _best(looks, 8 * n)
    K = pair_composition(folded, "K", likely).clamp(min=0)
    found = torch.stack([looks[*a, *b] for a, b in likely]) * K
    enough = 0.999 * found.topk(n).values[-1] if len(likely) >= n else 0.0  # K of pairs and of all differ in rounding
    layers = combinations(folded.model.anatomy.attending, 2)
    most = 1 - min(pair_baseline(folded.model, "K", *pair)[0] for pair in layers)
    possible = (looks.amax((0, 1)) * most >= enough).nonzero().tolist()
    return [Head(layer, head) for layer, head in possible if layer > 0]


def _strongest_pairs(
    previous: Float[Tensor, "layer head"],
    prefix: Float[Tensor, "layer head"],
    K: Float[Tensor, "layer_1 head_1 layer_2 head_2"],
    n: int,
) -> list[tuple[Head, Head]]:
    """The `n` pairs of an earlier and a later head whose product of the three scores is greatest."""
    looks = _looks(previous, prefix)
    return _best(looks * (K.clamp(min=0).nan_to_num() + 1e-9), n)  # what lies below the baseline comes last


def _looks(
    previous: Float[Tensor, "layer head"], prefix: Float[Tensor, "layer head"]
) -> Float[Tensor, "layer_1 head_1 layer_2 head_2"]:
    """The product of the two attention scores of every pair; -inf where the first head is not in an earlier layer."""
    layer = torch.arange(len(previous))
    earlier = (layer[:, None] < layer)[:, None, :, None]
    looks = (previous[:, :, None, None] * prefix).masked_fill(~earlier, -torch.inf)
    return looks.nan_to_num(nan=-torch.inf, neginf=-torch.inf)  # layers of hybrids that do not attend


def _best(order: Float[Tensor, "layer_1 head_1 layer_2 head_2"], n: int) -> list[tuple[Head, Head]]:
    best = order.flatten().topk(min(n, int(order.isfinite().sum()))).indices
    l1, h1, l2, h2 = np.unravel_index(best.numpy(), order.shape)  # that of torch loads all of sympy
    return [(Head(int(a), int(b)), Head(int(c), int(d))) for a, b, c, d in zip(l1, h1, l2, h2, strict=True)]


def _edges(
    pairs: list[tuple[Head, Head]],
    previous: Float[Tensor, "layer head"],
    prefix: Float[Tensor, "layer head"],
    K: Float[Tensor, "layer_1 head_1 layer_2 head_2"],
) -> pd.DataFrame:
    """The columns that say how strong an edge is, and why."""
    rows = []
    for a, b in pairs:
        strength = previous[a] * prefix[b] * K[*a, *b].clamp(min=0)
        rank = 1 + int((K[: b.layer, :, b.layer, b.head] > K[*a, *b]).sum())
        rows.append((str(a), str(b), *map(float, (strength, previous[a], prefix[b], K[*a, *b])), rank))
    return pd.DataFrame(rows, columns=list(COLUMNS[:7]))
