"""“Harry Potter … Harry”: is what comes next read from the context by induction heads, or remembered from training?

    python -m experiments harry_potter

Passages that name somebody in full and end on the first name: well-known names, made-up ones, and well-known first
names with another's second name (exchanged). Do induction heads, found on repeated random tokens, attend to the second
name; what is its probability without them, without random heads of the same layers, and without the earlier
occurrence; what do they add to its logit, and where does it rank among all tokens that their output promotes? And does
it work where the earlier occurrence is a synonym, another case or another language? Writes to figures/:
harry_potter.csv, harry_potter.json (verdicts), harry_potter.png, harry_potter_fuzzy.png.
3 minutes on 2 CPU cores.
"""

from __future__ import annotations

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
)
from experiments.essay.passages import arguments, group_size, read_data, reading_model, same_layers
from experiments.harness import begin, show_files
from experiments.verdicts import Verdict, outcome, save_verdicts
from induction_lab import Head, HookedModel, repeated_tokens, score_heads
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.interventions.edits import OtherOutputs
from induction_lab.interventions.outputs import sums_over
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar

HEADS, SETS, LOOKS = 8, 10, 0.2  # random heads score less than LOOKS in prefix matching
RANK = 10  # the second name's median rank among the tokens that the heads promote must not be worse
REFERENCE = 32
ESSAY = "essay §6"


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--names", type=int, help="of each group, for a quick look (at least 3); all by default")
    args = parser.parse_args(argv)
    if args.names is not None and args.names < 3:
        parser.error(f"--names must be at least 3, so that names differ and can be exchanged; got {args.names}.")
    model = reading_model(parser, args.model)
    data = read_data(NAMES)
    begin(args.out)
    period = 20 if (model.n_ctx or 101) < 101 else 50
    scores = score_heads(model, repeated_tokens(model, n_prompts=8, period=period), scores=["prefix_matching"])
    induction = [head for head, _ in scores.top("prefix_matching", group_size(model, HEADS))]
    spared = scores.above("prefix_matching", LOOKS)
    sets = {"induction": induction}
    others = same_layers(induction, model, SETS, seed=args.seed, spared=spared)
    sets |= {f"random {i}": heads for i, heads in enumerate(others)}
    rows = recalled(model, data, sets, args.names, args.seed) + likened(model, data, sets, args.names)
    table = pd.DataFrame(rows).assign(model=model.name)
    table["members"] = [" ".join(map(str, sets[name])) if name in sets else "" for name in table["heads"]]
    table.round(5).to_csv(args.out / "harry_potter.csv", index=False)
    verdicts = [looks_back(table), predicts(table), memory(table), unembeds(table), likens(table)]
    written = [args.out / "harry_potter.csv", save_verdicts(verdicts, args.out / "harry_potter.json")]
    for name, figure in {"": draw(table), "_fuzzy": draw_fuzzy(table)}.items():
        written.append(args.out / f"harry_potter{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


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
            added = named.by_name(logits_added(model, named))
            for name, heads in sets.items():
                rows.append(row(group, "attention", named.by_name(_mean_of(attention, heads)), name))
                rows.append(row(group, "logits added", added[:, *_indices(heads)].sum(1), name))
                rows.append(row(group, "rank", named.by_name(ranks(model, named, streams, heads)), name))
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
    return rows


def looks_back(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for group in GROUPS:
        own, others = _own_and_random(table, group, "attention")
        chance = _one(table, group, "uniform attention")["value"]
        numbers[group] = f"{_told(own, '')} (uniform {chance:.3f})"
        control.append(f"{group} {others.min():.3f} to {others.max():.3f}")
        passed[group] = bool(own["value"] - 2 * own["standard_error"] > chance and own["value"] > others.max())
    return Verdict(
        claim='When "Harry" comes again, induction heads look back to what followed it before: "Potter"',
        source=ESSAY,
        measured=f"attention from the first name, when it comes again, to the second name; mean of the {HEADS} "
        f"heads with the highest prefix matching on repeated random tokens ({table['members'].iloc[_first(table)]})",
        criterion="above uniform attention by 2 standard errors over names, and above every random set",
        numbers=numbers,
        control=f"{SETS} random sets of as many other heads in the same layers: " + "; ".join(control),
        **outcome(passed),
    )


def predicts(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for group in GROUPS:
        own, others = _own_and_random(table, group, "lost log-probability")
        before, left = _one(table, group, "probability"), _own_and_random(table, group, "probability left")[0]
        numbers[group] = f"probability {before['value']:.3f} → {left['value']:.3f}; {_told(own)} nats lost"
        control.append(f"{group} {others.min():+.3f} to {others.max():+.3f} nats")
        passed[group] = bool(own["value"] > max(2 * own["standard_error"], others.max()))
    return Verdict(
        claim="They directly help to predict the next word",
        source=ESSAY,
        measured="probability of the second name's first token with the heads as they are, and at their mean over "
        f"{REFERENCE} passages of the same kind without such a name before",
        criterion="log-probability lost above 0 by 2 standard errors over names and above what every random set loses",
        numbers=numbers,
        control=f"{SETS} random sets in the same layers: " + "; ".join(control),
        **outcome(passed),
    )


def memory(table: Any) -> Verdict:
    lost = {group: _own_and_random(table, group, "lost log-probability")[0] for group in GROUPS}
    numbers, passed = {}, {}
    for group in GROUPS[1:]:
        more = lost[group]["value"] - lost["known"]["value"]
        error = (lost[group]["standard_error"] ** 2 + lost["known"]["standard_error"] ** 2) ** 0.5
        numbers[f"{group} less known"] = f"{more:+.3f} ± {error:.3f} nats more are lost without the heads"
        passed[group] = bool(more > 2 * error)
    for group in GROUPS:
        alone, there = _one(table, group, "probability without occurrence"), _one(table, group, "probability")
        numbers[group] = f"probability with the earlier occurrence {_told(there, '')}, without it {_told(alone, '')}"
    others = {group: _own_and_random(table, group, "lost log-probability")[1].mean() for group in GROUPS}
    return Verdict(
        claim="Names that the model does not know from training are read from the context, through induction heads",
        source=ESSAY,
        measured="what ablating the heads costs each group, and the second name's probability after the same passage "
        'with "a stranger" in place of the full name',
        criterion="ablating costs made-up and exchanged names more than known ones, each by 2 standard errors",
        numbers=numbers,
        control="random sets cost, on average: " + "; ".join(f"{group} {cost:+.3f}" for group, cost in others.items()),
        **outcome(passed),
    )


def unembeds(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for group in GROUPS:
        own, others = _own_and_random(table, group, "logits added")
        rank, other_ranks = _own_and_random(table, group, "rank", "median")
        numbers[group] = f"{_told(own)} logits; median rank of the name among all tokens {rank['median']:.0f}"
        control.append(
            f"{group} {others.min():+.2f} to {others.max():+.2f} logits, median rank from {other_ranks.min():.0f}"
        )
        best = own["value"] > max(2 * own["standard_error"], others.max()) and rank["median"] <= RANK
        passed[group] = bool(best)
    return Verdict(
        claim="The unembedding turns the heads' vector into the word",
        source=ESSAY,
        measured=f"direct logit attribution of the {HEADS} heads to the second name's first token at the end; its rank "
        "(0: first) among all tokens by what the heads' summed output adds to their logits",
        criterion="logits above 0 by 2 standard errors over names and above every random set, and a median rank of at "
        f"most {RANK}",
        numbers=numbers,
        control=f"{SETS} random sets in the same layers: " + "; ".join(control),
        **outcome(passed),
    )


def likens(table: Any) -> Verdict:
    numbers, passed, control = {}, {}, []
    for kind in [group for group in table["group"].unique() if group not in GROUPS]:
        own, others = _own_and_random(table, kind, "attention gained, likened")
        gain, exact = (_one(table, kind, f"log-probability gained, {how}") for how in ("likened", "repeated"))
        numbers[kind] = f"attention {_told(own)}, log-probability {_told(gain)} nats"
        looked = _own_and_random(table, kind, "attention gained, repeated")[0]["value"]
        control.append(
            f"{kind}: the title itself {looked:+.3f} and {exact['value']:+.2f} nats, random sets to {others.max():+.3f}"
        )
        passed[kind] = all(found["value"] > 2 * found["standard_error"] for found in (own, gain))
    return Verdict(
        claim="They look for similar patterns, not for the same word only",
        source=ESSAY,
        measured='"The doctor Smith … the physician": attention of the induction heads to the name and its '
        "log-probability, less after an unrelated title of the same form",
        criterion="both above the unrelated title's by 2 standard errors over titles, for each kind",
        numbers=numbers,
        control="less the unrelated title: " + "; ".join(control),
        **outcome(passed),
    )


def _indices(heads: Sequence[Head]) -> tuple[list[int], list[int]]:
    return [head.layer for head in heads], [head.head for head in heads]


def _mean_of(values: Float[Tensor, "item layer head"], heads: Sequence[Head]) -> Float[Tensor, " item"]:
    return values[:, *_indices(heads)].mean(1)


def _one(table: Any, group: str, quantity: str) -> Any:
    return table[(table["group"] == group) & (table["quantity"] == quantity)].iloc[0]


def _own_and_random(table: Any, group: str, quantity: str, column: str = "value") -> tuple[Any, Any]:
    rows = table[(table["group"] == group) & (table["quantity"] == quantity)].set_index("heads")
    return rows.loc["induction"], rows[rows.index.str.startswith("random")][column]


def _first(table: Any) -> int:
    return int((table["heads"] == "induction").to_numpy().argmax())


def _told(found: Any, sign: str = "+") -> str:
    return f"{found['value']:{sign}.3f} ± {found['standard_error']:.3f}"


if __name__ == "__main__":
    main(sys.argv[1:])
