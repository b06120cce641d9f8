"""Are the same heads induction heads at every length of context?

    python -m experiments context_lengths [--model smollm2-135m] [--lengths 256 512 1024 2048 4096 8192]

A block of random tokens written twice, so long that both fill the context. Of each score: how far the order of all
heads is that at the shortest length (Spearman), which heads exceed 0.4 there and still do, and the same of key-value
heads, by the highest of the heads that read each.

Writes context_lengths.csv, a row a length, score and head, to figures/, and its part of docs/kinds.md. About 4 minutes
on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from typing import Any, cast

import pandas as pd

from experiments.benchmarks.results import as_markdown
from experiments.harness import FIGURES, begin, common_arguments, show_files
from experiments.showcase.kinds_page import write_page
from induction_lab import HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.results.heads import LOOKS

SCORES = ("prefix_matching", "induction_stripe", "previous_token", "duplicate_token", "resting", "current_token")
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
NAMED = 8  # heads in a sentence
PROMPTS = 2  # of each length: every score is a mean over hundreds of queries of each


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    model = load_model(args.model)
    path, parts = args.out / "context_lengths.csv", []
    for length in sorted(args.lengths):
        parts.append(measured(model, length))
        rows = pd.concat(parts, ignore_index=True)
        rows.to_csv(path, index=False, float_format="%.6g")  # what is done is kept if the rest is cut off
    show_files([path, *([write_page(args.out)] if args.out == FIGURES else [])])


def measured(model: HookedModel, length: int) -> pd.DataFrame:
    """All scores of all heads, and of all key-value heads, on prompts of at most this many tokens."""
    prompts = repeated_tokens(model, n_prompts=PROMPTS, period=(length - 1) // 2)
    scores = score_heads(model, prompts, scores=SCORES, loss=False, progress=True)
    heads = scores.to_dataframe()[["model", "label", "score", "value", "standard_error", "uniform"]].assign(of="heads")
    parts = [heads]
    for name in SCORES:
        values = scores.by_kv_head(name).numpy()
        labels = [f"L{layer}KV{head}" for layer in range(values.shape[0]) for head in range(values.shape[1])]
        part = pd.DataFrame({"model": model.name, "label": labels, "score": name, "value": values.ravel()})
        parts.append(part.dropna(subset=["value"]).assign(of="key-value heads"))
    facts = {"length": prompts.tokens.shape[1], "n_prompts": len(prompts)}
    return pd.concat(parts, ignore_index=True).assign(**facts)


def stability(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a score, length and sort of head: rank correlation with the shortest length, and what exceeds `LOOKS`."""
    found = []
    for (of, score), some in cast(Any, rows).groupby(["of", "score"], sort=False):
        wide: Any = some.pivot(index="label", columns="length", values="value")
        first = wide[wide.columns[0]]
        listed = set(first.index[first > LOOKS])
        for length in wide.columns:
            now = set(wide.index[wide[length] > LOOKS])
            rank = float(first.rank().corr(wide[length].rank()))
            found.append(
                {"of": of, "score": score, "length": int(length), "rank_correlation": rank, "n_listed": len(now)}
                | {"kept": len(now & listed), "n_first": len(listed), "best": float(wide[length].max())}
                | {"lost": " ".join(sorted(listed - now)), "gained": " ".join(sorted(now - listed))}
            )
    return pd.DataFrame(found)


def section(rows: pd.DataFrame) -> str:
    """The part of the page."""
    found: Any = stability(rows)
    parts = [
        f"## Which heads stay with longer contexts: {rows['model'].iloc[0]}\n",
        f"Written by `python -m experiments context_lengths`. {int(rows['n_prompts'].iloc[0])} prompts of each "
        "length, a block of random tokens twice. Each cell: rank correlation of all heads with the shortest length "
        f"(Spearman) · how many of the heads above {LOOKS} there still are / how many are now. Key-value heads by the "
        "highest of the heads that read each (`by_kv_head`).\n",
    ]
    lengths = sorted(found["length"].unique())
    for of, some in found.groupby("of", sort=False):
        table = []
        for score, each in some.groupby("score", sort=False):
            cells = [
                f"{row.rank_correlation:.3f} · {row.kept} / {row.n_listed}" if i else f"{row.n_listed} above {LOOKS}"
                for i, row in enumerate(each.sort_values("length").itertuples())
            ]
            table.append((f"`{score}`", *cells))
        parts += [as_markdown(pd.DataFrame(table, columns=[str(of), *(f"{n:,} tokens" for n in lengths)])), ""]
    last: Any = found[(found["of"] == "heads") & (found["length"] == lengths[-1])]
    changed = [
        f"`{row.score}`" + _named(" loses", row.lost) + _named(" gains", row.gained)
        for row in last.itertuples()
        if row.lost or row.gained
    ]
    said = f"From {lengths[0]:,} to {lengths[-1]:,} tokens: " + ("; ".join(changed) or "no head comes or goes")
    return "\n".join([*parts, said + ".\n"])


def _named(what: str, labels: str) -> str:
    """Heads by name, or how many where they are many."""
    n = len(labels.split())
    return f"{what} {labels if n <= NAMED else f'{n} heads'}" if n else ""


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="name, id or folder")
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS), help="in tokens, BOS included")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
