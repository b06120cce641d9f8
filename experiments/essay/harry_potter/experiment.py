"""“Harry Potter … Harry”: is what comes next read from the context by induction heads, or remembered from training?

    python -m experiments harry_potter

Passages that name somebody in full and end on the first name: well-known names, made-up ones, and well-known first
names with another's second name (exchanged). Do induction heads, found on repeated random tokens, attend to the second
name; what is its probability without them, without random heads of the same layers, and without the earlier
occurrence; what do they add to its logit, and where does it rank among all tokens that their output promotes? And does
it work where the earlier occurrence is a synonym, another case or another language? Writes to figures/:
harry_potter.csv, harry_potter.json (verdicts), harry_potter.png, harry_potter_fuzzy.png.
6 minutes on one CPU core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from experiments.essay.harry_potter.figures import draw, draw_fuzzy
from experiments.essay.harry_potter.names import (
    GROUPS,
    NAMES,
    WORDINGS,
    attention_to,
    fuzzy_passages,
    log_probabilities,
    logits_added,
    name_passages,
    ordinary_passages,
    outputs,
    ranks,
    run_without,
    written_at_end,
)
from experiments.essay.of_models import Least, on_models
from experiments.essay.passages import group_size, read_data, same_layers
from experiments.judging import Effect, judge, ratio
from experiments.verdicts import Verdict
from induction_lab import Head, HookedModel, repeated_tokens, score_heads
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.interventions.edits import OtherOutputs
from induction_lab.interventions.outputs import sums_over
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar

HEADS, SETS, LOOKS = 8, 10, 0.2  # random heads score less than LOOKS in prefix matching
RANK, MOST = 10, 0.5  # the second name's rank by what heads promote must not be worse, in that share of passages
SIMILAR = 0.25  # of what the title itself gains: what a similar one must
JUDGED = ("synonym", "case")  # what is similar, of the kinds in names.toml
FIRST, AS_WELL = "among the best", "attention gained, of what the title itself does"
REFERENCE = 32
ESSAY = "essay §6"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "harry_potter",
        measured,
        lambda table: [looks_back(table), predicts(table), memory(table), unembeds(table), likens(table)],
        lambda table: {"": draw(table), "_fuzzy": draw_fuzzy(table)},
        least=Least("names", 3, "so that names differ and can be exchanged"),
        seed="the random sets of heads",
    )


def measured(model: HookedModel, most: int | None, seed: int) -> list[dict[str, Any]]:
    """A row for each group of names, quantity and set of heads."""
    data = read_data(NAMES)
    period = 20 if (model.n_ctx or 101) < 101 else 50
    scores = score_heads(model, repeated_tokens(model, n_prompts=8, period=period), scores=["prefix_matching"])
    induction = [head for head, _ in scores.top("prefix_matching", group_size(model, HEADS))]
    spared = scores.above("prefix_matching", LOOKS)
    sets = {"induction": induction}
    others = same_layers(induction, model, SETS, seed=seed, spared=spared)
    sets |= {f"random {i}": heads for i, heads in enumerate(others)}
    rows = recalled(model, data, sets, most, seed) + likened(model, data, sets, most)
    members = {name: " ".join(map(str, heads)) for name, heads in sets.items()}
    return [{"model": model.name, **each, "members": members.get(each["heads"], "")} for each in rows]


def row(group: str, quantity: str, values: Float[Tensor, " name"], heads: str = "") -> dict[str, Any]:
    """One row of the table: a mean over names (or titles)."""
    mean, error = number_and_error(values.float())
    names = {"group": group, "quantity": quantity, "heads": heads, "value": mean, "standard_error": error}
    return {**names, "median": float(values.float().median()), "names": len(values)}


def recalled(
    model: HookedModel, data: dict[str, Any], sets: dict[str, list[Head]], most: int | None, seed: int
) -> list[dict[str, Any]]:
    """Everything about names, group by group: one group's passages are run at a time."""
    rows, length = [], max(name_passages(model, data, group, most).passages.tokens.shape[1] for group in GROUPS)
    reference = ordinary_passages(model, data, n_prompts=REFERENCE, length=length, seed=seed)
    mean = OtherOutputs(sums_over(reference, lambda prompts: outputs(residual_streams(model, prompts.tokens))).mean())
    with progress_bar(len(GROUPS) * len(sets), "ablating heads", shown=sys.stderr.isatty()) as tick:
        for group in GROUPS:
            named = name_passages(model, data, group, most, length=length)
            streams = residual_streams(model, named.passages.tokens)
            clean = log_probabilities(model, named, streams.normalised)
            rows += [row(group, "log-probability", clean), row(group, "probability", clean.exp())]
            stranger = name_passages(model, data, group, most, stranger=True)
            alone = log_probabilities(model, stranger, model.hidden(stranger.passages.tokens))
            rows += [row(group, "log-probability without occurrence", alone)]
            rows += [row(group, "probability without occurrence", alone.exp())]
            rows += [row(group, "uniform attention", named.by_name(1.0 / (named.passages.last + 1)))]
            attention = attention_to(named.passages, streams, "first_again", "second")
            added, written = named.by_name(logits_added(model, named)), written_at_end(model, named, streams)
            for name, heads in sets.items():
                rows.append(row(group, "attention", named.by_name(_mean_of(attention, heads)), name))
                rows.append(row(group, "logits added", added[:, *_indices(heads)].sum(1), name))
                rank = ranks(model, named, written, heads)
                rows.append(row(group, "rank", named.by_name(rank), name))
                rows.append(row(group, FIRST, named.by_name((rank <= RANK).float()), name))
                left = log_probabilities(model, named, run_without(streams, mean, heads))
                rows.append(row(group, "lost log-probability", clean - left, name))
                rows.append(row(group, "probability left", left.exp(), name))
                tick(1)
    return rows


def likened(
    model: HookedModel, data: dict[str, Any], sets: dict[str, list[Head]], most: int | None
) -> list[dict[str, Any]]:
    """Attention to the name and its log-probability after the title in other words, less after an unrelated title."""
    rows = []
    for kind in data["fuzzy"]["kinds"]:
        attention, logs = {}, {}
        for wording in WORDINGS:
            named = fuzzy_passages(model, data, kind, wording, most)
            streams = residual_streams(model, named.passages.tokens)
            attention[wording] = named.by_name(attention_to(named.passages, streams, "again", "second"))
            logs[wording] = log_probabilities(model, named, streams.normalised)
        for wording in WORDINGS:
            rows.append(row(kind, f"probability, {wording}", logs[wording].exp()))
            rows += [row(kind, f"attention, {wording}", _mean_of(attention[wording], sets[s]), s) for s in sets]
        for wording in WORDINGS[:2]:
            gain = {name: _mean_of(attention[wording] - attention["unrelated"], heads) for name, heads in sets.items()}
            rows += [row(kind, f"attention gained, {wording}", values, name) for name, values in gain.items()]
            rows.append(row(kind, f"log-probability gained, {wording}", logs[wording] - logs["unrelated"]))
        over = {how: _mean_of(attention[how] - attention["unrelated"], sets["induction"]) for how in WORDINGS[:2]}
        share = ratio(*(values.tolist() for values in over.values()))
        rows.append(
            {"group": kind, "quantity": AS_WELL, "heads": "", "value": share.value, "standard_error": share.error,
             "median": share.value, "names": share.items}
        )  # fmt: skip
    return rows


def looks_back(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for model, own in of_models(table):
        margins = []
        for group in GROUPS:
            looks, others = own_and_random(own, group, "attention")
            chance = one(own, group, "uniform attention")["value"]
            numbers[f"{model}, {group}"] = f"{said(looks, '')} (uniform {chance:.3f})"
            control.append(f"{model}, {group} {others.min():.3f} to {others.max():.3f}")
            margins.append(above(looks, max(chance, others.max())))
        effects[model] = least(margins)
    return Verdict(
        claim='When "Harry" comes again, induction heads look back to what followed it before: "Potter"',
        source=ESSAY,
        measured=f"attention from the first name, when it comes again, to the second name; mean of the {HEADS} "
        f"heads with the highest prefix matching on repeated random tokens ({members(table)})",
        criterion="more than uniform attention and than every random set, in each group of names: the least of these "
        "margins is above 0",
        numbers=numbers,
        control=f"{SETS} random sets of as many other heads in the same layers: " + "; ".join(control),
        **judge(effects, 0.0, unit="of attention"),
    )


def predicts(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for model, own in of_models(table):
        margins = []
        for group in GROUPS:
            lost, others = own_and_random(own, group, "lost log-probability")
            before, left = one(own, group, "probability"), own_and_random(own, group, "probability left")[0]
            change = f"probability {before['value']:.3f} → {left['value']:.3f}"
            numbers[f"{model}, {group}"] = f"{change}; {said(lost)} nats lost"
            control.append(f"{model}, {group} {others.min():+.3f} to {others.max():+.3f} nats")
            margins.append(above(lost, max(0.0, others.max())))
        effects[model] = least(margins)
    return Verdict(
        claim="They directly help to predict the next word",
        source=ESSAY,
        measured="probability of the second name's first token with the heads as they are, and at their mean over "
        f"{REFERENCE} passages of the same kind without such a name before",
        criterion="more log-probability is lost than without every random set, in each group of names: the least of "
        "these margins is above 0",
        numbers=numbers,
        control=f"{SETS} random sets in the same layers: " + "; ".join(control),
        **judge(effects, 0.0, unit="nats"),
    )


def memory(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for model, own in of_models(table):
        lost = {group: own_and_random(own, group, "lost log-probability")[0] for group in GROUPS}
        margins = []
        for group in GROUPS[1:]:
            error = math.hypot(lost[group]["standard_error"], lost["known"]["standard_error"])
            margins.append(Effect(lost[group]["value"] - lost["known"]["value"], error, int(lost[group]["names"])))
            more = f"{margins[-1].value:+.3f} ± {error:.3f} nats more are lost without the heads"
            numbers[f"{model}, {group} less known"] = more
        for group in GROUPS:
            alone, there = one(own, group, "probability without occurrence"), one(own, group, "probability")
            with_it = f"probability with the earlier occurrence {said(there, '')}, without it {said(alone, '')}"
            numbers[f"{model}, {group}"] = with_it
        others = {group: own_and_random(own, group, "lost log-probability")[1].mean() for group in GROUPS}
        control.append(f"{model} " + ", ".join(f"{group} {cost:+.3f}" for group, cost in others.items()))
        effects[model] = least(margins)
    return Verdict(
        claim="Names that the model does not know from training are read from the context, through induction heads",
        source=ESSAY,
        measured="what ablating the heads costs each group, and the second name's probability after the same passage "
        'with "a stranger" in place of the full name',
        criterion="ablating costs made-up and exchanged names more than known ones: the lesser of both margins is "
        "above 0",
        numbers=numbers,
        control="random sets cost, on average: " + "; ".join(control),
        **judge(effects, 0.0, unit="nats"),
    )


def unembeds(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for model, own in of_models(table):
        shares = []
        for group in GROUPS:
            added, others = own_and_random(own, group, "logits added")
            first, at_random = own_and_random(own, group, FIRST)
            rank = own_and_random(own, group, "rank", "median")[0]["median"]
            shares.append(Effect(first["value"], first["standard_error"], int(first["names"])))
            told = (
                f"{first['value']:.2f} of the passages; {said(added)} logits; median rank among all tokens {rank:.0f}"
            )
            numbers[f"{model}, {group}"] = told
            bounds = f"{others.min():+.2f} to {others.max():+.2f} logits"
            control.append(f"{model}, {group} at most {at_random.max():.2f} of the passages, {bounds}")
        effects[model] = least(shares)
    return Verdict(
        claim="The unembedding turns the heads' vector into the word",
        source=ESSAY,
        measured=f"the second name's first token among all tokens, by what the summed output of the {HEADS} heads at "
        "the end adds to their logits; and direct logit attribution to it",
        criterion=f"it is among the best {RANK + 1} tokens in more than {MOST:.0%} of the passages, in each group",
        numbers=numbers,
        control=f"{SETS} random sets in the same layers: " + "; ".join(control),
        **judge(effects, MOST, unit="of the passages"),
    )


def likens(table: pd.DataFrame) -> Verdict:
    numbers, effects, control = {}, {}, []
    for model, own in of_models(table):
        found = {}
        for kind in [group for group in own["group"].unique() if group not in GROUPS]:
            looks, others = own_and_random(own, kind, "attention gained, likened")
            gain, exact = (one(own, kind, f"log-probability gained, {how}") for how in ("likened", "repeated"))
            share = one(own, kind, AS_WELL)
            found[kind] = Effect(share["value"], share["standard_error"], int(share["names"]))
            told = (
                f"{said(share)} of what the title itself gains; attention {said(looks)}, log-probability {said(gain)}"
            )
            numbers[f"{model}, {kind}"] = f"{told} nats" + ("" if kind in JUDGED else " (not judged)")
            itself = own_and_random(own, kind, "attention gained, repeated")[0]["value"]
            both = f"the title itself {itself:+.3f} and {exact['value']:+.2f} nats"
            control.append(f"{model}, {kind}: {both}, random sets to {others.max():+.3f}")
        effects[model] = least([found[kind] for kind in JUDGED])
    return Verdict(
        claim="They look for similar patterns, not for the same word only",
        source=ESSAY,
        measured='"The doctor Smith … the physician": attention of the induction heads to the name, less after an '
        "unrelated title of the same form, over what the title itself gains so; a synonym, another case, another "
        "language (which these models hardly read: told, not judged)",
        criterion=f"more than {SIMILAR:.0%} of what the title itself gains, both for synonyms and in another case",
        numbers=numbers,
        control="less the unrelated title: " + "; ".join(control),
        **judge(effects, SIMILAR, unit="of what the title itself gains"),
    )


def of_models(table: pd.DataFrame) -> list[tuple[str, Any]]:
    """Each model's rows."""
    return [(str(model), rows) for model, rows in table.groupby("model", sort=False)]


def above(found: Any, line: float) -> Effect:
    """How far a mean over names lies above a line, with its error."""
    return Effect(found["value"] - line, found["standard_error"], int(found["names"]))


def least(margins: Sequence[Effect]) -> Effect:
    """The margin of the group that has the smallest."""
    return min(margins, key=lambda each: each.value)


def members(table: pd.DataFrame) -> str:
    """The induction heads of every model."""
    found = table[table["heads"] == "induction"].groupby("model", sort=False)["members"].first()
    return "; ".join(f"{model}: {heads}" for model, heads in found.items())


def _indices(heads: Sequence[Head]) -> tuple[list[int], list[int]]:
    return [head.layer for head in heads], [head.head for head in heads]


def _mean_of(values: Float[Tensor, "item layer head"], heads: Sequence[Head]) -> Float[Tensor, " item"]:
    return values[:, *_indices(heads)].mean(1)


def one(table: Any, group: str, quantity: str) -> Any:
    return table[(table["group"] == group) & (table["quantity"] == quantity)].iloc[0]


def own_and_random(table: Any, group: str, quantity: str, column: str = "value") -> tuple[Any, Any]:
    """The row of the induction heads, and one column of the random sets'."""
    rows = table[(table["group"] == group) & (table["quantity"] == quantity)].set_index("heads")
    return rows.loc["induction"], rows[rows.index.str.startswith("random")][column]


def said(found: Any, sign: str = "+") -> str:
    return f"{found['value']:{sign}.3f} ± {found['standard_error']:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
