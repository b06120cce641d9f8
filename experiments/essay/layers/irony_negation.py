"""Do deep blocks ask with negation and irony in view: can their queries tell what was denied, and what was not meant?

    python -m experiments irony_negation

Sentences of the same words (irony_negation.toml): "The soup was not bland, it was tasty" and three more say that
something is good or bad; praise and complaint after something good or bad are meant or ironic. All go on with the same
words, at the last of which the queries of every layer are read, and its input. Linear probes, fitted on other items:
is the thing good, was the remark ironic? No list of the words says so. Beside it a control task (the answers of half of
the items, drawn at random, turned round), a plain feature (which half of the sentence denies; whether what happens is
good), and the model's own answer. Writes to figures/: irony_negation.csv, irony_negation.json (verdicts),
irony_negation.png. 1 minute on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.asked import share
from experiments.essay.geometry.senses import Word, read_words
from experiments.essay.of_models import Least, names, on_models
from experiments.essay.passages import first_token, read_data
from experiments.judging import effect, judge, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel
from induction_lab.weights.queries_keys import read_from_stream

DATA = Path(__file__).with_name("irony_negation.toml")
NEGATION, IRONY = KINDS = ("negation", "irony")
QUERIES, STREAM, CONTROL, PLAIN, ANSWER = (
    "queries", "the layer's input", "queries, control task", "queries, plain feature", "the model's own answer",
)  # fmt: skip
LINES = {QUERIES: ("#d1495b", "-"), STREAM: ("#2a6f97", "-"), PLAIN: ("#e09f3e", "--"), CONTROL: ("#8d99ae", ":")}
FOLDS, TASKS = 11, 10  # parts that items are fitted on and read in; control tasks
LOW, HIGH = -2, -1  # as layers: the lowest and the highest third, in the mean
# The criteria, written before anything was run.
OFTEN = 0.75  # of the sentences: half of the way from chance to always
DEEPER = 0.1  # of the sentences: by how much the highest third must tell more than the lowest
ESSAY = "essay §4"


class Items(NamedTuple):
    """Four sentences of each item, with the answers and the plain feature, +1 or -1."""

    sentences: list[list[str]]
    answers: Float[Tensor, " sentence"]
    plain: Float[Tensor, " sentence"]


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "irony_negation",
        measured,
        lambda table: [each(table, kind) for kind in KINDS for each in (tells, deeper)],
        draw,
        least=Least("items", FOLDS, "one in each part"),
    )


def written(data: dict[str, Any], kind: str, most: int | None = None) -> Items:
    """The sentences of one kind, before what they all end in."""
    own = data[kind]
    if kind == NEGATION:
        found = []
        for number, (thing, good, bad) in enumerate(own["items"][:most]):
            frames = own["frames"][number % len(own["frames"])]
            the = f"the {thing}"
            orders = [(frames[0], bad, good), (frames[0], good, bad), (frames[1], good, bad), (frames[1], bad, good)]
            found.append([frame.format(The=the.capitalize(), the=the, a=a, b=b) for frame, a, b in orders])
        return Items(found, torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0]))
    found = []
    for number, (good, bad, praise, complaint) in enumerate(own["items"][:most]):
        name = own["names"][number % len(own["names"])]
        pairs = [(good, praise), (good, complaint), (bad, praise), (bad, complaint)]
        found.append([own["frame"].format(happens=happens, said=said, name=name) for happens, said in pairs])
    return Items(found, torch.tensor([-1.0, 1.0, 1.0, -1.0]), torch.tensor([1.0, 1.0, -1.0, -1.0]))


def measured(model: HookedModel, most: int | None = None) -> list[dict[str, Any]]:
    """A row for each kind, part and layer, with its error over items; and for each item, in either third."""
    data, rows = read_data(DATA), []
    third = max(1, model.n_layers // 3)
    for kind in KINDS:
        items = written(data, kind, most)
        stream = at_the_end(model, items, data[kind]["ending"])
        parts: dict[str, list[Tensor]] = {}
        for layer in range(model.n_layers):
            for part, right in of_layer(model, layer, stream[layer], items).items():
                parts.setdefault(part, []).append(right)
        for part, each in parts.items():
            thirds = {LOW: torch.stack(each[:third]).mean(0), HIGH: torch.stack(each[-third:]).mean(0)}
            found = {**dict(enumerate(each)), **thirds}
            for layer, right in found.items():
                rows += _rows(model.name, kind, part, layer, right, by_item=layer < 0)
        rows += _rows(model.name, kind, ANSWER, HIGH, answered(model, stream[-1], data[kind]["answers"], items))
    return rows


def _rows(
    model: str, kind: str, part: str, layer: int, right: Float[Tensor, " item"], *, by_item: bool = True
) -> list[dict[str, Any]]:
    row = {"model": model, "kind": kind, "part": part, "layer": layer}
    if by_item:
        return [row | {"item": item, "right": value} for item, value in enumerate(right.tolist())]
    found = effect(right.tolist())
    return [row | {"item": -1, "right": found.value, "error": found.error}]


def at_the_end(model: HookedModel, items: Items, ending: str) -> Float[Tensor, "layer item sentence d_model"]:
    """What enters each layer at the last token, and last what leaves the highest."""
    none = torch.zeros(0, dtype=torch.bool)
    words = [Word(ending.split()[-1], [], [f"{one}{ending}" for one in each], none) for each in items.sentences]
    return read_words(model, words).stream


def of_layer(
    model: HookedModel, layer: int, stream: Float[Tensor, "item sentence d_model"], items: Items
) -> dict[str, Float[Tensor, " item"]]:
    """How often each item's sentences are told right, by what is read and what is asked of it."""
    flat = stream.flatten(0, 1)
    queries = read_from_stream(model, layer, "q", flat.to(model.device)).float().cpu().transpose(0, 1).flatten(1)
    n = len(stream)
    answers, plain = (each.expand(n, -1) for each in (items.answers, items.plain))
    tasks = torch.stack([answers, plain, *(turned_round(answers, seed) for seed in range(TASKS))])
    told = probed(queries.unflatten(0, (n, -1)), tasks)
    return {
        QUERIES: told[0], PLAIN: told[1], CONTROL: told[2:].mean(0), STREAM: probed(stream, answers[None])[0],
    }  # fmt: skip


def turned_round(answers: Float[Tensor, "item sentence"], seed: int) -> Float[Tensor, "item sentence"]:
    """The answers of half of the items turned into their opposites: a task of the same form that no item helps with."""
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
    found = answers.clone()
    found[order[: len(answers) // 2]] *= -1
    return found


def probed(
    x: Float[Tensor, "item sentence d"], tasks: Float[Tensor, "task item sentence"]
) -> Float[Tensor, "task item"]:
    """How often a linear probe (ridge), fitted on other items, tells the answer; a tie: half.

    What an item's sentences have in common is taken off. The penalty is the mean squared length of what it is fitted
    on.
    """
    n, m = x.shape[:2]
    rows = (x - x.mean(1, keepdim=True)).double().flatten(0, 1)
    gram, y = rows @ rows.T, tasks.double().flatten(1).T  # y: [row, task]
    part = (torch.arange(n) % FOLDS).repeat_interleave(m)
    score = torch.zeros_like(y)
    for fold in range(FOLDS):
        fitted, own = part != fold, part == fold
        inside = gram[fitted][:, fitted]
        penalty = inside.diagonal().mean().clamp(min=1e-30) * torch.eye(len(inside), dtype=inside.dtype)
        score[own] = gram[own][:, fitted] @ torch.linalg.solve(inside + penalty, y[fitted])
    margin = score * y
    right = (margin > 1e-9).double() + (margin.abs() <= 1e-9).double() / 2
    return right.T.unflatten(1, (n, m)).mean(2).float()


def answered(
    model: HookedModel, stream: Float[Tensor, "item sentence d_model"], words: Sequence[str], items: Items
) -> Float[Tensor, " item"]:
    """How often the model leans more than for the item's other sentences to the word that is right."""
    with torch.inference_mode():
        logits = model.unembed(model.final_norm(stream.to(model.device, model.dtype))).float().cpu()
    lean = logits[..., first_token(model, words[0])] - logits[..., first_token(model, words[1])]
    margin = (lean - lean.mean(1, keepdim=True)) * items.answers
    return ((margin > 0).float() + (margin == 0).float() / 2).mean(1)


def values(table: pd.DataFrame, model: str, kind: str, part: str, layer: int) -> list[float]:
    """By item."""
    own: Any = table[(table["model"] == model) & (table["kind"] == kind) & (table["part"] == part)]
    return own[own["layer"] == layer]["right"].tolist()


WHAT = {
    NEGATION: (
        "what was denied", "the thing is good or bad", "four sentences of the same words each",
        "which half of the sentence denies",
    ),
    IRONY: (
        "whether a remark was meant", "the remark was ironic or meant",
        "something good or bad that happens, and praise or complaint, each combination",
        "whether what happens is good or bad",
    ),
}  # fmt: skip


def tells(table: pd.DataFrame, kind: str) -> Verdict:
    what, asked, sentences, plain = WHAT[kind]
    effects, numbers, control = {}, {}, []
    for model in names(table):
        high = {part: values(table, model, kind, part, HIGH) for part in (QUERIES, STREAM, CONTROL, PLAIN, ANSWER)}
        effects[model] = effect(high[QUERIES])
        numbers[model] = f"queries {share(high[QUERIES])}, the input of these layers {share(high[STREAM])}; the "
        numbers[model] += f"model's own answer {share(high[ANSWER])}"
        control.append(f"{model} control task {share(high[CONTROL])}, {plain} {share(high[PLAIN])}")
    n = len(values(table, names(table)[0], kind, QUERIES, HIGH))
    return Verdict(
        claim=f"Deep blocks ask with the {kind} in view: from their queries it can be told {what}",
        source=ESSAY,
        measured=f"{n} items, {sentences}; at the end of the same words after them, a linear probe on all queries of "
        f"a layer, fitted on other items: how often it tells that {asked}; mean over the highest third of the layers. "
        "Queries are a linear map of the layer's input, so that what they tell stands there too: told beside it",
        criterion=f"of more than {OFTEN:.0%} of the sentences (chance, and any list of the words: 50 %)",
        numbers=numbers,
        control=f"the answers of half of the items turned round, {TASKS} times; and a plain feature: "
        + "; ".join(control),
        beforehand=True,
        **judge(effects, OFTEN, unit="of the sentences"),
    )


def deeper(table: pd.DataFrame, kind: str) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        low, high = (values(table, model, kind, QUERIES, layer) for layer in (LOW, HIGH))
        effects[model] = effect([a - b for a, b in zip(high, low, strict=True)])
        numbers[model] = f"highest third {share(high)}, lowest {share(low)}, between {told(effects[model])}"
        plain = [values(table, model, kind, PLAIN, layer) for layer in (LOW, HIGH)]
        control.append(f"{model} lowest {share(plain[0])}, highest {share(plain[1])}")
    return Verdict(
        claim=f"And it comes with depth: the queries of shallow blocks tell less of the {kind}",
        source=ESSAY,
        measured="the same probes in the highest third of the layers less those in the lowest",
        criterion=f"by {DEEPER:g} of the sentences",
        numbers=numbers,
        control=f"{WHAT[kind][3]}: " + "; ".join(control),
        beforehand=True,
        **judge(effects, DEEPER, unit="of the sentences"),
    )


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a row a kind and a column a model: how often each probe is right."""
    models = names(table)
    figure, axes = plt.subplots(2, len(models), figsize=(5 * len(models), 6.6), layout="constrained", squeeze=False)
    for row, kind in zip(axes, KINDS, strict=True):
        for ax, model in zip(row, models, strict=True):
            own: Any = table[(table["model"] == model) & (table["kind"] == kind)]
            for part, (colour, style) in LINES.items():
                rows = own[(own["part"] == part) & (own["layer"] >= 0)]
                low, high = (rows["right"] + sign * rows["error"] for sign in (-2, 2))
                ax.plot(rows["layer"], rows["right"], style, color=colour, label=part)
                ax.fill_between(rows["layer"], low, high, color=colour, alpha=0.15, lw=0)
            answer = effect(values(table, model, kind, ANSWER, HIGH)).value
            ax.axhline(answer, color="0.3", lw=0.8, ls="-.", label=ANSWER)
            deep = effect(values(table, model, kind, QUERIES, HIGH)).value
            ax.set(title=f"{kind}, {model}: highest third {deep:.2f}", ylim=(0.3, 1.03))
            ax.title.set_fontsize(11)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("sentences told right")
    for ax in axes[-1]:
        ax.set_xlabel("layer")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
