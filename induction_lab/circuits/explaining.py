"""`explain`: find a model's induction circuit from its behaviour down, by interventions, and say how sure that is.

1. Behaviour: how far the loss falls on the second copy of random tokens.
2. Which heads carry it: every head is mean-ablated by itself (`ablation_sweep`).
3. Which heads feed the induction heads: every earlier head's direct path to their keys is cut (`patch_paths`).
   Both are races unless `exact`: heads and paths leave early whose effect is certainly too small for any verdict.
4. A verdict for each head, from where it looks, what it writes and what is lost without it (`verdicts`).
5. Faithfulness: what is left of the behaviour when all heads outside the circuit are mean-ablated at once; necessity:
   what is lost when the circuit alone is; both on prompts that the heads were not chosen on, and against random sets of
   as many other heads (of all others, where there are not as many).

Where it may be chance that the loss falls at all, there is nothing to explain: all heads are bystanders.

Shares are of the loss between the whole model and one with all heads mean-ablated. Heads are judged one by one in step
2, so of several that stand in for each other each may seem to do little: necessity says what they do together.
Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895; Wang et al. (2022), https://arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from induction_lab.behaviour.losses import copy_masks, token_losses
from induction_lab.circuits.explanation import EDGES, TESTS, Explanation
from induction_lab.circuits.verdicts import CIRCUIT, LEAST_EFFECT, verdicts
from induction_lab.data.prompts import Prompts, PromptsLike, as_repeats, repeated_tokens
from induction_lab.internals.reading import attention_layers
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.interventions.each_head import parse_groups, sweep_prepared
from induction_lab.interventions.effects import Effects
from induction_lab.interventions.path_patching import patch_prepared
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.interventions.racing.race import staged
from induction_lab.interventions.senders import check_patchable
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, parse_head
from induction_lab.results.statistics import number_and_error, t_above
from induction_lab.results.tables import check_suffix
from induction_lab.scores.results import HeadScores
from induction_lab.scores.scoring import score_heads

REFERENCE = 32  # prompts that means are taken over
COPYING = 0.01  # p-value of the fall of the loss above which nothing is explained
RACED = 32  # heads from which on it pays to leave some after few prompts
MOST_DRAWN = 8  # senders and receivers whose single paths are cut
_SCORES = ("previous_token", "prefix_matching", "duplicate_token")


@takes_names
def explain(
    model: HookedModel,
    prompts: PromptsLike | None = None,
    *,
    reference: Prompts | None = None,
    n_random: int = 10,
    seed: int = 0,
    exact: bool = False,
    path: str | Path | None = None,
    progress: bool = False,
) -> Explanation:
    """Find the heads that carry in-context copying, and test the circuit that they make.

    >>> explain(HookedModel(induction_circuit(), name="by hand"))                          # doctest: +SKIP
    Explanation('by hand': 1 previous-token, 1 induction)

    Args:
        model: Any supported model.
        prompts: Repeated tokens, two or more of them; 8 of 2 x 50 by default. Of two or three prompts only heads with
            the greatest effects can be told from chance, over all heads at once.
        reference: Prompts of the same length to take means over; by default 32 others like `prompts`. Of few prompts
            the mean is none yet: it still says what they say, and does more harm than it should.
        n_random: Random sets of heads to compare the circuit with.
        seed: Of their choice.
        exact: Measure every head and path on all prompts. By default, in models of 32 heads or more, those leave early
            whose effect is certainly too small for any verdict (`screen` of `ablation_sweep`); they keep the estimate
            of then.
        path: A file (`.csv`, `.json`, `.parquet`) to keep the sweep in, from which a run that is cut off goes on.
        progress: Progress bars on standard error.

    Raises:
        ValueError: If the prompts are no repeated tokens, or fewer than two.
    """
    refuse_on_disk(model, "explain", 2 * model.n_layers * model.n_heads)
    prompts = repeated_tokens(model, n_prompts=8) if prompts is None else as_repeats(model, prompts)
    if prompts.period is None or prompts.n_repeats != 2 or len(prompts) < 2:
        raise ValueError(
            "Two or more prompts of a block written twice are wanted: repeated_tokens(model, n_prompts=8); got "
            f"{len(prompts)} of kind {prompts.kind!r}. Of texts of your own ask ablation_sweep or find_circuit."
        )
    facts = {name: getattr(prompts, name) for name in ("period", "gap", "bos", "beyond_context")}
    others = repeated_tokens(model, n_prompts=REFERENCE, seed=(prompts.seed or 0) + 1, **facts)
    fresh = repeated_tokens(model, n_prompts=len(prompts), seed=(prompts.seed or 0) + 2, **facts)
    if path is not None:
        check_suffix(Path(path))
    scores = _scores(model, prompts, progress)  # step 1, and where heads look
    left_out: dict[str, str] = {}
    fall = scores.loss_by_copy[0] - scores.loss_by_copy[1]
    whole = _prepared(model, prompts, others if reference is None else reference)
    exact = exact or model.n_layers * model.n_heads < RACED
    screen = None if exact or fall <= 0 or prompts.period < 3 else LEAST_EFFECT * fall
    prepared = whole if screen is None else staged(whole, screen)
    if not _copies(prepared):
        left_out["verdicts"] = f"the loss falls by {fall:.2f} nats on the second copy, which may be chance"
        prepared, screen, fall = whole, None, 0.0
    how = {"screen": screen, "progress": progress}
    sweep = sweep_prepared(prepared, parse_groups(model, None), path=path, **how)  # step 2
    heads = _evidence(scores, sweep)
    heads["verdict"] = verdicts(heads, fall, len(prompts))  # which the induction heads of step 3 are taken from
    receivers = [str(label) for label in heads.loc[heads["verdict"] == "induction", "label"]]
    edges = pd.DataFrame(columns=EDGES)
    if any(parse_head(label).layer for label in receivers):
        try:
            heads = _with_paths(heads, prepared, receivers, how)  # step 3
            heads["verdict"] = verdicts(heads, fall, len(prompts))  # step 4
            edges = _edges(heads, prepared, how)
        except ValueError as error:
            left_out["paths"] = str(error)
    chosen = [parse_head(label) for label in heads.loc[heads["verdict"].isin(CIRCUIT), "label"]]
    tests, no_heads = _tests(prepared.on(fresh), chosen, n_random, seed, progress)  # step 5
    copies = {"first_copy": scores.loss_by_copy[0], "second_copy": float(sweep.table["clean"].iloc[0])}
    known = sweep.provenance | {"left_out": scores.provenance["left_out"] | left_out}
    shape = (model.name, model.n_layers, model.n_heads)
    return Explanation(*shape, copies | {"no_heads": no_heads}, heads, edges, tests, known)


def _copies(prepared: PreparedPrompts) -> bool:
    """Whether the loss falls on the second copy for certain: a t-test over prompts."""
    prompts = prepared.prompts
    losses = torch.cat([token_losses(prepared.model, some.prompts, some.streams.normalised) for some in prepared])
    first, second = copy_masks(prompts.period or 0, 2, gap=prompts.gap, has_bos=prompts.has_bos)
    falls = losses[:, first].mean(1) - losses[:, second].mean(1)
    mean, error = number_and_error(falls.double())
    return mean > 0 and (error == 0 or bool(t_above(mean / error, len(falls) - 1) <= COPYING))


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
        at = heads["layer"].tolist(), heads["head"].tolist()  # some layers of hybrids have no heads
        heads[name] = scores[name][at].double().numpy() if known else float("nan")
        if name == "logit_attribution":
            heads["logit_error"] = scores.standard_errors[name][at].double().numpy() if known else float("nan")
    return heads


def _prepared(model: HookedModel, prompts: Prompts, reference: Prompts) -> PreparedPrompts:
    """The prompts and what the reference says, worked out once for all steps; with streams, if paths can be cut."""
    how = {"method": "mean", "metric": "copy_loss", "reference": reference}
    try:
        check_patchable(model, "mean")
    except ValueError:  # which step 3 says again
        return PreparedPrompts(model, prompts, **how)
    return PreparedPrompts(model, prompts, **how, whole_streams=True)


def _with_paths(
    heads: pd.DataFrame, prepared: PreparedPrompts, receivers: list[str], how: dict[str, Any]
) -> pd.DataFrame:
    """What is known of each head, with the effect of its direct path to the keys of all receivers together."""
    top = max(parse_head(label).layer for label in receivers)
    senders = [Head(layer, head) for layer, head in zip(heads["layer"], heads["head"], strict=True) if layer < top]
    found = patch_prepared(prepared, receivers, "k", senders=senders, **how).table
    values: Any = found.set_index("label")
    effect, error = (heads["label"].map(values[column]) for column in ("effect", "standard_error"))
    return heads.assign(to_keys=effect, to_keys_error=error)


def _edges(heads: pd.DataFrame, prepared: PreparedPrompts, how: dict[str, Any]) -> pd.DataFrame:
    """The strongest senders to each of the strongest receivers, one path at a time."""
    feeding = heads.loc[heads["verdict"].isin(["previous-token", "carrier"])].nlargest(MOST_DRAWN, "to_keys")
    senders = [parse_head(label) for label in feeding["label"]]
    induction = heads.loc[heads["verdict"] == "induction"].nlargest(MOST_DRAWN, "effect")["label"]
    rows = []
    for receiver in map(parse_head, induction):
        below = [sender for sender in senders if sender.layer < receiver.layer]
        if below:
            found: Any = patch_prepared(prepared, receiver, "k", senders=below, **how).table
            rows += [(r["label"], str(receiver), r["effect"], r["standard_error"]) for r in found.to_dict("records")]
    table = pd.DataFrame(rows, columns=EDGES)
    return table.sort_values("effect", ascending=False, ignore_index=True)


def _tests(
    prepared: PreparedPrompts, circuit: list[Head], n_random: int, seed: int, progress: bool
) -> tuple[pd.DataFrame, float]:
    """Faithfulness and necessity of the circuit and of random sets of other heads."""
    model = prepared.model
    every = [Head(*pair) for pair in itertools.product(attention_layers(model), range(model.n_heads))]
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
    found = sweep_prepared(prepared, parse_groups(model, groups), progress=progress)
    clean = float(found.table["clean"].iloc[0])
    losses = dict(zip(found.table["label"], found.table["changed"], strict=True))
    rows = []
    for name, members in sets.items():
        alone, without = losses.get(f"{name} alone", clean), losses[f"without {name}"]
        span = losses["all"] - clean
        rows.append((name, len(members), alone, (losses["all"] - alone) / span, without, (without - clean) / span))
    return pd.DataFrame(rows, columns=TESTS), float(losses["all"])
