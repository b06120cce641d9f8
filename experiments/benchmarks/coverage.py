"""Which decoders of transformers can be measured, how exactly, and with which analyses?

    python -m experiments coverage [--only Llama Gemma3 …]

Every causal language model that transformers lists is built small with random weights. Its attention patterns are
compared with those that it gives itself (`attn_implementation="eager"`), rows made to sum to 1 where an attention sink
takes a part; then the likely circuit, an ablation, the capture of activations and TransformerLens' hooks are tried.
Writes coverage.csv beside this file and the table of docs/architectures.md; with `--only`, the rows of these families
anew. About 3 minutes.
"""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.benchmarks.results import as_markdown
from experiments.benchmarks.small_decoders import D_VOCAB, decoders, small_network
from experiments.harness import ROOT, show_files, show_line
from induction_lab import HookedModel, ablate, capture, find_circuit, score_heads
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import attention_layers, read_attention

TABLE = Path(__file__).parent / "coverage.csv"
PAGE = ROOT / "docs" / "architectures.md"
EXACT = 1e-5
PERIOD = 9
SECONDS = 120  # for one family
ANALYSES = ("scores", "circuit", "ablation", "capture", "hooks")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for name, config, network in decoders():
        if not args.only or name in args.only:
            rows.append(guarded(name, config, network))
            show_line(" ".join(str(part) for part in list(rows[-1].values())[:-1]))
    table = pd.DataFrame(rows)
    if args.only:
        known = pd.read_csv(TABLE, keep_default_na=False)
        every: Any = pd.concat([known[~known["family"].isin(args.only)], table])
        order = [name for name, *_ in decoders()]
        table = every.iloc[sorted(range(len(every)), key=lambda row: order.index(every["family"].iloc[row]))]
    show_line(said(table))
    table.to_csv(TABLE, index=False)
    PAGE.write_text(page(table))
    show_files([TABLE, PAGE])


def guarded(name: str, config: type, network: type) -> dict[str, Any]:
    """A row of the table, within bounded time, whatever happens."""

    def too_long(*_: Any) -> None:
        raise TimeoutError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        return measured(name, config, network)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def measured(name: str, config: type, network: type) -> dict[str, Any]:
    """What works for one family: `yes`, `exact`, `refused`, `wrong` or `crash`, and what was said."""
    row: dict[str, Any] = {"family": name, **dict.fromkeys(ANALYSES, ""), "layers": "", "said": ""}
    try:
        made = small_network(config, network)
    except Exception as error:
        return row | {"scores": "not built", "said": said_by(error)}
    try:
        model = HookedModel(made)
        row["layers"] = f"{len(attention_layers(model))} of {model.n_layers}"
        difference = against_eager(model, made)
    except Exception as error:
        return row | {"scores": kind_of(error), "said": said_by(error)}
    row["scores"] = "exact" if difference <= EXACT else f"wrong by {difference:.1e}"
    tries: dict[str, Callable[[HookedModel], Any]] = {
        "circuit": circuit, "ablation": ablation, "capture": captured, "hooks": lambda model: model.hooked
    }  # fmt: skip
    for analysis, attempt in tries.items():
        try:
            attempt(model)
            row[analysis] = "yes"
        except Exception as error:
            row[analysis] = kind_of(error)
            row["said"] += f"{'; ' * bool(row['said'])}{analysis}: {said_by(error)}"
    return row


def prompts(model: HookedModel) -> Prompts:
    """Two prompts of a block that repeats."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randint(5, min(D_VOCAB, model.d_vocab), (2, PERIOD), generator=generator)
    tokens = torch.cat([torch.ones(2, 1, dtype=torch.long), block, block], 1)
    return Prompts(tokens, period=PERIOD, n_repeats=2)


def against_eager(model: HookedModel, network: Any) -> float:
    """The largest difference between our patterns and the network's own, after a score of each head was had."""
    score_heads(model, prompts(model), scores=["prefix_matching", "previous_token"])
    difference = between_patterns(model, network)
    if difference <= EXACT or network.dtype == torch.float64:
        return difference
    double = network.double()  # scores so large that float32 rounds them by more
    return between_patterns(HookedModel(double), double)


def between_patterns(model: HookedModel, network: Any) -> float:
    """The largest difference between the patterns that the engine sees and those that the network gives itself."""
    seen: dict[int, Tensor] = {}
    given = prompts(model)
    read_attention(model, given.tokens, lambda attention: seen.__setitem__(attention.layer, attention.pattern()))
    with torch.no_grad():
        output = network(input_ids=given.tokens, output_attentions=True, use_cache=False)
    own = [each for each in output.attentions if each is not None]
    if len(own) == len(seen):
        pairs = list(zip(own, (seen[layer] for layer in sorted(seen)), strict=True))
    else:  # layers without a softmax give matrices as well
        pairs = [(min(own, key=lambda matrix: distance(matrix, pattern)), pattern) for pattern in seen.values()]
    return max(distance(*pair) for pair in pairs)


def distance(own: Tensor, ours: Tensor) -> float:
    """Between two patterns, as they are or, where a sink takes a part of one, with rows that sum to 1."""
    own = own[..., : ours.shape[-1]]
    if own.shape != ours.shape:
        return float("inf")
    rows = [x / x.sum(-1, keepdim=True).clamp(min=1e-30) for x in (own, ours)]
    return min(float((own - ours).abs().max()), float((rows[0] - rows[1]).abs().max()))


def circuit(model: HookedModel) -> None:
    """The likely circuit has numbers, but for what it says is left out."""
    if len(attention_layers(model)) < 2:
        raise ValueError("one layer attends, and no head can feed another")
    found = find_circuit(model, prompts(model))
    edges = found.edges.drop(columns=list(found.provenance.get("left_out") or ()))
    if not edges.select_dtypes("number").notna().all(axis=None):
        raise RuntimeError("the circuit has columns that are not numbers")


def ablation(model: HookedModel) -> None:
    """Without a head of the last layer that attends the end of the stream is another, and afterwards as before."""
    tokens, last = prompts(model).tokens, attention_layers(model)[-1]
    before = model.hidden(tokens)
    with ablate(model, [(last, 0)], method="zero"):
        without = model.hidden(tokens)
    if torch.equal(before, without) or not torch.equal(before, model.hidden(tokens)):
        raise RuntimeError("the ablation changed nothing, or did not end")


def captured(model: HookedModel) -> None:
    """Queries, keys, values, patterns and the stream are had together, and the patterns are those read alone."""
    tokens, last = prompts(model).tokens, attention_layers(model)[-1]
    found = capture(model, tokens, ["q", "k", "v", "z", "pattern", "resid_pre"], layers=last)
    alone = capture(model, tokens, "pattern", layers=last)
    if distance(found["pattern", last], alone["pattern", last]) > EXACT:
        raise RuntimeError("patterns differ with what is captured beside them")


def kind_of(error: Exception) -> str:
    return "refused" if isinstance(error, ValueError | TimeoutError) else "crash"


def said_by(error: Exception) -> str:
    text = " ".join(str(error).split())
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return kind + (text if len(text) < 160 else text[:157] + "…")


def said(table: Any) -> str:
    """How many families have what."""
    built = table[table["scores"] != "not built"]
    parts = [f"{(built['scores'] == 'exact').sum()} exact", f"{(built['scores'] == 'refused').sum()} refused"]
    faults = sum(any(word in str(row) for word in ("crash", "wrong")) for row in built[[*ANALYSES]].to_numpy().tolist())
    had = [f"{name} {(built[name] == 'yes').sum()}" for name in ANALYSES[1:]]
    return (
        f"Of {len(table)} families {len(built)} can be built small: {', '.join(parts)}, {faults} with a fault. "
        f"Analyses: {', '.join(had)}."
    )


def page(table: Any) -> str:
    """The page of the docs."""
    shown = table[table["scores"] != "not built"].fillna("").sort_values("family", key=lambda name: name.str.lower())
    missing = table.loc[table["scores"] == "not built", "family"].str.lower().sort_values()
    return (
        "# Which decoders can be measured\n\n"
        "`make coverage` builds every causal language model that transformers lists, small and with random weights, "
        'and compares attention patterns with the network\'s own (`attn_implementation="eager"`): *exact* is within '
        f"{EXACT:g}. Probabilities have an attention sink in their denominator, where there is one: rows sum to less "
        "than 1, also where transformers' own output leaves the sink out (Granite SWA). *layers* says how many layers "
        "attend by a softmax: those of hybrids are scored under their own numbers.\n\n"
        f"{said(table)}\n\n{as_markdown(shown)}\n\n"
        f"Not built: {', '.join(missing)} (they need another package or more than a few sizes).\n"
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="measure these families alone")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
