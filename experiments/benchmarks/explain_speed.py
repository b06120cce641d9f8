"""How many forward passes does `explain` spend, and is its answer that of a whole sweep?

    python -m experiments explain_speed                                    # all three models, three seeds
    python -m experiments explain_speed --model smollm2-135m --seeds 0

Each model and seed twice over the same prompts of 2 x 50 random tokens: with every head on all of them (`exact=True`)
and as it is by default. A forward pass is the network's own over these prompts, logits and all; work is counted in
multiplications, by PyTorch's flop counter under every operation that is run, whatever for. Answers are compared head by
head: verdicts, those of heads whose effect or path is above .1 nats, and how far effects differ. Adds its rows to
explain.csv beside this file, or replaces them. About an hour on two cores, most of it the whole sweeps of SmolLM2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.harness import put_row, show_files, show_line
from induction_lab import Explanation, HookedModel, Prompts, explain, load_model, repeated_tokens

HERE = Path(__file__).parent
MODELS = ("induction-2l", "smollm2-135m", "gemma3-270m")
LARGE = 0.1  # nats


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    for name in args.model:
        model = load_model(name)
        for seed in args.seeds:
            row = {"model": name, "seed": seed, "prompts": args.prompts} | compared(model, args.prompts, seed)
            put_row(args.out, row, by=dict.fromkeys(("model", "seed", "prompts")))
            show_line(pd.DataFrame([row]).to_string(index=False))
    show_files([args.out])


def compared(model: HookedModel, n_prompts: int, seed: int) -> dict[str, Any]:
    """What both ways cost, and where their answers differ."""
    prompts = repeated_tokens(model, n_prompts=n_prompts, period=50, seed=seed)
    _ = model.unembeds_by_parts, model.bridge  # found out once a model
    with FlopCounterMode(display=False) as one, torch.no_grad():
        model.network(prompts.tokens, **({} if model.name == "induction-2l" else {"use_cache": False}))
    whole, passes = counted(model, prompts, one.get_total_flops(), exact=True)
    raced, fewer = counted(model, prompts, one.get_total_flops(), exact=False)
    both: Any = whole.heads.merge(raced.heads, on="label", suffixes=("", "_raced"))
    large: Any = both[["effect", "to_keys"]].abs().max(axis=1) > LARGE
    same: Any = both["verdict"] == both["verdict_raced"]
    return {
        "heads": len(both),
        "passes_exact": round(passes, 1),
        "passes": round(fewer, 1),
        "bystanders": int((both["verdict"] == "bystander").sum()),
        "same_verdict": int(same.sum()),
        "above_0.1": int(large.sum()),
        "same_above_0.1": int((same & large).sum()),
        "largest_difference": round(float((both["effect"] - both["effect_raced"]).abs().max()), 4),
    }


def counted(model: HookedModel, prompts: Prompts, one: int, *, exact: bool) -> tuple[Explanation, float]:
    """The answer, and the forward passes that it took."""
    with FlopCounterMode(display=False) as counter:
        found = explain(model, prompts, exact=exact)
    return found, counter.get_total_flops() / one


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HERE / "explain.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
