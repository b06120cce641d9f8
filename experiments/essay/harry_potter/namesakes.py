"""“Potter *in this context*”: of two namesakes, whose name comes after “Harry”: that of the topic, or the last, or any?

    python -m experiments namesakes

Texts about a wizard Harry Potter and a cook Harry Snow, with a last sentence on spells or on soup, end on “Harry”.
Order, roles, topic and who is named twice are exchanged in all combinations, so that least squares tells apart what
each does to the log-odds of one name against the other; with the last sentence's words scrambled, and with one on
neither. Then the way of the topic: what the induction heads (by prefix matching on random tokens) ask at the end is
taken from the text with the other topic, against as many other heads of their layers. Writes to figures/:
namesakes.csv, namesakes.json (verdicts), namesakes.png. 12 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from experiments.essay.harry_potter.namesakes_figure import draw
from experiments.essay.harry_potter.two_names import (
    FACTORS,
    GROUPS,
    NAMESAKES,
    NEITHER,
    PLAIN,
    SCRAMBLED,
    Exchange,
    Texts,
    coefficients,
    write_texts,
)
from experiments.essay.of_models import Least, names, on_models, shown
from experiments.essay.passages import group_size, read_data, same_layers
from experiments.judging import Effect, effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import Head, HookedModel, repeated_tokens, score_heads
from induction_lab.runtime.progress import progress_bar

MODELS = ("smollm2-135m", "gemma3-270m")
HEADS, SETS, LOOKS = 8, 8, 0.2  # random heads score less than LOOKS in prefix matching
BATCH = 4  # scenes at a time
# The criteria, written before anything was run.
DOUBLED = 0.693  # nats: the topic doubles the odds of its namesake's name
SHARE = 0.25  # of the topic's effect: less is not "the query asks for it"
WORDS = 0.5  # of the topic's effect: what scrambled words may keep where it is the sentence that counts
ESSAY = "essay §6"
CIRCUIT = "induction"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "namesakes",
        _measured,
        lambda table: [
            topic_moves(table),
            topic_leads(table),
            sentence_or_words(table),
            heads_ask(table),
            memory(table),
        ],
        draw,
        least=Least("scenes", 3, "so that an error can be told"),
        seed="random sets of heads and scrambled words",
    )


def _measured(model: HookedModel, most: int | None, seed: int) -> list[dict[str, Any]]:
    data = read_data(NAMESAKES)
    return measured(model, data, range(len(data["scene"]))[:most], seed)


def measured(model: HookedModel, data: dict[str, Any], scenes: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """A row for each scene and quantity: everything that is told is a mean over scenes."""
    period = 20 if (model.n_ctx or 101) < 101 else 50
    scores = score_heads(model, repeated_tokens(model, n_prompts=4, period=period), scores=["prefix_matching"])
    induction = [head for head, _ in scores.top("prefix_matching", group_size(model, HEADS))]
    spared = scores.above("prefix_matching", LOOKS)
    sets = {CIRCUIT: induction}
    sets |= {f"bystanders {i}": x for i, x in enumerate(same_layers(induction, model, SETS, seed=seed, spared=spared))}
    batches = [scenes[start : start + BATCH] for start in range(0, len(scenes), BATCH)]
    rows: list[dict[str, Any]] = []
    with progress_bar(len(GROUPS) * len(batches), model.name, shown=sys.stderr.isatty()) as tick:
        for group in GROUPS:
            for batch in batches:
                for kind in (PLAIN, SCRAMBLED, NEITHER):
                    texts = write_texts(model, data, group, kind, batch, every=kind == PLAIN, seed=seed)
                    rows += [row | {"group": group, "kind": kind} for row in regressed(model, texts)]
                if group == GROUPS[0]:  # the other would double the cost
                    texts = write_texts(model, data, group, PLAIN, batch, every=False, seed=seed)
                    rows += [row | {"group": group, "kind": PLAIN} for row in exchanged(model, texts, sets)]
                tick(1)
    members = {name: " ".join(map(str, heads)) for name, heads in sets.items()}
    return [row | {"model": model.name, "members": members.get(row["heads"], "")} for row in rows]


def regressed(model: HookedModel, texts: Texts) -> list[dict[str, Any]]:
    """By scene, what each factor does to the log-odds, and how often the name is that of the topic."""
    with torch.inference_mode():
        hidden = model.hidden(texts.passages.tokens)
        likely = model.unembed(texts.passages.at_end(hidden)).float().softmax(-1).cpu().gather(1, texts.answers).sum(1)
    odds, rows = texts.log_odds(model, hidden).tolist(), []
    for scene in sorted(set(texts.scene)):
        own = [i for i, each in enumerate(texts.scene) if each == scene]
        factors = {name: [values[i] for i in own] for name, values in texts.factors.items()}
        found = coefficients([odds[i] for i in own], factors)
        topic = [odds[i] * texts.factors["topic"][i] > 0 for i in own if texts.factors["topic"][i]]
        found |= {"right": sum(topic) / len(topic)} if topic else {}
        found["either name"] = float(likely[own].mean())
        rows += [{"scene": scene, "quantity": name, "heads": "", "value": value} for name, value in found.items()]
    return rows


def exchanged(model: HookedModel, texts: Texts, sets: dict[str, list[Head]]) -> list[dict[str, Any]]:
    """By scene, the topic's effect, and what is left of it with parts of the run taken from the other topic's text."""
    exchange, found = Exchange(model, texts), {}
    found["clean", ""] = texts.contrast(exchange.clean)
    attention = exchange.attention()
    every = [Head(layer, head) for layer in exchange.streams.attention for head in range(model.n_heads)]
    for name, heads in sets.items():
        found["query", name] = texts.contrast(exchange.query(heads))
        looking = torch.stack([attention[:, head.layer, head.head] for head in heads], 1).mean(1)
        found["attention", name] = texts.contrast(looking)
    found["output", CIRCUIT] = texts.contrast(exchange.output(sets[CIRCUIT]))
    found["query", "all heads"] = texts.contrast(exchange.query(every))
    for part in range(7):
        layer = round(part * model.n_layers / 6)
        found["stream", f"{layer / model.n_layers:.3f}"] = texts.contrast(exchange.stream(layer))
    scenes = sorted(set(texts.scene))
    return [
        {"scene": scene, "quantity": quantity, "heads": heads, "value": value}
        for (quantity, heads), values in found.items()
        for scene, value in zip(scenes, values, strict=True)
    ]


def topic_moves(table: pd.DataFrame) -> Verdict:
    effects = {model: effect(of(table, model, "topic")) for model in names(table)}
    numbers, control = {}, []
    for model in names(table):
        told = ", ".join(f"{factor} {shown(of(table, model, factor))}" for factor in FACTORS)
        right, either = (shown(of(table, model, quantity)) for quantity in ("right", "either name"))
        numbers[model] = f"{told} nats; the topic's name leads in {right} of the texts; both names together {either}"
        aside = ", ".join(f"{factor} {shown(of(table, model, factor, kind=NEITHER))}" for factor in FACTORS[1:3])
        control.append(f"{model}: after a sentence on neither {aside}")
    return Verdict(
        claim='"Potter" in this context: of two namesakes, the topic of the last sentence says whose name is copied',
        source=ESSAY,
        measured=f"{table['scene'].nunique()} scenes with made-up names, each in 16 texts (all combinations of role, "
        "order, who is named twice, last sentence); least squares in every scene: what a factor changes in the "
        "log-odds of one name against the other; mean and standard error over scenes. `sentence` and `role` are "
        "what a name gains whatever this text says, for made-up names nothing but chance",
        criterion=f"the topic changes the log-odds by more than {DOUBLED:g} nats: it doubles the odds at least",
        numbers=numbers,
        control="; ".join(control),
        caveat="The sentence says with its words which role is meant, so that a topic is no more than words that go "
        "with the role's word; and interval and outcome are those of two models that are unlike: see each.",
        captions={"namesakes": caption(table)},
        beforehand=True,
        **judge(effects, DOUBLED, unit="nats"),
    )


def topic_leads(table: pd.DataFrame) -> Verdict:
    effects, numbers = {}, {}
    for model in names(table):
        topic = of(table, model, "topic")
        rivals = {factor: of(table, model, factor) for factor in ("last", "often")}
        rival = max(rivals, key=lambda factor: abs(sum(rivals[factor])))
        sign = 1.0 if sum(rivals[rival]) > 0 else -1.0
        effects[model] = effect([a - sign * b for a, b in zip(topic, rivals[rival], strict=True)])
        numbers[model] = f"topic {shown(topic)}, last {shown(rivals['last'])}, often {shown(rivals['often'])} nats; "
        numbers[model] += f"topic less {'+' if sign > 0 else '−'}{rival} {told(effects[model])}"
    return Verdict(
        claim="It is the topic that decides, more than who was named last or more often",
        source=ESSAY,
        measured="the same regression, made-up names",
        criterion="by scene, what the topic changes less what the stronger of the two others does (in the direction "
        "that it has on the mean) lies above 0",
        numbers=numbers,
        control="all factors stand in all combinations, so that none can speak for another",
        caveat="Who is named twice is also who is named first, in a sentence without a role: how often, how early "
        "and how plainly are not told apart.",
        beforehand=True,
        **judge(effects, 0.0, unit="nats"),
    )


def sentence_or_words(table: pd.DataFrame) -> Verdict:
    effects, numbers = {}, {}
    for model in names(table):
        plain, mixed = of(table, model, "topic"), of(table, model, "topic", kind=SCRAMBLED)
        effects[model] = ratio(mixed, plain)
        numbers[model] = f"{shown(mixed)} of {shown(plain)} nats with scrambled words: {told(effects[model])}"
    return Verdict(
        claim="The topic is that of a sentence which was read, more than of its words in any order",
        source=ESSAY,
        measured="the topic's effect with the words of the last sentence scrambled, as a share of that with the "
        "sentence; made-up names",
        criterion=f"scrambled words keep less than {WORDS:.0%} of the topic's effect",
        numbers=numbers,
        control="the same words, names, roles and order; half of the combinations of factors",
        caveat="A share of no effect says nothing: only models in which the topic has one are to be read.",
        beforehand=True,
        **judge(effects, WORDS, at_most=True, unit="of the effect", undecided=absent(table)),
    )


def heads_ask(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        clean = of(table, model, "clean")
        shares = {name: carried(of(table, model, "query", name), clean) for name in sets_of(table, model)}
        others = [each.value for name, each in shares.items() if name != CIRCUIT]
        beside = mean_of([of(table, model, "query", name) for name in shares if name != CIRCUIT])
        own = of(table, model, "query", CIRCUIT)
        effects[model] = ratio([b - a for a, b in zip(own, beside, strict=True)], [2 * x for x in clean])
        everything = carried(of(table, model, "query", "all heads"), clean)
        output = carried(of(table, model, "output", CIRCUIT), clean)
        numbers[model] = (
            f"{told(shares[CIRCUIT])} of the topic's effect ({members(table, model)}); more than bystanders by "
            f"{told(effects[model])}; the queries of all heads {told(everything)}; these heads' outputs "
            f"{told(output)}; their attention to the topic's name less that to the other "
            f"{shown(of(table, model, 'attention', CIRCUIT))}"
        )
        looks = [sum(x) / len(x) for x in (of(table, model, "attention", n) for n in shares if n != CIRCUIT)]
        control.append(
            f"{model}: queries {min(others):+.1%} to {max(others):+.1%}, attention {min(looks):+.4f} to "
            f"{max(looks):+.4f}"
        )
    return Verdict(
        claim='The deep query asks for "Potter" in this context: the topic comes in through the induction heads\' '
        "queries",
        source=ESSAY,
        measured=f"at the end of the text, the queries of the {HEADS} heads with the highest prefix matching on "
        "repeated random tokens are those that the text with the other topic gives, its stream projected and rotated "
        "as here; share of the topic's effect that goes with them (100 %: it turns into its negative)",
        criterion=f"the share, less the mean of that with {SETS} sets of as many other heads of the same layers, lies "
        f"above {SHARE:.0%}",
        numbers=numbers,
        control=f"{SETS} such sets: " + "; ".join(control),
        caveat="A share of no effect says nothing: only models in which the topic has one are to be read. More than "
        "100 % is what other parts of the run work against. Queries are taken from a whole text with the other topic, "
        "so that this says where the topic enters, not that nothing else makes use of it.",
        beforehand=True,
        **judge(effects, SHARE, unit="of the effect", undecided=absent(table)),
    )


def memory(table: pd.DataFrame) -> Verdict:
    effects, numbers = {}, {}
    for model in names(table):
        topic, known = (of(table, model, factor, group="famous") for factor in ("topic", "sentence"))
        effects[model] = effect([a - b for a, b in zip(topic, known, strict=True)])
        numbers[model] = f"what the text says {shown(topic)}, what is known {shown(known)} nats; {told(effects[model])}"
    return Verdict(
        claim="With a famous name it is this context that counts (who is the wizard in this text), more than what is "
        "known of the name",
        source=ESSAY,
        measured="the same regression with one famous name: the last sentence is on the work of whoever has the name "
        "in this text (`topic`), or on what the famous person is known for, whatever he is here (`sentence`)",
        criterion="by scene, what the topic changes less what the sentence by itself does lies above 0",
        numbers=numbers,
        control="; ".join(
            f"{model}: made-up names gain {shown(of(table, model, 'sentence'))} from the sentence by itself"
            for model in names(table)
        ),
        caveat="The sentence by itself also stands for what its words recall, whoever is asked for; the two "
        "models differ.",
        beforehand=True,
        **judge(effects, 0.0, unit="nats"),
    )


def caption(table: pd.DataFrame) -> str:
    """What the figure finds."""
    parts = []
    for model in names(table):
        topic, often, mixed = (
            effect(of(table, model, name, kind=kind)).value
            for name, kind in (("topic", PLAIN), ("often", PLAIN), ("topic", SCRAMBLED))
        )
        parts.append(
            f"{model}: topic {topic:+.2f} nats ({mixed:+.2f} with its words scrambled), named twice {often:+.2f}"
        )
    return (
        "What makes one of two namesakes' names likelier after their first name (made-up names filled, famous hollow; "
        "bars: two standard errors over scenes). " + "; ".join(parts) + ". Right: the share of the topic's effect that "
        "goes over with the stream at the end from a layer on, with the queries of 8 induction heads (diamond), of "
        "their bystanders (grey) and of all heads (square), where the topic has an effect."
    )


def of(
    table: pd.DataFrame, model: str, quantity: str, heads: str = "", *, group: str = GROUPS[0], kind: str = PLAIN
) -> list[float]:
    """What was found, by scene."""
    asked = {"model": model, "quantity": quantity, "heads": heads, "group": group, "kind": kind}
    own: Any = table
    for name, value in asked.items():
        own = own[own[name] == value]
    return own.sort_values("scene")["value"].tolist()


def sets_of(table: pd.DataFrame, model: str) -> list[str]:
    return list(dict.fromkeys(table[(table["model"] == model) & (table["quantity"] == "attention")]["heads"]))


def members(table: pd.DataFrame, model: str) -> str:
    return str(list(table[(table["model"] == model) & (table["heads"] == CIRCUIT)]["members"])[0])


def carried(left: Sequence[float], clean: Sequence[float]) -> Effect:
    """Which share of the topic's effect goes over, from what is left of it."""
    return ratio([a - b for a, b in zip(clean, left, strict=True)], [2 * each for each in clean])


def mean_of(rows: Sequence[Sequence[float]]) -> list[float]:
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def absent(table: pd.DataFrame) -> str:
    """Why a share of the topic's effect says nothing, where there is no such effect."""
    found = {model: effect(of(table, model, "topic")) for model in names(table)}
    none = [model for model, each in found.items() if each.value < 2 * (each.error or 0.0)]
    return f"The topic has no effect, by 2 standard errors, in {', '.join(none)}." if none else ""


if __name__ == "__main__":
    main(sys.argv[1:])
