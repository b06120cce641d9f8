"""Everything that a report shows of one model, measured once, as plain data; no page here.

What a model or its architecture does not allow is left out with the reason (`left_out`), never silently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.behaviour.expected_tokens import ExpectedTokens, lag_profile
from induction_lab.circuits.explanation import Explanation
from induction_lab.circuits.kinds import HeadKinds, classify_heads
from induction_lab.circuits.search import InductionCircuit, find_circuit
from induction_lab.data.prompts import Prompts, repeated_tokens, text_prompts
from induction_lab.development.trajectory import Trajectory
from induction_lab.interventions.each_head import ablation_sweep
from induction_lab.interventions.effects import Effects
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import provenance
from induction_lab.pages.head_views import HeadView, head_views, worth_showing
from induction_lab.results.heads import Head, parse_head
from induction_lab.runtime.progress import Ticker
from induction_lab.scores.planning import plan_scores
from induction_lab.scores.profiles import AttentionProfiles, attention_profiles
from induction_lab.scores.registry import SCORES
from induction_lab.scores.results import HeadScores
from induction_lab.scores.score import Score
from induction_lab.scores.scoring import run_plan
from induction_lab.weights.composition import composition_baseline, composition_scores
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import ov_eigenvalues

TEXT = (
    "Mrs. Tolliver kept bees behind the old mill. Every spring Mrs. Tolliver counted the hives, and every spring the "
    "old mill lost another plank. When the surveyors came, they asked whether the bees minded the noise; Mrs. Tolliver "
    "said that bees mind nothing but wasps and the smell of fresh paint."
)
SHORT_PERIOD, TEXT_TOKENS = 20, 65
ABLATION_PROMPTS, REFERENCE_PROMPTS = 4, 32
PARTNERS = 5
QUICK_KINDS = (  # three are read off the page's scores, two have 64 prompts of 60 tokens each, one runs nothing
    "induction", "previous-token", "duplicate-token", "token-matching", "concept-matching", "successor",
)  # fmt: skip
_ABLATION = "ablation"
_ATTEMPTS = (  # what `measure` measures, in order
    "scores", "profiles", "expected tokens", "OV eigenvalues", "composition", "circuit", "kinds of heads",
    "patterns", _ABLATION,
)  # fmt: skip


@dataclass(frozen=True)
class ReportPlan:
    """What a report measures of each model, and on what.

    Attributes:
        period, n_prompts, seed: Length of the repeated block, number of prompts, seed of their random tokens.
        text: Text on which heads are shown; by default `TEXT`.
        all_heads: Show every head in full, not only those that `worth_showing` chooses.
        ablate: Ablate the heads that are shown in full, one at a time.
        scores: Scores of your own, beside all that there are.
        all_kinds: Look for all kinds of heads, not only the `QUICK_KINDS`: two of these have 64 prompts of their own.
    """

    period: int = 50
    n_prompts: int = 16
    seed: int = 0
    text: str = TEXT
    all_heads: bool = False
    ablate: bool = True
    scores: tuple[str | Score, ...] = ()
    all_kinds: bool = False

    @property
    def attempts(self) -> tuple[str, ...]:
        """Names of all that `measure` measures by this plan: so many steps a progress bar has."""
        return tuple(name for name in _ATTEMPTS if self.ablate or name != _ABLATION)


@dataclass(frozen=True)
class Subject:
    """The measurements of one model that a report shows; None where one was not possible, see `left_out`.

    Attributes:
        label: The model's name on the page.
        model, revision, shape: The model's name, revision, and sizes.
        scores: Scores of every head.
        expected: Probability of the tokens around the earlier occurrence, by lag (`lag_profile`).
        profiles: Attention of every head, by position and around the earlier occurrence.
        prompts: By name, the prompts that heads are shown on, and the text of their tokens.
        views: Patterns of the heads that are shown in full, on each of those prompts.
        eigenvalues: Eigenvalues of every head's OV circuit, `[layer, head, d_head]`, complex.
        composition: Composition scores by kind (K, Q, V), above what random matrices score.
        baseline: Composition score of random matrices of the same sizes.
        circuit: Edges from previous-token heads to induction heads.
        ablation: Effect on the loss of ablating each head that is shown in full.
        explanation: What `explain` found, where it was asked for or given.
        trajectory: Scores and losses at the checkpoints of training.
        left_out: Why a measurement is missing, by its name.
        provenance: Model, prompts, versions.
        kinds: Which heads are of which kinds.
    """

    label: str
    model: str
    revision: str | None
    shape: dict[str, int | None]
    scores: HeadScores
    expected: Any
    profiles: AttentionProfiles
    prompts: dict[str, tuple[Prompts, list[str]]]
    views: dict[Head, dict[str, HeadView]]
    eigenvalues: Tensor | None
    composition: dict[str, Float[Tensor, "layer_1 head_1 layer_2 head_2"]]
    baseline: float
    circuit: InductionCircuit | None
    ablation: Effects | None
    explanation: Explanation | None = None
    trajectory: Trajectory | None = None
    left_out: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    kinds: HeadKinds | None = None


def measure(
    model: HookedModel,
    plan: ReportPlan,
    *,
    label: str | None = None,
    explanation: Explanation | None = None,
    trajectory: Trajectory | None = None,
    tick: Ticker = lambda n, note="": None,
) -> Subject:
    """Measure a model for a report; `tick` hears of each of the plan's `attempts`.

    Raises:
        ValueError: If the prompts do not fit the model, or its attention cannot be read at all.
    """
    prompts = repeated_tokens(model, n_prompts=plan.n_prompts, period=plan.period, seed=plan.seed)
    attempt = _Attempt(plan.attempts, tick, FoldedWeights(model))
    scores = attempt("scores", lambda: _scored(model, prompts, plan), needed=True)
    attempt.left_out |= scores.provenance["left_out"]
    attempt.left_out |= {f"{name} in part": why for name, why in scores.provenance["out_of_reach"].items()}
    seen = ExpectedTokens(prompts) if model.unembeds_by_parts else None  # read by the run that shows the attention
    at_end = None if seen is None else partial(seen.add, logits_of=model.unembed)
    profiles = attempt("profiles", lambda: attention_profiles(model, prompts, at_end=at_end), needed=True)
    expected = attempt("expected tokens", lambda: lag_profile(model, prompts) if seen is None else seen.table())
    eigenvalues = attempt("OV eigenvalues", lambda: ov_eigenvalues(model))
    composition = attempt("composition", lambda: _composed(model)) or {}
    circuit = attempt("circuit", lambda: find_circuit(model, prompts, n=20, scores=scores))
    kinds = attempt("kinds of heads", lambda: _classified(model, prompts, plan, scores))
    shown = chosen_heads(scores, plan, circuit, explanation)
    short = _short_prompts(model, plan, attempt.left_out)
    views = attempt("patterns", lambda: head_views(model, shown, {name: each[0] for name, each in short.items()})) or {}
    ablation = attempt(_ABLATION, lambda: _ablated(model, shown, plan, tick)) if plan.ablate else None
    if not plan.ablate:
        attempt.left_out[_ABLATION] = "not asked for"
    sizes = ("n_layers", "n_heads", "n_kv_heads", "d_model", "d_head", "d_vocab", "n_ctx")
    return Subject(
        label or model.name,
        model.name,
        model.revision,
        {name: getattr(model, name) for name in sizes} | {"n_parameters": _parameters(model)},
        scores,
        expected,
        profiles,
        short,
        {head: views.get(head, {}) for head in shown},
        eigenvalues,
        composition,
        composition_baseline(model.d_model, *reversed(model.anatomy.head_widths(model.anatomy.attending[0])))[0],
        circuit,
        ablation,
        explanation,
        trajectory,
        attempt.left_out,
        provenance(model, prompts),
        kinds,
    )


def chosen_heads(
    scores: HeadScores, plan: ReportPlan, circuit: InductionCircuit | None, explanation: Explanation | None
) -> list[Head]:
    """Heads to show in full, the best induction head first."""
    if plan.all_heads:
        every = [Head(layer, head) for layer in range(scores.n_layers) for head in range(scores.n_heads)]
        first = scores.top("prefix_matching", 1)[0][0] if "prefix_matching" in scores.scores else every[0]
        return list(dict.fromkeys([first, *every]))
    also = [] if explanation is None else explanation.circuit
    if circuit is not None:
        strong: Any = circuit.edges.loc[circuit.edges["strength"] > 0.01, ["previous", "induction"]]
        also = [*also, *(parse_head(str(label)) for label in strong.to_numpy().ravel())]
    return worth_showing(scores, also=also)


def partners(
    composition: Float[Tensor, "layer_1 head_1 layer_2 head_2"], *, n: int = PARTNERS
) -> tuple[list[list[tuple[int, float]]], list[list[tuple[int, float]]]]:
    """For every head (numbered through) the `n` it reads most, and the `n` that read it most; positive ones alone."""
    n_layers, n_heads = composition.shape[:2]
    layer = torch.arange(n_layers * n_heads) // n_heads
    pairs = composition.flatten(0, 1).flatten(1).masked_fill(~(layer[:, None] < layer), -torch.inf)

    def best(rows: Tensor) -> list[list[tuple[int, float]]]:
        values, places = rows.topk(min(n, rows.shape[1]))
        return [
            [(place, value) for place, value in zip(where, row, strict=True) if value > 0 and math.isfinite(value)]
            for where, row in zip(places.tolist(), values.tolist(), strict=True)
        ]

    return best(pairs.T), best(pairs)


class _Attempt:
    """Runs one measurement after another on the same folded weights; what a model does not allow leaves its reason."""

    def __init__(self, announced: Sequence[str], tick: Ticker, folded: FoldedWeights) -> None:
        self.announced, self.tick, self.folded, self.left_out = announced, tick, folded, {}

    def __call__(self, what: str, work: Callable[[], Any], *, needed: bool = False) -> Any:
        assert what in self.announced
        self.tick(0, note=what)
        try:
            with self.folded.shared():
                return work()
        except ValueError as error:
            if needed:
                raise
            self.left_out[what] = str(error)
            return None
        finally:
            self.tick(1, note=what)


def _scored(model: HookedModel, prompts: Prompts, plan: ReportPlan) -> HeadScores:
    """All scores that can be had, and those of a user's own."""
    scores = plan_scores(model, prompts, [*SCORES, *plan.scores])
    return run_plan(model, scores, chance_test=plan.n_prompts > 1)


def _classified(model: HookedModel, prompts: Prompts, plan: ReportPlan, scores: HeadScores) -> HeadKinds:
    """Which heads are of which kinds; of the quick ones, unless all are asked for."""
    return classify_heads(model, prompts, kinds=None if plan.all_kinds else QUICK_KINDS, scores=scores)


def _composed(model: HookedModel) -> dict[str, Float[Tensor, "layer_1 head_1 layer_2 head_2"]]:
    """Composition of all pairs of heads, by kind."""
    return {kind: composition_scores(model, kind) for kind in "KQV"}


def _short_prompts(
    model: HookedModel, plan: ReportPlan, left_out: dict[str, str]
) -> dict[str, tuple[Prompts, list[str]]]:
    """The prompts that heads are shown on, short enough to read each token, and the text of their tokens."""
    period = min(SHORT_PERIOD, plan.period)
    found = {"repeated": repeated_tokens(model, n_prompts=1, period=period, seed=plan.seed + 1)}
    try:
        length = min(TEXT_TOKENS, model.n_ctx or TEXT_TOKENS)
        found["text"] = text_prompts(model, plan.text, n_prompts=1, length=length)
    except ValueError as error:
        left_out["text"] = str(error)
    return {name: (prompts, model.token_labels(prompts)) for name, prompts in found.items()}


def _ablated(model: HookedModel, heads: Sequence[Head], plan: ReportPlan, tick: Ticker) -> Effects:
    """The effect on the loss of ablating each head by itself, on a few prompts; `tick` hears how far it is."""
    few: dict[str, Any] = {"period": plan.period}
    prompts = repeated_tokens(model, n_prompts=min(ABLATION_PROMPTS, plan.n_prompts), seed=plan.seed, **few)
    others = repeated_tokens(model, n_prompts=REFERENCE_PROMPTS, seed=plan.seed + 1, **few)
    done = 0

    def ran(n: int) -> None:
        nonlocal done
        done += n
        tick(0, note=f"{_ABLATION}: {done} of {len(heads) * len(prompts)} runs")

    names = [str(head) for head in heads]
    return ablation_sweep(model, prompts, heads=names, reference=others, progress=ran)


def _parameters(model: HookedModel) -> int:
    return sum(parameter.numel() for parameter in model.network.parameters())
