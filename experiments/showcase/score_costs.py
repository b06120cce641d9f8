"""What does each score cost, in tokens that go through the model?

    python -m experiments score_costs [--model smollm2-135m]

Hooks on the modules that attend count what passes them while one score alone is measured, with its default prompts.
Counts depend on a model's layers, heads and tokenizer and on no width, so a transformers model is rebuilt with the same
layers and heads and narrow, random weights.

Writes score_costs.csv to figures/, and its part of docs/kinds.md. About 5 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any, NamedTuple

import pandas as pd
import torch

from experiments.benchmarks.results import as_markdown
from experiments.harness import FIGURES, begin, common_arguments, show_files
from experiments.showcase.kinds_page import write_page
from induction_lab import HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.scores.registry import EVERY
from induction_lab.scores.score import WeightScore

ALONE = 8  # runs of fewer positions are of the ends of prompts, with the keys and values of what stands before


class Seen(NamedTuple):
    """What one module that attends was called with."""

    layer: int
    rows: int
    positions: int


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    given = load_model(args.model)
    model = narrow(given)
    names = [name for name in (args.scores or EVERY) if EVERY[name].missing(model, repeated_tokens(model)) is None]
    rows = [{"model": given.name} | cost(model, name) for name in names]
    path = args.out / "score_costs.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    show_files([path, *([write_page(args.out)] if args.out == FIGURES else [])])


def narrow(model: HookedModel) -> HookedModel:
    """A model of the same layers, heads and tokens with narrow random weights; itself where it is none of Llama's."""
    config: Any = copy.deepcopy(getattr(model.network, "config", None))
    if not hasattr(config, "num_key_value_heads"):
        return model
    import transformers

    config.head_dim, config.intermediate_size = 4, 8
    config.hidden_size = 4 * config.num_attention_heads
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return HookedModel(network, model.tokenizer, name=model.name)


def seen_by(model: HookedModel, score: str) -> list[Seen]:
    """All calls of modules that attend while one score is measured."""
    found: list[Seen] = []

    def count(layer: int) -> Any:
        def look(module: Any, args: Any, kwargs: Any) -> None:
            stream = next(x for x in (*args, *kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim == 3)
            found.append(Seen(layer, *stream.shape[:2]))

        return look

    _ = model.unembeds_by_parts, model.is_finite  # found out once and kept
    modules = model.anatomy.attention_modules
    hooks = [module.register_forward_pre_hook(count(i), with_kwargs=True) for i, module in enumerate(modules)]
    try:
        score_heads(model, scores=score, loss=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def cost(model: HookedModel, score: str) -> dict[str, Any]:
    """One row: prompts that are run whole and their tokens, positions that are run alone, and both in all."""
    seen, n_layers = seen_by(model, score), len(model.anatomy.attention_modules)
    whole = [each for each in seen if each.positions >= ALONE]
    first = [each for each in whole if each.layer == 0]
    lengths = [each.positions for each in first] or [0]
    usual = len(repeated_tokens(model)) * repeated_tokens(model).tokens.shape[1]
    tokens = sum(each.rows * each.positions for each in seen) / n_layers
    kind = "weights" if isinstance(EVERY[score], WeightScore) else "runs"
    return {
        "score": score, "of": kind, "prompts": sum(each.rows for each in first), "shortest": min(lengths),
        "longest": max(lengths), "whole": sum(each.rows * each.positions for each in whole) / n_layers,
        "tokens": tokens, "passes": tokens / usual,
    }  # fmt: skip


def section(costs: Any) -> str:
    """The part of the page."""
    rows = []
    for row in costs.itertuples():
        length = f"{row.shortest}" if row.shortest == row.longest else f"{row.shortest} – {row.longest}"
        prompts = f"{row.prompts:,} of {length}" if row.prompts else "none"
        alone = f"{row.tokens - row.whole:,.0f}" if row.tokens > row.whole else ""
        rows.append((f"`{row.score}`", prompts, f"{row.whole:,.0f}", alone, f"{row.passes:.1f}"))
    names = ["score", "prompts run whole", "their tokens", "tokens in short runs", "passes of 16 x 101 tokens"]
    return (
        f"## What the scores cost: {costs['model'].iloc[0]}\n\nWritten by `python -m experiments score_costs`, which "
        "counts what passes the modules that attend while one score alone is measured (`--scores NAME` for some of "
        "them, `--model` for another model). Tokens count as far as they go: one that is run through half of the "
        "layers is half a token. Scores that look at where heads attend share one pass of the same prompts if they "
        "are measured together. Prompts that are run whole more than once count each time. A head is changed at one "
        "position, and only this and what is read behind it is run again.\n\n"
        + as_markdown(pd.DataFrame(rows, columns=names))
        + "\n"
    )


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="name, id or folder")
    parser.add_argument("--scores", nargs="+", help="names; all that can be had by default")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
