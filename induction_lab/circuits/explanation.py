"""`explain`: find a model's induction circuit from its behaviour down, by interventions, and say how sure that is.

1. Behaviour: how far the loss falls on the second copy of random tokens.
2. Which heads carry it: every head is mean-ablated by itself (`ablation_sweep`).
3. Which heads feed the induction heads: every earlier head's direct path to their keys is cut (`patch_paths`).
4. A verdict for each head, from where it looks, what it writes and what is lost without it (`VERDICTS`).
5. Faithfulness: what is left of the behaviour when all heads outside the circuit are mean-ablated at once; necessity:
   what is lost when the circuit alone is; both on prompts that the heads were not chosen on, and against random sets of
   as many other heads (of all others, where there are not as many).

Shares are of the loss between the whole model and one with all heads mean-ablated. Heads are judged one by one in step
2, so of several that stand in for each other each may seem to do little: necessity says what they do together.
Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895; Wang et al. (2022), https://arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from induction_lab.data.prompts import Prompts, repeated_tokens
from induction_lab.interventions.ablations import ablation_sweep
from induction_lab.interventions.effects import Effects
from induction_lab.interventions.path_patching import patch_paths
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.cards import html_card
from induction_lab.results.heads import LOOKS, Head, parse_head
from induction_lab.results.saved import Loadable
from induction_lab.scores.results import HeadScores
from induction_lab.scores.scoring import score_heads

LEAST_EFFECT = 0.01  # of the fall of the loss: less is no evidence
LEAST_WRITTEN = 0.05  # of all that heads write for the right token
REFERENCE = 32  # prompts that means are taken over
MOST_DRAWN = 8  # senders and receivers whose single paths are cut
ERRORS = 2.0  # standard errors that evidence must be away from 0
VERDICTS = {
    "previous-token": "attends to the token before; the loss rises without it, or without its path to the keys",
    "induction": "attends to what followed its token before; the loss rises without it, or it writes the right token",
    "copy": "writes the right token and the loss rises without it, though it does not match prefixes",
    "carrier": "the loss rises without it, or without its path to the keys, for another reason",
    "suppressor": "the loss falls without it, or it writes against the right token and the loss does not rise without",
    "bystander": "none of this",
}
CIRCUIT = ("previous-token", "induction", "copy", "carrier")
_SCORES = ("previous_token", "prefix_matching", "duplicate_token")


@dataclass(frozen=True, repr=False)
class Explanation(Loadable):
    """What carries a model's copying, and how much of it.

    Attributes:
        model, n_layers, n_heads: The model's name and shape.
        behaviour: `first_copy` and `second_copy`, mean losses in nats; `no_heads`, the second copy's with all heads
            mean-ablated, on other prompts.
        heads: One row a head: `label`, `layer`, `head`, `verdict`; `effect` of its mean ablation on the second copy's
            loss in nats, `effect_error` its standard error; `to_keys`, the effect of cutting its direct path to the
            keys of the induction heads, `to_keys_error`; `previous_token`, `prefix_matching`, `duplicate_token`,
            `logit_attribution`.
        edges: One row a path `sender` → keys of `receiver`: `effect` of cutting it, `standard_error`.
        tests: One row a set of heads: `heads` (`circuit`, `random 1`, …), `n_heads`, `loss_alone` (all others
            mean-ablated), `faithfulness`, `loss_without` (they mean-ablated), `necessity`.
        provenance: Model, prompts, versions; `left_out`: what could not be had of this model, and why.
    """

    model: str
    n_layers: int
    n_heads: int
    behaviour: dict[str, float]
    heads: pd.DataFrame
    edges: pd.DataFrame
    tests: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    _WHAT, _TABLE, _COLUMNS = "explanation", "heads", ("label", "verdict", "effect")
    _FACTS = ("model", "n_layers", "n_heads", "behaviour", "edges", "tests")

    def __repr__(self) -> str:
        """The circuit."""
        roles = ", ".join(f"{len(self.of(verdict))} {verdict}" for verdict in CIRCUIT if self.of(verdict))
        return f"Explanation({self.model!r}: {roles or 'no circuit'})"

    def _repr_html_(self) -> str:
        """The heads that are no bystanders, for notebooks."""
        columns = ["label", "verdict", "effect", "to_keys", "previous_token", "prefix_matching", "logit_attribution"]
        heads: Any = self.heads.loc[self.heads["verdict"] != "bystander"].sort_values("effect", ascending=False)
        losses = ", ".join(f"{name.replace('_', ' ')} {loss:.2f}" for name, loss in self.behaviour.items())
        rows = heads[columns].itertuples(index=False)
        return html_card(f"Explanation of {self.model}", f"Loss, nats: {losses}", columns, rows)

    def of(self, *verdicts: str) -> list[Head]:
        """Heads of these verdicts, those with the greatest effect first."""
        rows: Any = self.heads.loc[self.heads["verdict"].isin(verdicts)].sort_values("effect", ascending=False)
        return [Head(int(row["layer"]), int(row["head"])) for row in rows.to_dict("records")]

    @property
    def circuit(self) -> list[Head]:
        """Every head that carries the behaviour."""
        return self.of(*CIRCUIT)

    def _facts(self) -> dict[str, Any]:
        facts = super()._facts()
        for name in ("edges", "tests"):
            facts[name] = json.loads(str(facts[name].to_json(orient="records", double_precision=12)))
        return facts

    @classmethod
    def _from_table(cls, table: pd.DataFrame, facts: dict[str, Any]) -> Explanation:
        facts["edges"] = pd.DataFrame(facts["edges"], columns=pd.Index(_EDGES))
        facts["tests"] = pd.DataFrame(facts["tests"], columns=pd.Index(_TESTS))
        given = {name: facts[name] for name in cls._FACTS}
        return cls(heads=table, **given, provenance=facts.get("provenance", {}))


_EDGES = ["sender", "receiver", "effect", "standard_error"]
_TESTS = ["heads", "n_heads", "loss_alone", "faithfulness", "loss_without", "necessity"]


def explain(
    model: HookedModel,
    prompts: Prompts | None = None,
    *,
    reference: Prompts | None = None,
    n_random: int = 10,
    seed: int = 0,
    path: str | Path | None = None,
    progress: bool = False,
) -> Explanation:
    """Find the heads that carry in-context copying, and test the circuit that they make.

    >>> explain(HookedModel(induction_circuit(), name="by hand"))                          # doctest: +SKIP
    Explanation('by hand': 1 previous-token, 1 induction)

    Args:
        model: Any supported model.
        prompts: Repeated tokens, two or more of them; 8 of 2 x 50 by default.
        reference: Prompts of the same length to take means over; by default 32 others like `prompts`. Of few prompts
            the mean is none yet: it still says what they say, and does more harm than it should.
        n_random: Random sets of heads to compare the circuit with.
        seed: Of their choice.
        path: A file (`.csv`, `.json`, `.parquet`) to keep the sweep in, from which a run that is cut off goes on.
        progress: Progress bars on standard error.

    Raises:
        ValueError: If the prompts are no repeated tokens, or fewer than two.
    """
    prompts = repeated_tokens(model, n_prompts=8) if prompts is None else prompts
    if not isinstance(prompts, Prompts) or prompts.period is None or prompts.n_repeats != 2 or len(prompts) < 2:
        raise ValueError("Two or more prompts of a block written twice are wanted: repeated_tokens(model, n_prompts=8)")
    facts = {"period": prompts.period, "gap": prompts.gap}
    others = repeated_tokens(model, n_prompts=REFERENCE, seed=(prompts.seed or 0) + 1, **facts)
    fresh = repeated_tokens(model, n_prompts=len(prompts), seed=(prompts.seed or 0) + 2, **facts)
    run = {"reference": others if reference is None else reference, "progress": progress}
    scores = _scores(model, prompts, progress)
    sweep = ablation_sweep(model, prompts, path=path, **run)
    fall = scores.loss_by_copy[0] - scores.loss_by_copy[1]
    heads = _evidence(scores, sweep)
    heads["verdict"] = _verdicts(heads, fall)
    receivers = [str(label) for label in heads.loc[heads["verdict"] == "induction", "label"]]
    left_out: dict[str, str] = {}
    edges = pd.DataFrame(columns=pd.Index(_EDGES))
    if any(parse_head(label).layer for label in receivers):
        try:
            _add_paths(heads, model, prompts, receivers, run)
            heads["verdict"] = _verdicts(heads, fall)
            edges = _edges(heads, model, prompts, run)
        except ValueError as error:
            left_out["paths"] = str(error)
    chosen = [parse_head(label) for label in heads.loc[heads["verdict"].isin(CIRCUIT), "label"]]
    tests, no_heads = _tests(model, fresh, chosen, n_random, seed, run)
    copies = {"first_copy": scores.loss_by_copy[0], "second_copy": float(sweep.table["clean"].iloc[0])}
    known = sweep.provenance | {"left_out": scores.provenance["left_out"] | left_out}
    shape = (model.name, model.n_layers, model.n_heads)
    return Explanation(*shape, copies | {"no_heads": no_heads}, heads, edges, tests, known)


def _scores(model: HookedModel, prompts: Prompts, progress: bool) -> HeadScores:
    """Where heads look, and what they write where that can be said."""
    try:
        return score_heads(model, prompts, scores=[*_SCORES, "logit_attribution"], progress=progress)
    except ValueError as error:
        found = score_heads(model, prompts, scores=_SCORES, progress=progress)
        found.provenance["left_out"] = {"logit_attribution": str(error)}
        return found


def _evidence(scores: HeadScores, sweep: Effects) -> pd.DataFrame:
    """What is known of each head before its paths are cut."""
    heads: Any = sweep.table[["label", "layer", "head"]].copy()
    heads["verdict"] = "bystander"
    heads["effect"], heads["effect_error"] = sweep.table["effect"], sweep.table["standard_error"]
    heads["to_keys"] = heads["to_keys_error"] = float("nan")
    for name in (*_SCORES, "logit_attribution"):
        known = name in scores.scores
        heads[name] = scores[name].flatten().double().numpy() if known else float("nan")
        if name == "logit_attribution":
            heads["logit_error"] = scores.standard_errors[name].flatten().double().numpy() if known else float("nan")
    return heads


def _verdicts(heads: Any, fall: float) -> list[str]:
    written = float(heads["logit_attribution"].clip(lower=0).sum())
    found = []
    rows: Any = heads.to_dict("records")
    for row in rows:
        carries, hurts = (_clear(sign * row["effect"], row["effect_error"], LEAST_EFFECT * fall) for sign in (1, -1))
        feeds = _clear(row["to_keys"], row["to_keys_error"], LEAST_EFFECT * fall)
        writes, opposes = (
            _clear(sign * row["logit_attribution"], row["logit_error"], LEAST_WRITTEN * written) for sign in (1, -1)
        )
        if hurts or (opposes and not carries and not feeds):
            found.append("suppressor")
        elif row["prefix_matching"] >= LOOKS and (carries or writes):
            found.append("induction")
        elif row["previous_token"] >= LOOKS and (carries or feeds):
            found.append("previous-token")
        elif carries and writes:
            found.append("copy")
        else:
            found.append("carrier" if carries or feeds else "bystander")
    return found


def _clear(value: float, error: float, least: float) -> bool:
    """Large enough and far enough from 0; NaN is not."""
    return value >= least > 0 and value >= ERRORS * error


def _add_paths(
    heads: pd.DataFrame, model: HookedModel, prompts: Prompts, receivers: list[str], run: dict[str, Any]
) -> None:
    """How much each earlier head tells the keys of all receivers together."""
    top = max(parse_head(label).layer for label in receivers)
    senders = [Head(*pair) for pair in itertools.product(range(top), range(model.n_heads))]
    found = patch_paths(model, prompts, receivers, "k", senders=senders, **run).table
    values: Any = found.set_index("label")
    heads["to_keys"] = heads["label"].map(values["effect"])
    heads["to_keys_error"] = heads["label"].map(values["standard_error"])


def _edges(heads: pd.DataFrame, model: HookedModel, prompts: Prompts, run: dict[str, Any]) -> pd.DataFrame:
    """The strongest senders to each of the strongest receivers, one path at a time."""
    feeding = heads.loc[heads["verdict"].isin(["previous-token", "carrier"])].nlargest(MOST_DRAWN, "to_keys")
    senders = [parse_head(label) for label in feeding["label"]]
    induction = heads.loc[heads["verdict"] == "induction"].nlargest(MOST_DRAWN, "effect")["label"]
    rows = []
    for receiver in map(parse_head, induction):
        below = [sender for sender in senders if sender.layer < receiver.layer]
        if below:
            found: Any = patch_paths(model, prompts, receiver, "k", senders=below, **run).table
            rows += [(r["label"], str(receiver), r["effect"], r["standard_error"]) for r in found.to_dict("records")]
    table = pd.DataFrame(rows, columns=pd.Index(_EDGES))
    return table.sort_values("effect", ascending=False, ignore_index=True)


def _tests(
    model: HookedModel, prompts: Prompts, circuit: list[Head], n_random: int, seed: int, run: dict[str, Any]
) -> tuple[pd.DataFrame, float]:
    """Faithfulness and necessity of the circuit and of random sets of other heads."""
    every = [Head(*pair) for pair in itertools.product(range(model.n_layers), range(model.n_heads))]
    sets = {"circuit": circuit} if circuit else {}
    generator = random.Random(seed)
    outside = [head for head in every if head not in circuit]
    size = min(len(circuit), len(outside))
    drawn = {tuple(sorted(generator.sample(outside, size))) for _ in range(n_random if size else 0)}
    sets |= {f"random {i + 1}": list(members) for i, members in enumerate(sorted(drawn))}
    groups: dict[str, list[Head]] = {"all": every}
    for name, members in sets.items():
        groups[f"without {name}"] = members
        rest = [head for head in every if head not in members]
        groups |= {f"{name} alone": rest} if rest else {}
    found = ablation_sweep(model, prompts, heads=groups, **run)
    clean = float(found.table["clean"].iloc[0])
    losses = dict(zip(found.table["label"], found.table["changed"], strict=True))
    rows = []
    for name, members in sets.items():
        alone, without = losses.get(f"{name} alone", clean), losses[f"without {name}"]
        span = losses["all"] - clean
        rows.append((name, len(members), alone, (losses["all"] - alone) / span, without, (without - clean) / span))
    return pd.DataFrame(rows, columns=pd.Index(_TESTS)), float(losses["all"])
