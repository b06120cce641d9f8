"""With a page of ordinary prose between a name and its return, is the name as near as without?

    python -m experiments prose_between

Somebody is named in full, prose follows, and then the first name comes again: by how many nats does the earlier name
raise the family name's log-probability, against the same text with a stranger in the name's place? And how much do the
induction heads (by prefix matching on random tokens) attend from the first name back to the family name? With the same
prose in front of both instead of between them, a prompt is as long and the distance short. The language models' part of
the experiment distance, whose random tokens between the two make a model worse by themselves. Writes to figures/:
prose_between.csv, prose_between.json (verdicts), prose_between.png. 8 minutes on one CPU core.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.harry_potter.names import NAMES
from experiments.essay.harry_potter.two_names import NAMESAKES
from experiments.essay.of_models import Least, names, on_models, shown
from experiments.essay.passages import (
    Passages,
    first_token,
    group_size,
    n_tokens,
    read_data,
    read_passages,
)
from experiments.essay.prose import read_prose
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import Head, HookedModel, repeated_tokens, score_heads
from induction_lab.internals.reading import read_attention
from induction_lab.runtime.progress import progress_bar

MODELS = ("smollm2-135m", "gemma3-270m")
GAPS = (0, 64, 256, 1024)
BETWEEN, BEFORE, STRANGER = "between", "in front of both", "between, a stranger named"
HEADS, TOKENS_A_BATCH = 8, 4096
# The criteria, written before anything was run.
KEPT = 0.9  # of what the name is worth without prose: what "however far apart" must leave, as in distance
DOUBLED = 0.693  # nats
ESSAY = "essay §2.1"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "prose_between",
        measured,
        lambda table: [as_near(table), reached(table)],
        draw,
        least=Least("names", 3, "so that an error can be told"),
    )


def measured(model: HookedModel, most: int | None = None) -> list[dict[str, Any]]:
    """A row for each name, gap and place of the prose."""
    period = 20 if (model.n_ctx or 101) < 101 else 50
    scores = score_heads(model, repeated_tokens(model, n_prompts=4, period=period), scores=["prefix_matching"])
    heads = [head for head, _ in scores.top("prefix_matching", group_size(model, HEADS))]
    people = [tuple(scene["made_up"][:2]) for scene in read_data(NAMESAKES)["scene"]][:most]
    gaps = [gap for gap in GAPS if gap + 80 <= (model.n_ctx or gap + 80)]
    rows: list[dict[str, Any]] = []
    with progress_bar(len(gaps) * 3 - 1, model.name, shown=sys.stderr.isatty()) as tick:
        for gap in gaps:
            for place in (BETWEEN, BEFORE, STRANGER) if gap else (BETWEEN, STRANGER):
                texts = [text(model, name, number, gap, place) for number, name in enumerate(people)]
                answers = [first_token(model, second) for _, second in people]
                size = max(1, TOKENS_A_BATCH // (gap + 80))
                for start in range(0, len(texts), size):
                    some = read_passages(model, texts[start : start + size])
                    logs, looks = read(model, some, answers[start : start + size], heads)
                    apart = (some.last - some.marks["name"][:, 1]).tolist()
                    for i, (log, look) in enumerate(zip(logs.tolist(), looks.tolist(), strict=True)):
                        row = {"model": model.name, "gap": gap, "prose": place, "name": start + i, "apart": apart[i]}
                        rows.append(row | {"log_probability": log, "attention": look})
                tick(1)
    return rows


def text(model: HookedModel, name: tuple[str, ...], number: int, gap: int, place: str) -> str:
    """The first sentence of a passage of names.toml with the name in full, prose, the rest up to the first name."""
    data = read_data(NAMES)
    passage = data["passages"][number % len(data["passages"])]
    first, second = name
    opening, rest = passage.split(". ", 1)
    named = f"<name|{data['stranger']}>" if place == STRANGER else f"{first} <name|{second}>"
    told_first, told_last = opening.format(name=named) + ".", rest.format(first=first)
    prose = some_prose(model, gap, number)
    parts = [prose, told_first, told_last] if place == BEFORE else [told_first, prose, told_last]
    return " ".join(part for part in parts if part)


def some_prose(model: HookedModel, least: int, number: int) -> str:
    """Whole sentences of the passages of texts.toml, from another one on for every number, of so many tokens."""
    passages = read_prose()
    turned = [*passages[number % len(passages) :], *passages[: number % len(passages)]]
    sentences = [one for each in turned for one in re.split(r"(?<=[.!?]) ", each.text)]
    taken, length = [], 0
    while length < least and sentences:
        taken.append(sentences.pop(0))
        length += n_tokens(model, taken[-1])
    return " ".join(taken)


def read(
    model: HookedModel, passages: Passages, answers: Sequence[int], heads: Sequence[Head]
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
    """At the end, the family name's log-probability, and the heads' mean attention to where it stood."""
    found: list[Tensor] = []
    rows, key = torch.arange(len(passages.last)), passages.marks["name"][:, 0]

    def look(attention: Any) -> None:
        chosen = [head.head for head in heads if head.layer == attention.layer]
        if chosen:
            found.append(attention.probabilities(rows, passages.last, key)[:, chosen].float().cpu())

    with torch.inference_mode():
        hidden = read_attention(model, passages.tokens.to(model.device), look).normalised
        assert hidden is not None
        logs = model.unembed(passages.at_end(hidden)).float().log_softmax(-1).cpu()
    return logs.gather(1, torch.tensor(answers)[:, None])[:, 0], torch.cat(found, 1).mean(1)


def as_near(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        near, far = (gains(table, model, gap) for gap in (0, longest(table, model)))
        effects[model] = ratio(far, near)
        numbers[model] = "; ".join(seen(table, model, gap) for gap in gaps_of(table, model))
        numbers[model] += f"; kept at the longest {told(effects[model])}"
        beside = gains(table, model, longest(table, model), BEFORE)
        control.append(f"{model} {shown(beside)} nats, {told(ratio(beside, near))} of that without prose")
    return Verdict(
        claim="However far apart two words are, attention relates them directly: with prose between, a name is worth "
        "as much when it comes back",
        source=ESSAY,
        measured=f"{table['name'].nunique()} made-up names; what the name's earlier occurrence adds to the family "
        "name's log-probability after the first name, against the same text with a stranger in its place; whole "
        "sentences of prose between, of as many tokens as said or a few more",
        criterion=f"at the longest gap at least {KEPT:.0%} of what it adds without prose",
        numbers=numbers,
        control="the same prose in front of both, so that the prompt is as long: " + "; ".join(control),
        beforehand=True,
        **judge(effects, KEPT, unit="of what it adds without prose"),
    )


def reached(table: pd.DataFrame) -> Verdict:
    effects = {model: effect(gains(table, model, longest(table, model))) for model in names(table)}
    return Verdict(
        claim="And however far, it is not lost: a page later the name is still read from where it stood",
        source=ESSAY,
        measured="the same at the longest gap",
        criterion=f"the name's occurrence adds more than {DOUBLED:g} nats: it doubles the probability at least",
        numbers={model: seen(table, model, longest(table, model)) for model in names(table)},
        control="the same text with a stranger in the name's place, which is what the gain is over",
        beforehand=True,
        **judge(effects, DOUBLED, unit="nats"),
    )


def gaps_of(table: pd.DataFrame, model: str) -> list[int]:
    return sorted({int(gap) for gap in table[table["model"] == model]["gap"]})


def longest(table: pd.DataFrame, model: str) -> int:
    return gaps_of(table, model)[-1]


def column(table: pd.DataFrame, model: str, gap: int, place: str, quantity: str) -> Any:
    own: Any = table[(table["model"] == model) & (table["gap"] == gap) & (table["prose"] == place)]
    return own.sort_values("name")[quantity].to_numpy()


def gains(table: pd.DataFrame, model: str, gap: int, place: str = BETWEEN) -> list[float]:
    """By name, what its occurrence adds to the log-probability over a stranger's with prose between, in nats."""
    named, stranger = (column(table, model, gap, each, "log_probability") for each in (place, STRANGER))
    return (named - stranger).tolist()


def seen(table: pd.DataFrame, model: str, gap: int) -> str:
    apart = column(table, model, gap, BETWEEN, "apart").mean()
    attention = effect(column(table, model, gap, BETWEEN, "attention").tolist())
    return f"{apart:,.0f} tokens apart {shown(gains(table, model, gap))} nats, attention {told(attention)}"


def draw(table: pd.DataFrame) -> Figure:
    """What the name's occurrence adds, and the heads' attention to it, over the distance."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for number, model in enumerate(names(table)):
        colour = ("#2a6f97", "#d1495b", "#e09f3e", "#5f7a4f")[number % 4]
        gaps = gaps_of(table, model)
        at = [column(table, model, gap, BETWEEN, "apart").mean() for gap in gaps]
        for place, style in ((BETWEEN, "-o"), (BEFORE, ":s")):
            x = [(a, gap) for a, gap in zip(at, gaps, strict=True) if gap or place == BETWEEN]
            for ax, quantity in zip(axes, ("gain", "attention"), strict=True):
                values = [
                    effect(gains(table, model, gap, place) if quantity == "gain"
                           else column(table, model, gap, place, quantity).tolist())
                    for _, gap in x
                ]  # fmt: skip
                ax.errorbar([a for a, _ in x], [v.value for v in values], [2 * (v.error or 0) for v in values],
                            fmt=style, ms=5, capsize=2, color=colour, label=f"{model}, prose {place}")  # fmt: skip
    axes[0].set(ylabel="nats that the earlier name adds", title="What the name is worth when it comes back")
    axes[1].set(ylabel="induction heads' attention to it", title="What looks back to it")
    for ax in axes:
        ax.set(xscale="log", xlabel="tokens to the name (dotted: as long a prompt, the name near)", ylim=(0, None))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
