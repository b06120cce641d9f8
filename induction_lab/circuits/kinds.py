"""`classify_heads`: which kinds of heads a model has, which head is of which, and which kinds share heads.

A kind is a score, and from which value on people call a head one of that kind. A head is of a kind where its score is
that large and above chance, at a false-discovery rate over all heads. Scores that look for repeats are tested against
prompts that repeat nothing; others by a t-test over prompts or tasks against the chance that the score states, or 0
where it states none. Scores of weights alone have no error, so there the value decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import comb
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts, repeated_tokens
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import about_prompts, check_same_model, provenance
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike, HeadList, parse_head
from induction_lab.results.saved import Loadable, check_result
from induction_lab.results.statistics import false_discovery_rates, t_above
from induction_lab.runtime.nearest import did_you_mean, names_in_short
from induction_lab.scores.planning import plan_scores
from induction_lab.scores.registry import EVERY, REPEAT_SCORES
from induction_lab.scores.results import HeadScores
from induction_lab.scores.score import CausalScore, WeightScore
from induction_lab.scores.scoring import run_plan

RATE = 0.05  # false discoveries among the heads of a kind
_SHOWN = 12  # heads of a kind in a notebook
SHARE = 0.02  # of all heads, where nobody has published a value: Yin & Steinhardt (2025), arxiv.org/abs/2502.14010
COLUMNS = ("label", "layer", "head", "kind", "score", "value", "standard_error", "chance", "q_value", "is_kind")


class Kind(NamedTuple):
    """A kind of head.

    Attributes:
        name: What people call it.
        score: By which score it is known.
    """

    name: str
    score: str

    @property
    def least(self) -> float | None:
        """From which value of the score on; None: the highest `SHARE` of all heads."""
        return EVERY[self.score].threshold

    @property
    def is_causal(self) -> bool:
        """Whether it is known by what changing a head does, at about a forward pass a head and prompt."""
        return isinstance(EVERY[self.score], CausalScore)

    @property
    def is_on_given(self) -> bool:
        """Whether it is known by the prompts that are given, rather than by prompts of its own or by weights alone."""
        score = EVERY[self.score]
        return not score.measured_on and not isinstance(score, WeightScore | CausalScore)

    @property
    def metric(self) -> str:
        """What tables that hold other measurements too call its values."""
        return f"kind_{self.name}"


KINDS = (
    Kind("induction", "prefix_matching"),
    Kind("previous-token", "previous_token"),
    Kind("duplicate-token", "duplicate_token"),
    Kind("token-matching", "token_matching"),
    Kind("concept-matching", "concept_matching"),
    Kind("token-copying", "token_copying"),
    Kind("concept-copying", "concept_copying"),
    Kind("function-vector", "function_vector"),
    Kind("retrieval", "retrieval"),
    Kind("copy-suppression", "copy_suppression"),
    Kind("successor", "successor"),
    Kind("context-matching", "context_matching"),
)
BY_NAME = {kind.name: kind for kind in KINDS}


@dataclass(frozen=True, repr=False)
class HeadKinds(Loadable):
    """Which head is of which kind.

    Attributes:
        model: The model's name.
        table: One row a head and kind: `label`, `layer`, `head`; `kind`, `score`; `value` with its `standard_error` and
            `chance`; `q_value`, the false-discovery rate at which the head is just called above chance; `is_kind`.
        provenance: Model, prompts, versions; `left_out`: kinds that could not be had, and why.
    """

    model: str
    table: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _COLUMNS, _FACTS = "table of kinds of heads", COLUMNS, ("model",)

    def __repr__(self) -> str:
        """How many heads of each kind."""
        counts = ", ".join(f"{len(self.of(kind))} {kind}" for kind in self.kinds)
        return f"HeadKinds({self.model!r}: {counts})"

    def _repr_html_(self) -> str:
        """How many heads of each kind, and which, for notebooks."""
        rows = []
        for kind in self.kinds:
            heads = self.of(kind)
            more = f" … {len(heads) - _SHOWN} more" if len(heads) > _SHOWN else ""
            rows.append((kind, len(heads), "  ".join(map(str, heads[:_SHOWN])) + more))
        note = f"Not to be had of this model: {', '.join(self.left_out)}; why: left_out." if self.left_out else ""
        return html_card(f"Kinds of heads in {self.model}", "", ("kind", "heads", "the highest first"), rows, note=note)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that were looked for."""
        return tuple(self.table["kind"].unique())

    @property
    def left_out(self) -> dict[str, str]:
        """The kinds that were asked for and could not be had, and why."""
        reasons = self.provenance.get("left_out", {})
        return {kind.name: reasons[kind.score] for kind in KINDS if kind.score in reasons}

    def of(self, kind: str) -> list[Head]:
        """The heads of a kind, the highest first.

        Raises:
            ValueError: If it was not looked for.
        """
        if kind not in self.kinds:
            raise ValueError(f"There is no kind {kind!r} here; there are {', '.join(self.kinds)}.")
        rows: Any = self.table[(self.table["kind"] == kind) & self.table["is_kind"]]
        return HeadList(parse_head(label) for label in rows.sort_values("value", ascending=False)["label"])

    def kinds_of(self, head: HeadLike) -> list[str]:
        """What one head is."""
        rows = self.table[(self.table["label"] == str(parse_head(head))) & self.table["is_kind"]]
        return rows["kind"].tolist()

    def heads(self) -> pd.DataFrame:
        """One row a head that is of some kind: `label`, `layer`, `head`, `kinds`, and every kind's value."""
        found = self.table[self.table["is_kind"]].groupby(["layer", "head", "label"])["kind"].agg(", ".join)
        values = self.table.pivot(index=["layer", "head", "label"], columns="kind", values="value")
        wide = values.loc[found.index, list(self.kinds)]
        wide.insert(0, "kinds", found)
        return wide.reset_index().rename_axis(columns=None)

    def overlaps(self) -> pd.DataFrame:
        """One row a pair of kinds: how many heads are of both, how many would be by chance, and how likely that is.

        `expected` is that of sets of these sizes drawn at random among all heads; `p_value` is the chance of as many
        shared heads or more (hypergeometric).
        """
        n_heads = len(set(self.table["label"]))
        members = {kind: set(self.of(kind)) for kind in self.kinds}
        rows = []
        for i, first in enumerate(self.kinds):
            for second in self.kinds[i + 1 :]:
                a, b = members[first], members[second]
                by_chance = _by_chance(len(a & b), n_heads, len(a), len(b))
                rows.append((first, second, len(a), len(b), len(a & b), len(a) * len(b) / n_heads, by_chance))
        names = ["kind", "other_kind", "n_heads", "n_other_heads", "n_shared", "expected", "p_value"]
        return pd.DataFrame(rows, columns=pd.Index(names))

    @classmethod
    def _from_table(cls, table: pd.DataFrame, facts: dict[str, Any]) -> HeadKinds:
        return cls(facts["model"], table.loc[:, list(COLUMNS)], facts.get("provenance", {}))


def _by_chance(shared: int, n_heads: int, a: int, b: int) -> float:
    """How likely random sets of `a` and of `b` of `n_heads` heads are to share so many or more, in whole numbers."""
    ways = sum(comb(a, both) * comb(n_heads - a, b - both) for both in range(shared, min(a, b) + 1))
    return ways / comb(n_heads, b)


@takes_names
def classify_heads(
    model: HookedModel,
    prompts: PromptsLike | None = None,
    *,
    kinds: str | Sequence[str] | None = None,
    causal: bool = True,
    scores: HeadScores | None = None,
    progress: bool = False,
) -> HeadKinds:
    """Score every head by each kind's definition, and say which heads are of which kinds.

    >>> classify_heads(HookedModel(head_gallery(), name="gallery"), causal=False)          # doctest: +SKIP
    HeadKinds('gallery': 2 induction, 1 previous-token, 1 duplicate-token)

    Args:
        model: Any causal model.
        prompts: For the kinds that are known by what they do on repeats; 16 of 2 x 50 random tokens by default. Others
            have prompts of their own.
        kinds: Names from `circuits.kinds.KINDS`; all by default.
        causal: Also the kinds that are known by what changing a head does, at about a forward pass a head and prompt.
        scores: What heads scored on these prompts, tested against chance, where that is known already: it is not
            measured again.
        progress: Progress bars on standard error.

    Raises:
        ValueError: If a kind is unknown, none can be had of this model, one prompt alone is given to test kinds on, or
            `scores` are of another model, other weights, another dtype or other prompts, or weighed by values.
    """
    chosen = find_kinds(kinds, causal=causal)
    given = repeated_tokens(model, n_prompts=16, distinct=True) if prompts is None else as_prompts(model, prompts)
    known = {} if scores is None else _known(scores, model, given)
    left = [kind.score for kind in chosen if kind.score not in known]
    plan = plan_scores(model, given, left) if left else None
    left_out = {} if plan is None else plan.left_out
    _refuse_nothing(chosen, left_out)
    if (plan is None or plan.main.scores or len(left) < len(chosen)) and len(given) < 2:
        raise ValueError("Whether a head is of a kind is tested over prompts: give 2 or more, got 1.")
    facts = provenance(model, given, left_out=left_out)
    if plan is not None and plan.scores:
        measured = run_plan(model, plan, chance_test=True, loss=False, progress=progress)
        known, facts = known | dict.fromkeys(plan.scores, measured), measured.provenance
    tables = [_table(known[kind.score], kind) for kind in chosen if kind.score in known]
    return HeadKinds(model.name, pd.concat(tables, ignore_index=True), facts)


def _known(scores: HeadScores, model: HookedModel, prompts: Prompts) -> dict[str, HeadScores]:
    """The scores that are known already, by name; those that look for repeats only where they were tested."""
    check_result(scores, HeadScores, "scores", "score_heads")
    check_same_model("`scores` are", scores.model, scores.provenance, model)
    if weigh := scores.provenance.get("weigh"):
        raise ValueError(f"`scores` are weighed (weigh={weigh!r}), which no kind is: score heads without `weigh`.")
    if scores.provenance["prompts"]["tokens_sha256"] != about_prompts(prompts)["tokens_sha256"]:
        raise ValueError("`scores` are of other prompts than those given: give the prompts that they were measured on.")
    tested = [name for name in scores.scores if name not in REPEAT_SCORES or name in scores.q_values]
    return dict.fromkeys(tested, scores)


def check_kinds(model: HookedModel, kinds: str | Sequence[str] | None = None) -> None:
    """Refuse, before anything is measured, kinds of which a model has none to offer.

    Raises:
        ValueError: If a kind is unknown, or none can be had of this model.
    """
    chosen = find_kinds(kinds)
    prompts = repeated_tokens(model, n_prompts=2, distinct=True)
    _refuse_nothing(chosen, plan_scores(model, prompts, [kind.score for kind in chosen]).left_out)


def _refuse_nothing(chosen: Sequence[Kind], left_out: dict[str, str]) -> None:
    if len(left_out) == len(chosen):
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in left_out.items()))


def find_kinds(asked: str | Sequence[str] | None = None, *, causal: bool = True) -> list[Kind]:
    """Kinds by name; all by default, and of these only what is known without changing heads where not `causal`.

    Raises:
        ValueError: If one is unknown, or none is left.
    """
    if not isinstance(asked, Iterable | None):
        raise ValueError(f"`kinds` must be names of kinds, got {asked!r}; there are {', '.join(BY_NAME)}.")
    names = [asked] if isinstance(asked, str) else list(BY_NAME if asked is None else asked)
    unknown = [name for name in names if not isinstance(name, str) or name not in BY_NAME]
    if unknown or not names:
        raise ValueError(
            f"Unknown kinds {unknown}; there are {names_in_short(BY_NAME)}.{did_you_mean(unknown, BY_NAME)}"
        )
    found = [BY_NAME[name] for name in dict.fromkeys(names) if causal or not BY_NAME[name].is_causal]
    if not found:
        raise ValueError(
            f"{', '.join(names)}: known only by what changing a head does. Ask for that too: causal=True, or on the "
            "command line --causal."
        )
    return found


def every_head(rows: pd.DataFrame, n_layers: int, n_heads: int) -> pd.DataFrame:
    """One kind's rows by layer and head, all of them in order; layers that do not attend have missing values.

    Args:
        rows: Of one kind, of the table of a `HeadKinds`.
        n_layers: The model's.
        n_heads: Of a layer.
    """
    places = pd.MultiIndex.from_product([range(n_layers), range(n_heads)], names=["layer", "head"])
    return rows.set_index(["layer", "head"]).reindex(places)


def _table(scores: HeadScores, kind: Kind) -> pd.DataFrame:
    """Every head's value of one kind, and whether it is one."""
    rows: Any = scores.to_dataframe()
    rows = rows[rows["score"] == kind.score].reset_index(drop=True)
    table = rows[["label", "layer", "head", "score", "value", "standard_error"]].assign(kind=kind.name)
    table["chance"] = rows["uniform"]
    tested = kind.score in scores.provenance["n_values"]
    if kind.score in scores.q_values:
        table["q_value"] = rows["q_value"]
    else:
        table["q_value"] = _q_values(table, scores.provenance["n_values"][kind.score]) if tested else np.nan
    above = ~(table["value"] <= table["chance"]) & ~(table["q_value"] > RATE)
    if kind.least is None:
        n_best = max(1, round(SHARE * len(table)))
        above &= table["value"].rank(ascending=False, method="first") <= n_best
    else:
        above &= table["value"] >= kind.least
    return table.assign(is_kind=above)[list(COLUMNS)]


def _q_values(table: pd.DataFrame, n_values: int) -> np.ndarray:
    """One-sided t-tests against chance over prompts or tasks, corrected over all heads; 1 where there is one alone."""
    if n_values < 2:
        return np.ones(len(table))
    excess, error = (table["value"] - table["chance"].fillna(0.0)).to_numpy(), table["standard_error"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        p_values = t_above(np.nan_to_num(excess / error, nan=0.0), n_values - 1)
    return false_discovery_rates(p_values)
