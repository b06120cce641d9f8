"""What soft_addressing.py concludes from its table."""

from __future__ import annotations

import math
from typing import Any

from experiments.essay.of_models import names, shown
from experiments.judging import Effect, by_construction, effect, judge, ratio, told
from experiments.verdicts import Verdict

EXACT, WRONG = 1e-5, 0.1  # relative error of the formula at most, and of wrong formulas (median of layers) at least
MORE_THAN, OF_EVEN, MOST = 2, 0.5, 0.5  # addresses; of what even attention reads; of all heads
CLOSE, FAR = 0.75, 0.25  # weights that are close to 1 and close to 0
SMALL = 0.25  # of what flattening costs, hardening must cost at most
MATTERS = 0.5  # nats by which reading from one address each must raise the loss on text
N, BACK = 16, 0.5  # pairs; share of the keys whose address is found, whose value comes back
ESSAY = "essay §1"


def verdicts(table: Any) -> list[Verdict]:
    """Every claim of the essay's first section, tested."""
    return [
        formula(table), soft(table), close_to_one(table), close_to_zero(table), one_address(table), mixture(table),
        found(table), comes_back(table),
    ]  # fmt: skip


def of(table: Any, model: str, part: str, **where: Any) -> Any:
    """Rows of one part of a model, with these entries."""
    rows = table[(table["model"] == model) & (table["part"] == part)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def values(table: Any, model: str, part: str, **where: Any) -> list[float]:
    """The same rows' values."""
    return of(table, model, part, **where)["value"].tolist()


def at_random(table: Any, model: str, part: str) -> list[str]:
    """The names of what random sets of heads were read in."""
    return [name for name in dict.fromkeys(of(table, model, part)["what"]) if "random" in name]


def formula(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for model in names(table):
        rows = of(table, model, "formula")
        errors = rows.groupby("what", sort=False)["value"].agg(["max", "median"])
        own, wrong = errors.loc["the formula"], errors.drop("the formula")["median"]
        kinds = f"{rows['n_heads'].iloc[0]:.0f} query heads on {rows['n_kv_heads'].iloc[0]:.0f} key heads"
        numbers[model] = f"at most {own['max']:.1e}, median layer {own['median']:.1e}; {kinds}"
        control.append(f"{model} " + ", ".join(f"{name} {value:.2f}" for name, value in wrong.items()))
        passed[model] = bool(own["max"] <= EXACT and wrong.min() >= WRONG)
    return Verdict(
        claim="Attention is softmax(Q Kᵀ / √d_k) V: scores by similarity, then a weighted sum of the values",
        source=ESSAY,
        measured="the formula written out in float32 on captured Q, K, V against what each layer's own heads put out; "
        "|difference| / |output| of the worst head",
        criterion=f"at most {EXACT:g} in every layer, and every wrong formula at least {WRONG} in the median layer",
        numbers=numbers,
        control="median layer: " + "; ".join(control),
        **by_construction(passed),
    )


def soft(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        rows = of(table, model, "spread")
        heads = rows[rows["quantity"] != "by position"].pivot(index="what", columns="quantity", values="value")
        addresses, even = heads["addresses"], heads["even"]
        effects[model] = effect(((addresses > MORE_THAN) & (addresses < OF_EVEN * even)).astype(float).tolist())
        q = addresses.quantile([0.1, 0.5, 0.9]).tolist()
        numbers[model] = (
            f"{effects[model].value:.0%} of heads; median head {q[1]:.1f} addresses (10 – 90 %: {q[0]:.1f} – "
            f"{q[2]:.1f}), even attention {even.median():.1f}; at most {MORE_THAN}: "
            f"{(addresses <= MORE_THAN).mean():.0%}; on BOS rests {heads['rest'].mean():.0%} in the mean"
        )
        control.append(f"{model}: the largest share is {heads['largest'].median():.2f} in the median head")
    return Verdict(
        claim="Addressing is soft: a head reads from several addresses, though far from all of them",
        source=ESSAY,
        measured="effective addresses exp(H) of every head on text, over keys besides BOS, on which heads rest when "
        "they read nothing; mean over queries, each counted by what it does not leave there",
        criterion=f"more than {MOST:.0%} of heads read from more than {MORE_THAN} addresses and fewer than "
        f"{OF_EVEN:.0%} of even attention's",
        numbers=numbers,
        control="hard addressing would read from 1, with share 1; " + "; ".join(control),
        **judge(effects, MOST, unit="of the heads"),
    )


def weights(table: Any, model: str) -> str:
    """What induction heads do where a key matches and where none does."""
    parts = []
    for kind in ("match", "no match"):
        own = {each: effect(values(table, model, "match", what=kind, quantity=each)).value
               for each in ("weight", "margin", "rest")}  # fmt: skip
        parts.append(
            f"{kind}: weight {own['weight']:.2f}, score {own['margin']:+.1f} nats ahead, BOS {own['rest']:.2f}"
        )
    return "; ".join(parts)


def close_to_one(table: Any) -> Verdict:
    own = {model: values(table, model, "match", what="match", quantity="weight") for model in names(table)}
    return Verdict(
        claim="Where Q and K match, the weight is close to 1",
        source=ESSAY,
        measured="heads that look for matches (induction heads, up to 8) on repeated random tokens: the weight on the "
        "key that follows an earlier occurrence of the last four tokens; and its score less the best other key's",
        criterion=f"more than {CLOSE} in the mean of the heads",
        numbers={model: weights(table, model) for model in own},
        control="the largest weight of any key but BOS where nothing is repeated yet: see the numbers, no match",
        **judge({model: effect(each) for model, each in own.items()}, CLOSE, unit="of attention"),
    )


def close_to_zero(table: Any) -> Verdict:
    own = {model: values(table, model, "match", what="no match", quantity="weight") for model in names(table)}
    return Verdict(
        claim="Where nothing matches, the weights are close to 0: the rest goes to BOS",
        source=ESSAY,
        measured="the same heads where nothing is repeated yet: the largest weight of any key but BOS",
        criterion=f"at most {FAR} in the mean of the heads",
        numbers={model: weights(table, model) for model in own},
        control="the weight where a key matches: see the numbers",
        **judge({model: effect(each) for model, each in own.items()}, FAR, at_most=True, unit="of attention"),
    )


def one_address(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        costs = {}
        for group in ("induction", "previous token"):
            flat, hard = (values(table, model, "temper", what=group, x=beta) for beta in (0, math.inf))
            costs[group] = ratio(hard, flat)
            numbers[f"{model}, {group}"] = f"flattened {shown(flat)}, argmax {shown(hard)} nats: {told(costs[group])}"
        effects[model] = max(costs.values(), key=lambda each: each.value)
        for name in at_random(table, model, "temper"):
            flat, hard = (values(table, model, "temper", what=name, x=beta) for beta in (0, math.inf))
            control.append(f"{model} flattened {shown(flat)}, argmax {shown(hard)} nats")
    return Verdict(
        claim="Heads that look for matches could as well take the one best address",
        source=ESSAY,
        measured="rise of the second copy's loss on repeated random tokens when induction heads, or previous-token "
        "heads, attend to the largest score alone (β = ∞), over that when they attend evenly (β = 0); the greater one",
        criterion=f"at most {SMALL:.0%} of it",
        numbers=numbers,
        control=f"as many random heads: {'; '.join(control) or 'there are not as many'}",
        **judge(effects, SMALL, at_most=True, unit="of what flattening costs"),
    )


def mixture(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        kept = of(table, model, "kept")
        sizes = sorted(set(kept["x"]))
        rise = {int(x): kept[kept["x"] == x]["value"].tolist() for x in sizes}
        effects[model] = effect(rise[int(sizes[0])])
        numbers[model] = "BOS and its best " + "; ".join(f"{x}: {shown(each)}" for x, each in rise.items()) + " nats"
        tempered = [
            f"β = {beta:g}: {shown(values(table, model, 'temper', what='all', x=beta))}".replace("inf", "∞")
            for beta in sorted(set(of(table, model, "temper", what="all")["x"]))
        ]
        control.append(f"{model} {', '.join(tempered)} nats")
    return Verdict(
        claim="The weighted sum matters: read from one address each, the heads no longer do their work",
        source=ESSAY,
        measured="rise of the loss on text when every head reads from BOS and from its one best key besides, by their "
        "own weights, instead of from all",
        criterion=f"by more than {MATTERS} nats a token",
        numbers=numbers,
        control="all heads sharper or flatter, softmax(β · scores): " + "; ".join(control),
        **judge(effects, MATTERS, unit="nats"),
    )


def pairs(table: Any, model: str) -> tuple[int, dict[int, dict[str, Effect]]]:
    """The number of pairs that is judged; and by number what comes back, the model as it is."""
    rows = of(table, model, "table", what="as it is")
    sizes = sorted(set(rows["x"]))
    told_of = {
        int(x): {
            str(quantity): effect(each["value"].tolist()) for quantity, each in rows[rows["x"] == x].groupby("quantity")
        }
        for x in sizes
    }
    return (N if N in told_of else int(sizes[-1])), told_of


def found(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        n, each = pairs(table, model)
        effects[model], own = each[n]["address"], each[n]
        best = of(table, model, "heads", what="induction")["members"].iloc[0].split()[0]
        sizes = ", ".join(f"{x} pairs {found['address'].value:.0%}" for x, found in each.items())
        numbers[model] = f"{best}: {sizes}; weight there {own['attention'].value:.2f}"
        control.append(
            f"{model}, a key that is not there: {own['rest_absent'].value:.2f} rests on BOS (there: "
            f"{own['rest'].value:.2f}), at most {own['stray'].value:.2f} on one address"
        )
    return Verdict(
        claim="Keys are addresses by content: given a key again, its address is found",
        source=ESSAY,
        measured="pairs of random tokens in the context, up to 8 keys of each prompt asked for again: how often the "
        "best induction head puts more weight on the right address than on any other key but BOS",
        criterion=f"of {N} pairs (or as many as fit) for more than {BACK:.0%} of the keys",
        numbers=numbers,
        control="; ".join(control),
        **judge(effects, BACK, unit="of the keys"),
    )


def comes_back(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        n, each = pairs(table, model)
        effects[model] = each[n]["value"]
        numbers[model] = "; ".join(
            f"{x} pairs {found['value'].value:.0%}, likeliest of the values {found['among'].value:.0%}"
            for x, found in each.items()
        )
        without = {what: effect(values(table, model, "table", what=what, x=n, quantity="value")).value
                   for what in ["without induction", *at_random(table, model, "table")]}  # fmt: skip
        control.append(f"{model}, {n} pairs " + ", ".join(f"{what} {share:.0%}" for what, share in without.items()))
    return Verdict(
        claim="And its value comes back",
        source=ESSAY,
        measured="the same prompts: how often the key's value is the likeliest of all tokens",
        criterion=f"of {N} pairs (or as many as fit) for more than {BACK:.0%} of the keys",
        numbers=numbers,
        control="with heads ablated: " + "; ".join(control),
        **judge(effects, BACK, unit="of the keys"),
    )
