"""Does a pronoun find the noun that it means, and does its vector come to hold that noun?

    python -m experiments pronouns
    python -m experiments pronouns --encoder bert-base-uncased      # or a folder, or none

The essay's "it" takes "animal" in. In the sentence as it stands a model that reads left to right cannot know at "it",
so two kinds of sentences are read. Where he or she says who is meant, language models can: attention at the pronoun to
the noun that is meant over the other, the answer to a question when the pronoun cannot attend to the nouns, and by how
much the pronoun's vector varies with either noun (each of 8 nouns stands with each of 8 others, in both orders). Where
tired or wide says what "it" means, an encoder that reads in both directions can (all-MiniLM-L6-v2, brought once), and
language models at tired or wide itself. Writes to figures/: pronouns.csv, pronouns_layers.csv, pronouns.json
(verdicts), pronouns.png. About 15 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import pandas as pd
import torch

from experiments.essay.context_fusion.minimal_pairs import ask
from experiments.essay.passages import arguments_for_models, read_data, reading_model, same_layers
from experiments.essay.pronouns.conclusions import FLOOR, HEADS, SETS, attends, fuses, holds, holds_at_word
from experiments.essay.pronouns.encoder import MINILM, Encoder, load_encoder, read_encoder
from experiments.essay.pronouns.figures import draw
from experiments.essay.pronouns.reading import Read, components, cut, read_causal
from experiments.essay.pronouns.sentences import DATA, Sentences, pairs_to_ask, sentences
from experiments.harness import begin, show_files
from experiments.verdicts import save_verdicts
from induction_lab import Head, HookedModel
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.runtime.progress import progress_bar


def main(argv: list[str] | None = None) -> None:
    parser = arguments_for_models(__doc__)
    parser.add_argument("--encoder", default=MINILM, help="folder, Hugging Face id, or none")
    parser.add_argument("--nouns", type=int, help="of either list, for a quick look (at least 3); all by default")
    args = parser.parse_args(argv)
    if args.nouns is not None and args.nouns < 3:
        parser.error(f"--nouns must be at least 3, so that variances can be told apart; got {args.nouns}.")
    try:
        encoders = [] if args.encoder == "none" else [load_encoder(args.encoder)]
    except ValueError as error:
        parser.error(str(error))
    models = [reading_model(parser, name) for name in args.models]
    begin(args.out)
    rows, layers = [], []
    with progress_bar(len(models) + len(encoders), "reading", shown=sys.stderr.isatty()) as tick:
        for model in models:
            found = [
                told(model, "gender", "pronoun", read_causal, args),
                told(model, "thing", "word", read_causal, args),
            ]
            rows += [*found[0][0], *found[1][0], *answered(model, args.nouns)]
            layers += found[0][1] + found[1][1]
            tick(1)
        for encoder in encoders:
            for kind in ("gender", "thing"):
                found = told(encoder, kind, "pronoun", read_encoder, args)
                rows, layers = rows + found[0], layers + found[1]
            tick(1)
    table, by_layer = pd.DataFrame(rows), pd.DataFrame(layers)
    written = [args.out / "pronouns.csv", args.out / "pronouns_layers.csv", args.out / "pronouns.png"]
    table.round(6).to_csv(written[0], index=False)
    by_layer.round(8).to_csv(written[1], index=False)
    draw(table, by_layer).savefig(written[2], dpi=110)
    verdicts = [attends(table, "gender"), fuses(table), holds(table, "gender"), holds_at_word(table)]
    if encoders:
        verdicts += [attends(table, "thing"), holds(table, "thing")]
    show_files([*written, save_verdicts(verdicts, args.out / "pronouns.json")])


def told(
    model: Any, kind: str, place: str, read: Any, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What is read of a kind at a place, at the token before the pronoun, and where a person's name is in its place."""
    own, other = (sentences(model, kind, most=args.nouns, person=each) for each in (False, True))
    marks = {**own.passages.marks, "before": own.passages.marks["pronoun"] - 1}
    own = own._replace(passages=own.passages._replace(marks=marks))
    here, before = read(model, own, place, "before")
    (person,) = read(model, other, place)
    rows, layers = [], []
    for which, at, found in ((own, place, here), (own, "before", before), (other, "person", person)):
        of = shares(model, which, kind, at, found)
        rows, layers = rows + of[0] + looked(model, which, kind, found, args.seed, place=at), layers + of[1]
    return rows, layers


def shares(
    model: HookedModel | Encoder, own: Sentences, kind: str, place: str, read: Read
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """By template the share of the noun that is meant, in the layer where it is largest in the others; and all layers.

    Only layers count that hold a tenth of what the layer does that holds most of both: of next to nothing a share says
    nothing.
    """
    meant, other = components(read.vectors, own)
    both = (meant + other).mean(1)
    holding = both > FLOOR * both.max()
    of = torch.tensor([int(own.template[own.cell == cell][0]) for cell in own.cell.unique()])
    names = {"model": model.name, "kind": kind, "at": place}
    rows = []
    for template in of.unique():
        rest, here = of != template, of == template
        elsewhere = meant[:, rest].sum(1) / (meant + other)[:, rest].sum(1)
        layer = int(elsewhere.where(holding, -torch.inf).argmax())
        value = float(meant[layer, here].sum() / (meant + other)[layer, here].sum())
        rows.append(
            names
            | {"quantity": "share of the noun meant", "item": int(template), "heads": f"layer {layer}", "value": value}
        )
    layers = [
        names | {"layer": number, "meant": float(a), "other": float(b)}
        for number, (a, b) in enumerate(zip(meant.mean(1), other.mean(1), strict=True))
    ]
    return rows, layers


def looked(
    model: HookedModel | Encoder, own: Sentences, kind: str, read: Read, seed: int, *, place: str = "pronoun"
) -> list[dict[str, Any]]:
    """By template, attention to the noun that is meant less that to the other: the heads that prefer it in the rest.

    Every other template chooses the heads that the others are read with, and the other way round.
    """
    right, wrong = own.by_referent(*read.attention)
    by_template = torch.stack([(right - wrong)[own.template == t].mean(0) for t in own.template.unique()])
    n_layers, n_heads = by_template.shape[1:]
    rows, names = [], {"model": model.name, "kind": kind, "at": place}
    n = min(HEADS, n_layers * n_heads // 2)
    for half in (0, 1):
        order = by_template[half::2].mean(0).flatten().argsort(descending=True, stable=True)[:n].tolist()
        best = [Head(*divmod(index, n_heads)) for index in order]
        sets = {"best": best} | {
            f"random {i}": heads
            for i, heads in enumerate(same_layers(best, _Sizes(n_layers, n_heads), SETS, seed=seed))
        }
        for name, heads in sets.items():
            values = torch.stack([by_template[1 - half :: 2, head.layer, head.head] for head in heads]).mean(0)
            rows += [
                names | {"quantity": "attention", "item": 2 * i + 1 - half, "heads": name, "value": value}
                | {"members": " ".join(map(str, heads))}
                for i, value in enumerate(values.tolist())
            ]  # fmt: skip
    return rows


class _Sizes(NamedTuple):
    """What `same_layers` asks of a model."""

    n_layers: int
    n_heads: int


def answered(model: HookedModel, most: int | None) -> list[dict[str, Any]]:
    """By pair, the lead of the noun that is meant: as it is, and where a token cannot attend to some others."""
    pairs = pairs_to_ask()[: None if most is None else 8 * most]
    asked = ask(model, {"pronoun": read_data(DATA)["gender"]}, pairs)
    streams, marks, last = residual_streams(model, asked.passages.tokens), asked.passages.marks, asked.passages.last
    nouns = [marks["first"][:, 1], marks["second"][:, 1]]
    after, pronoun = [at + 1 for at in nouns], marks["word"][:, 1]
    runs = {
        "as it is": streams.normalised,
        "the pronoun cut from the nouns": cut(streams, pronoun, nouns),
        "the pronoun cut from the tokens after them": cut(streams, pronoun, after),
        "the end cut from the nouns": cut(streams, last, nouns),
        "the end cut from the pronoun": cut(streams, last, [pronoun]),
    }
    leads = {name: asked.lead(model, hidden).mean(1) for name, hidden in runs.items()}
    alone = ask(model, {"pronoun": read_data(DATA)["gender"]}, pairs, "lexical")
    leads["neither noun named"] = alone.lead(model, model.hidden(alone.passages.tokens)).mean(1)
    return [
        {"model": model.name, "kind": "gender", "at": "end", "quantity": "lead", "item": i, "heads": name,
         "value": value}
        for name, lead in leads.items()
        for i, value in enumerate(lead.tolist())
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
