"""In "The animal didn't cross the street because it was too tired", where does a causal model fuse the right noun?

    python -m experiments context_fusion

Pairs of sentences that differ in one word after "it" (tired, wide), so that "it" means one noun or the other. Can "it"
know? Which noun do heads attend to once the word is there, and which does the model name when asked, beyond what the
word does where neither noun stands before it? What is left of the word's effect when a few heads put out what they do
in the other sentence? Heads are chosen on every other pair and measured on the rest, against random heads of the same
layers. Writes to figures/: context_fusion.csv, context_fusion.json (verdicts), context_fusion.png,
context_fusion_example.png. About 5 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.essay.context_fusion.conclusions import at_it, few_heads, looks, named
from experiments.essay.context_fusion.figures import draw, draw_example
from experiments.essay.context_fusion.minimal_pairs import (
    PAIRS,
    WITHOUT,
    Asked,
    Exchange,
    Pair,
    ask,
    attention_to_word,
    differences,
    find_heads,
    preference,
    read_pairs,
)
from experiments.essay.passages import arguments_for_models, group_size, read_data, reading_model, same_layers
from experiments.harness import begin, show_files
from experiments.verdicts import save_verdicts
from induction_lab import Head, HookedModel
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar

HEADS, SETS = 8, 12


def main(argv: list[str] | None = None) -> None:
    parser = arguments_for_models(__doc__)
    parser.add_argument("--pairs", type=int, help="of each kind, for a quick look (at least 4); all by default")
    args = parser.parse_args(argv)
    data, models, pairs = read_data(PAIRS), [], []
    for name in args.models:
        models.append(reading_model(parser, name))
        pairs.append(_pairs(parser, models[-1], data, args.pairs))
    begin(args.out)
    tables = [measured(model, data, own, args.seed) for model, own in zip(models, pairs, strict=True)]
    table = pd.concat(tables, ignore_index=True)
    table.round(5).to_csv(args.out / "context_fusion.csv", index=False)
    verdicts = [at_it(table, HEADS), named(table, "it"), named(table, "adjective"), looks(table, HEADS)]
    written = [args.out / "context_fusion.csv"]
    written.append(save_verdicts([*verdicts, few_heads(table, HEADS)], args.out / "context_fusion.json"))
    example = ask(models[0], data, pairs[0][:1])
    pictures = {
        "": draw(table, HEADS),
        "_example": draw_example(models[0], example, residual_streams(models[0], example.passages.tokens)),
    }
    for name, figure in pictures.items():
        written.append(args.out / f"context_fusion{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def _pairs(parser: argparse.ArgumentParser, model: HookedModel, data: dict[str, Any], most: int | None) -> list[Pair]:
    pairs, _ = read_pairs(model, data, most)
    if sum(pair.kind == "it" for pair in pairs) < 4:
        parser.error(f"At least 4 pairs of the kind 'it' are needed; --pairs {most} leaves, of those that "
                     f"{model.name} reads in single tokens, fewer. Give more --pairs or other --models.")  # fmt: skip
    return pairs


def measured(model: HookedModel, data: dict[str, Any], pairs: list[Pair], seed: int) -> pd.DataFrame:
    """Everything of one model, a row a mean over pairs."""
    of_it = ask(model, data, [pair for pair in pairs if pair.kind == "it"])
    streams = residual_streams(model, of_it.passages.tokens)
    carriers = find_heads(
        model, ask(model, data, of_it.pairs[::2]), group_size(model, HEADS), progress=sys.stderr.isatty()
    )
    rows = answered(model, data, pairs) + seen(of_it, streams)
    rows += attended(model, preference(of_it, streams), carriers, seed)
    rows += without_it(model, data, of_it, streams)
    rows += to_the_word(model, attention_to_word(of_it, streams), carriers, seed)
    rows += carried(model, data, pairs, carriers, seed)
    return pd.DataFrame(rows).assign(model=model.name)


def row(kind: str, quantity: str, values: Tensor, *, form: str = "question", heads: str = "") -> dict[str, Any]:
    """One row of the table: a mean over pairs."""
    mean, error = number_and_error(values.float())
    names = {"kind": kind, "question": form, "quantity": quantity, "heads": heads}
    return {**names, "value": mean, "standard_error": error, "pairs": len(values)}


def answered(model: HookedModel, data: dict[str, Any], pairs: list[Pair]) -> list[dict[str, Any]]:
    """How often the right noun leads; by how far the word moves the log-odds; and that beyond what it does alone."""
    rows = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        own, moved = [pair for pair in pairs if pair.kind == kind], {}
        forms = [(form, alone) for form, alone in WITHOUT.items() if form in data[kind]]
        for form in (each for both in forms for each in both):
            asked = ask(model, data, own, form)
            lead = asked.lead(model, model.hidden(asked.passages.tokens))
            moved[form] = lead.sum(1)  # two leads: from the one word to the other
            rows.append(row(kind, "accuracy", (lead > 0).float().mean(1), form=form))
            rows.append(row(kind, "log-odds moved", moved[form], form=form))
        for form, alone in forms:
            rows.append(row(kind, "beyond the word alone", moved[form] - moved[alone], form=form))
    return rows


def seen(asked: Asked, streams: ResidualStreams) -> list[dict[str, Any]]:
    """The greatest of those differences over layers: at "it" and at the word."""
    pairs, apart = torch.arange(len(asked.pairs)), differences(asked, streams).amax(0)
    marks = asked.passages.marks
    return [row("it", f"difference at {at}", apart[pairs, marks[at][: len(pairs), 1]]) for at in ("it", "word")]


def attended(
    model: HookedModel, preferences: dict[str, Tensor], carriers: Sequence[Head], seed: int
) -> list[dict[str, Any]]:
    """On every other pair, the heads that prefer the right noun most on the rest; random ones; and the carriers."""
    rows = []
    for place, values in preferences.items():
        order = values[::2].mean(0).flatten().argsort(descending=True, stable=True)[: len(carriers)].tolist()
        best = [Head(*divmod(index, model.n_heads)) for index in order]
        sets = {"best": best, "carriers": carriers}
        sets |= {f"random {i}": heads for i, heads in enumerate(same_layers(best, model, SETS, seed=seed))}
        for name, heads in sets.items():
            of = _of(values[1::2], heads)
            rows.append(row("it", f"attention from {place}", of, heads=name) | {"members": " ".join(map(str, heads))})
    return rows


def without_it(
    model: HookedModel, data: dict[str, Any], of_it: Asked, streams: ResidualStreams
) -> list[dict[str, Any]]:
    """The same heads' attention from the word where "it" is a person's name: the word is then of neither noun."""
    other = ask(model, data, of_it.pairs, "person")
    with_it, person = (
        preference(asked, read)["word"]
        for asked, read in ((of_it, streams), (other, residual_streams(model, other.passages.tokens)))
    )
    order = with_it[::2].mean(0).flatten().argsort(descending=True, stable=True)
    best = [Head(*divmod(index, model.n_heads)) for index in order[: group_size(model, HEADS)].tolist()]
    own, kept = _of(with_it[1::2], best), _of(person[1::2], best)
    return [
        row("it", "attention from word, of a person", kept, heads="best"),
        row("it", "half of the attention less that of a person", own / 2 - kept, heads="best"),
    ]


def to_the_word(
    model: HookedModel, attention: Float[Tensor, "pair layer head"], carriers: Sequence[Head], seed: int
) -> list[dict[str, Any]]:
    """The same of the carriers' attention to the word itself, from the question's end."""
    sets = {"carriers": carriers}
    sets |= {f"random {i}": heads for i, heads in enumerate(same_layers(carriers, model, SETS, seed=seed))}
    return [row("it", "attention to the word", _of(attention[1::2], heads), heads=name) for name, heads in sets.items()]


def carried(
    model: HookedModel, data: dict[str, Any], pairs: list[Pair], carriers: list[Head], seed: int
) -> list[dict[str, Any]]:
    """Which share of the word's effect goes with the carriers, the first of them, and random sets: on other pairs."""
    it = [pair for pair in pairs if pair.kind == "it"]
    exchange = Exchange(model, ask(model, data, it[1::2] + [pair for pair in pairs if pair.kind != "it"]))
    sets = {f"top {n}": carriers[:n] for n in (1, 2, 4, len(carriers))}
    sets |= {f"random {i}": heads for i, heads in enumerate(same_layers(carriers, model, SETS, seed=seed))}
    clean, rows = exchange.lead.mean(1), []
    kinds = [pair.kind for pair in exchange.asked.pairs]
    with progress_bar(len(sets) + 1, "exchanging sets of heads", shown=sys.stderr.isatty()) as tick:
        for name, heads in sets.items():
            left = exchange.without(heads).mean(1)
            for kind in dict.fromkeys(kinds):
                own = torch.tensor([each == kind for each in kinds])
                rows.append(_share("share carried", kind, name, heads, clean[own], left[own], seed))
            tick(1)
        alone = Exchange(model, ask(model, data, it[1::2], "lexical"))
        left = alone.without(carriers).mean(1)
        rows.append(
            _share("share of the word alone", "it", f"top {len(carriers)}", carriers, alone.lead.mean(1), left, seed)
        )
        tick(1)
    return rows


def _share(
    quantity: str, kind: str, name: str, heads: Sequence[Head], clean: Tensor, left: Tensor, seed: int
) -> dict[str, Any]:
    value, error = share(clean, left, seed=seed)
    found = row(kind, quantity, left, heads=name) | {"value": value, "standard_error": error}
    return found | {"members": " ".join(map(str, heads))}


def share(clean: Float[Tensor, " pair"], left: Float[Tensor, " pair"], *, seed: int) -> tuple[float, float]:
    """Of what the word does to the lead, the part that goes with the heads; 1 if all; error by 1,000 bootstraps."""
    drawn = torch.randint(len(clean), (1000, len(clean)), generator=torch.Generator().manual_seed(seed))
    each = (clean - left)[drawn].mean(1) / (2 * clean[drawn].mean(1))
    return float((clean - left).mean() / (2 * clean.mean())), float(each.std())


def _of(values: Float[Tensor, "pair layer head"], heads: Sequence[Head]) -> Float[Tensor, " pair"]:
    return torch.stack([values[:, head.layer, head.head] for head in heads], 1).mean(1)


if __name__ == "__main__":
    main(sys.argv[1:])
