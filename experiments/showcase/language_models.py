"""Which heads of two real language models copy in context, and what is lost without each?

    python -m experiments language_models [--models smollm2-135m gemma3-270m]

The best heads by what they look at (prefix matching, previous token) and by what they write (logit attribution), each
mean-ablated alone; the change of loss on the second copy, with its standard error over prompts. Writes
language_models.csv to figures/ and the page docs/language_models.md. About 5 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from typing import Any

import pandas as pd

from experiments.benchmarks.results import as_markdown
from experiments.harness import FIGURES, ROOT, begin, common_arguments, show_files
from induction_lab import HookedModel, ablation_sweep, load_model, repeated_tokens, score_heads
from induction_lab.scores.registry import words

SHOWN = ("prefix_matching", "previous_token", "logit_attribution")
PAGE = ROOT / "docs" / "language_models.md"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    table = pd.concat([best_heads(load_model(name), args) for name in args.models], ignore_index=True)
    place = args.out / "language_models.csv"
    table.to_csv(place, index=False)
    written = [place]
    if args.out == FIGURES:
        PAGE.write_text(page(table))
        written.append(PAGE)
    show_files(written)


def best_heads(model: HookedModel, args: argparse.Namespace) -> pd.DataFrame:
    """A row for each of the best heads by each score, and what its ablation does."""
    prompts = repeated_tokens(model, n_prompts=args.prompts, period=args.period, seed=args.seed)
    scores = score_heads(model, prompts, scores=SHOWN)
    best = {name: [head for head, _ in scores.top(name, args.heads)] for name in SHOWN}
    heads = sorted({head for found in best.values() for head in found})
    effects: Any = ablation_sweep(model, prompts, heads=heads).to_dataframe().set_index("label")
    rows = []
    for name, found in best.items():
        for head in found:
            effect = effects.loc[str(head)]
            rows.append(
                {"model": model.name, "loss_first": scores.loss_by_copy[0], "loss_second": scores.loss_by_copy[1]}
                | {"score": name, "head": str(head), "value": float(scores[name][head])}
                | {"standard_error": float(scores.standard_errors[name][head])}
                | {"effect": effect["effect"], "effect_error": effect["standard_error"]}
            )
    return pd.DataFrame(rows)


def page(table: pd.DataFrame) -> str:
    """The page of the docs, a table a score with the models side by side."""
    models = list(table["model"].unique())
    facts = table.drop_duplicates("model").set_index("model")
    parts = [
        "# Heads of real language models\n",
        "`python -m experiments language_models` scores the heads of two language models on repeated random tokens "
        "and ablates the best of each kind alone (mean ablation; change of the loss on the second copy in nats, "
        "standard errors over prompts). Both copy:\n",
        *(
            f"- **{name}**: loss {facts.loc[name, 'loss_first']:.2f} nats on the first copy, "
            f"{facts.loc[name, 'loss_second']:.2f} on the second"
            for name in models
        ),
    ]
    for score, rows in table.groupby("score", sort=False):
        said = words(str(score))
        columns = {}
        for name in models:
            own: Any = rows[rows["model"] == name]
            columns[name] = [f"{row.head} {row.value:.2f} ± {row.standard_error:.2f}" for row in own.itertuples()]
            columns[f"{name}: without it"] = [f"{row.effect:+.2f} ± {row.effect_error:.2f}" for row in own.itertuples()]
        parts += [f"\n## {said.title}\n", f"{said.definition}\n", as_markdown(pd.DataFrame(columns))]
    return "\n".join(parts) + "\n"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"], help="names, ids or folders")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--period", type=int, default=50, help="tokens in the block that repeats")
    parser.add_argument("--heads", type=int, default=6, help="how many of each kind")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
