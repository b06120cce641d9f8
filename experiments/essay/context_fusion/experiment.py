"""In "The animal didn't cross the street because it was too tired", where does a causal model fuse the right noun?

    python -m experiments context_fusion

Pairs of sentences that differ in one word after "it" (tired, wide), so that "it" means one noun or the other. Can "it"
know? Which noun do heads attend to once the word is there, and which does the model name when asked? What is left of
the word's effect when a few heads put out what they do in the other sentence? Heads are chosen on every other pair and
measured on the rest, against random heads of the same layers. Writes to figures/: context_fusion.csv,
context_fusion.json (verdicts), context_fusion.png, context_fusion_example.png. About 3 minutes on 2 CPU cores.
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

from experiments.essay.context_fusion.figures import TOLD, draw, draw_example
from experiments.essay.context_fusion.minimal_pairs import (
    FORMS,
    PAIRS,
    PLACES,
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
from experiments.essay.passages import arguments, group_size, read_data, reading_model, same_layers
from experiments.harness import begin, show_files
from experiments.judging import by_construction
from experiments.verdicts import Verdict, outcome, save_verdicts
from induction_lab import Head, HookedModel
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar

HEADS, SETS = 8, 12
SEEN = 1e-4  # of the stream's size: a greater difference at "it" would not be rounding
SHARE = 0.25  # of the word's effect: less is not "a few heads carry it"
ESSAY = "essay §2.2"


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, help="of each kind, for a quick look (at least 4); all by default")
    args = parser.parse_args(argv)
    model = reading_model(parser, args.model)
    data = read_data(PAIRS)
    pairs, left_out = read_pairs(model, data, args.pairs)
    if sum(pair.kind == "it" for pair in pairs) < 4:
        parser.error(f"At least 4 pairs of the kind 'it' are needed; --pairs {args.pairs} leaves, of those that "
                     f"{model.name} reads in single tokens, fewer. Give more --pairs or another --model.")  # fmt: skip
    begin(args.out)
    of_it = ask(model, data, [pair for pair in pairs if pair.kind == "it"])
    streams = residual_streams(model, of_it.passages.tokens)
    carriers = find_heads(
        model, ask(model, data, of_it.pairs[::2]), group_size(model, HEADS), progress=sys.stderr.isatty()
    )
    rows = answered(model, data, pairs) + seen(of_it, streams)
    rows += attended(model, preference(of_it, streams), carriers, args.seed)
    rows += to_the_word(model, attention_to_word(of_it, streams), carriers, args.seed)
    rows += carried(model, data, pairs, carriers, args)
    table = pd.DataFrame(rows).assign(model=model.name)
    table.round(5).to_csv(args.out / "context_fusion.csv", index=False)
    verdicts = [at_it(table), named(table, left_out), looks(table), few_heads(table)]
    written = [args.out / "context_fusion.csv", save_verdicts(verdicts, args.out / "context_fusion.json")]
    for name, figure in {"": draw(table, HEADS), "_example": draw_example(model, of_it, streams)}.items():
        written.append(args.out / f"context_fusion{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def row(kind: str, quantity: str, values: Tensor, *, form: str = "question", heads: str = "") -> dict[str, Any]:
    """One row of the table: a mean over pairs."""
    mean, error = number_and_error(values.float())
    names = {"kind": kind, "question": form, "quantity": quantity, "heads": heads}
    return {**names, "value": mean, "standard_error": error, "pairs": len(values)}


def answered(model: HookedModel, data: dict[str, Any], pairs: list[Pair]) -> list[dict[str, Any]]:
    """How often the right noun leads, and by how much on the mean of the two words: half of the word's whole effect."""
    rows = []
    for kind in dict.fromkeys(pair.kind for pair in pairs):
        for form in FORMS if "named" in data[kind] else FORMS[:1]:
            asked = ask(model, data, [pair for pair in pairs if pair.kind == kind], form)
            lead = asked.lead(model, model.hidden(asked.passages.tokens))
            rows.append(row(kind, "accuracy", (lead > 0).float().mean(1), form=form))
            rows.append(row(kind, "lead", lead.mean(1), form=form))
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


def to_the_word(
    model: HookedModel, attention: Float[Tensor, "pair layer head"], carriers: Sequence[Head], seed: int
) -> list[dict[str, Any]]:
    """The same of the carriers' attention to the word itself, from the question's end."""
    sets = {"carriers": carriers}
    sets |= {f"random {i}": heads for i, heads in enumerate(same_layers(carriers, model, SETS, seed=seed))}
    return [row("it", "attention to the word", _of(attention[1::2], heads), heads=name) for name, heads in sets.items()]


def carried(
    model: HookedModel, data: dict[str, Any], pairs: list[Pair], carriers: list[Head], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Which share of the word's effect goes with the carriers, the first of them, and random sets: on other pairs."""
    it = [pair for pair in pairs if pair.kind == "it"]
    exchange = Exchange(model, ask(model, data, it[1::2] + [pair for pair in pairs if pair.kind != "it"]))
    sets = {f"top {n}": carriers[:n] for n in (1, 2, 4, len(carriers))}
    sets |= {f"random {i}": heads for i, heads in enumerate(same_layers(carriers, model, SETS, seed=args.seed))}
    clean, rows = exchange.lead.mean(1), []
    kinds = [pair.kind for pair in exchange.asked.pairs]
    with progress_bar(len(sets), "exchanging sets of heads", shown=sys.stderr.isatty()) as tick:
        for name, heads in sets.items():
            left = exchange.without(heads).mean(1)
            for kind in dict.fromkeys(kinds):
                own = torch.tensor([each == kind for each in kinds])
                value, error = share(clean[own], left[own], seed=args.seed)
                found = row(kind, "share carried", left[own], heads=name) | {"value": value, "standard_error": error}
                rows.append(found | {"members": " ".join(map(str, heads))})
            tick(1)
    return rows


def share(clean: Float[Tensor, " pair"], left: Float[Tensor, " pair"], *, seed: int) -> tuple[float, float]:
    """Of what the word does to the lead, the part that goes with the heads; 1 if all; error by 1,000 bootstraps."""
    drawn = torch.randint(len(clean), (1000, len(clean)), generator=torch.Generator().manual_seed(seed))
    each = (clean - left)[drawn].mean(1) / (2 * clean[drawn].mean(1))
    return float((clean - left).mean() / (2 * clean.mean())), float(each.std())


def at_it(table: Any) -> Verdict:
    rows = table[table["kind"] == "it"].set_index("quantity")
    apart, word = rows.loc["difference at it"], rows.loc["difference at word"]
    looking = _by_heads(table, "attention from it").loc["best"]
    same = apart["value"] <= SEEN and looking["value"] <= SEEN
    return Verdict(
        claim='A model that reads left to right cannot fuse into "it" the noun that "tired" goes with: it has not read '
        '"tired" yet',
        source=ESSAY,
        measured='the residual stream and the attention at "it" in two sentences that differ only in a later word',
        criterion=f'the streams at "it" of the two sentences differ by at most {SEEN:g} of their size, attention from '
        f"there prefers the right noun by no more, and at the word itself the streams differ by more than {SEEN:g}",
        numbers={
            'difference of the streams at "it"': f"{apart['value']:.2g} of their size, mean of {apart['pairs']} pairs",
            'attention from "it", right less wrong noun': f"{_told(looking)} (the {HEADS} best heads)",
        },
        control=f"at the word itself the streams differ by {word['value']:.2f} ± {word['standard_error']:.2f}",
        **by_construction({table["model"][0]: bool(same and word["value"] > SEEN)}),
    )


def named(table: Any, left_out: int) -> Verdict:
    numbers, passed, control, moved = {}, {}, [], 0
    leads = table[table["quantity"] == "lead"].set_index(["kind", "question"])
    for at, found in table[table["quantity"] == "accuracy"].set_index(["kind", "question"]).iterrows():
        what, text = f"{at[0]}, {TOLD[at[1]]}", f"{found['value']:.1%} ± {found['standard_error']:.1%} right"
        text += f" of {found['pairs']} pairs, lead {_told(leads.loc[at])} logits"
        if at[1] == "alone":
            control.append(f"{at[0]} {text}")
            continue
        numbers[what] = text
        moved += bool(leads.loc[at, "value"] > 2 * leads.loc[at, "standard_error"])
        passed[what] = bool(found["value"] - 2 * found["standard_error"] > 0.5)
    verdict = outcome(passed)
    verdict["caveat"] += f" The word moves the lead the right way, by 2 standard errors, in {moved} of {len(passed)}."
    left = f"; {left_out} pairs left out, which this model does not read in single tokens" if left_out else ""
    return Verdict(
        claim='Once "tired" or "wide" is there, the model knows which noun "it" means',
        source=ESSAY,
        measured="the two nouns' logits after a question, with either word; a model deaf to the word is right in "
        f"exactly half{left}",
        criterion="right in more than 50 % by 2 standard errors over pairs, for each kind and question",
        numbers=numbers,
        control="the question that names the word, without the sentence: " + "; ".join(control),
        **verdict,
    )


def looks(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for place in PLACES[1:]:
        rows = _by_heads(table, f"attention from {place}")
        best, others = rows.loc["best"], rows[rows.index.str.startswith("random")]["value"]
        numbers[f"from the {place}"] = f"{_told(best)} ({best['members']}); carriers {_told(rows.loc['carriers'])}"
        control.append(f"from the {place} {others.min():+.3f} to {others.max():+.3f}")
        passed[f"from the {place}"] = bool(best["value"] > max(2 * best["standard_error"], others.max()))
    return Verdict(
        claim="Attention finds the right noun: from the deciding word on, it goes to the noun that fits",
        source=ESSAY,
        measured=f"attention to the right noun less that to the wrong one, mean of the {HEADS} heads that prefer it "
        "most on half of the pairs, read on the other half; from the word, and from the end of the question",
        criterion="above 0 by 2 standard errors over pairs, and above every random set of heads in the same layers",
        numbers=numbers,
        control=f"{SETS} random sets: " + "; ".join(control),
        **outcome(passed),
    )


def few_heads(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    leads = table[(table["quantity"] == "lead") & (table["question"] == "question")].set_index("kind")
    for kind in table[table["quantity"] == "share carried"]["kind"].unique():
        rows = _by_heads(table[table["kind"] == kind], "share carried")
        top, others = (
            rows[rows.index.str.startswith("top")].iloc[-1],
            rows[rows.index.str.startswith("random")]["value"],
        )
        there = leads.loc[kind, "value"] > 2 * leads.loc[kind, "standard_error"]
        numbers[kind] = f"{top['value']:.0%} ± {top['standard_error']:.0%} of the word's effect on {top['pairs']} pairs"
        numbers[kind] += "" if there else "; the effect is within 2 standard errors of 0: not judged"
        control.append(f"{kind} {others.min():.0%} to {others.max():.0%}")
        if kind == "it":
            numbers[kind] += f" ({top['members']})"
            passed |= {table["model"][0]: bool(top["value"] > max(SHARE, others.max()))} if there else {}
    verdict, word = outcome(passed), _by_heads(table, "attention to the word")["value"]
    noun = _by_heads(table, "attention from end").loc["carriers"]
    verdict["caveat"] += (
        f" From the end these heads attend to the word with {word['carriers']:.3f} (random sets at most "
        f"{word.drop('carriers').max():.3f}), to the right noun less the wrong one with {_told(noun)}."
    )
    verdict["caveat"] = verdict["caveat"].strip()
    return Verdict(
        claim="A few heads bring what the word decides to where the noun is named",
        source=ESSAY,
        measured=f'{HEADS} heads, chosen on half of the pairs of kind "it", put out what they do in the pair\'s other '
        "sentence; of the word's effect on the right noun's lead, what goes with them on other pairs and kinds (100 %: "
        "the lead turns into its negative, as with all heads exchanged)",
        criterion=f'on the held-out pairs of kind "it" at least {SHARE:.0%} and more than with every random set',
        numbers=numbers,
        control=f"{SETS} random sets of {HEADS} heads in the same layers: " + "; ".join(control),
        **verdict,
    )


def _of(values: Float[Tensor, "pair layer head"], heads: Sequence[Head]) -> Float[Tensor, " pair"]:
    return torch.stack([values[:, head.layer, head.head] for head in heads], 1).mean(1)


def _by_heads(table: Any, quantity: str) -> Any:
    return table[table["quantity"] == quantity].set_index("heads")


def _told(found: Any) -> str:
    return f"{found['value']:+.3f} ± {found['standard_error']:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
