"""What does finding the likely circuit of SmolLM2-135M cost, in forward passes over the same prompts?

    python -m experiments circuit_speed --rounds 9

A round times three plain forward passes over 4 x 101 tokens (the median of them counts), the two scores that the
circuit needs, and `find_circuit` on the same prompts. Writes circuit.csv beside this file: seconds, and the ratio to
the forward pass (median, least and greatest of the rounds). About 1 minute.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from experiments.harness import show_files, show_line
from induction_lab import HookedModel, find_circuit, load_model, repeated_tokens, score_heads

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = load_model("smollm2-135m")
    found = rounds(model, args.rounds)
    rows = []
    for what in found:
        ratios = found[what] / found["plain forward pass"]
        rows.append((what, found[what].median(), ratios.median(), ratios.min(), ratios.max()))
    table = pd.DataFrame(rows, columns=["what", "seconds", "ratio", "least", "greatest"]).round(3)
    table.to_csv(HERE / "circuit.csv", index=False)
    show_line(table.to_string(index=False))
    show_files([HERE / "circuit.csv"])


def rounds(model: HookedModel, n: int) -> pd.DataFrame:
    """Seconds of each, a row a round, after one round that does not count."""
    prompts = repeated_tokens(model, n_prompts=4, period=50)
    scores = ["previous_token", "prefix_matching"]

    @torch.no_grad()
    def forward() -> None:
        model.network(prompts.tokens, use_cache=False)

    rows = [
        {
            "plain forward pass": statistics.median(seconds(forward) for _ in range(3)),
            "score_heads, two scores": seconds(lambda: score_heads(model, prompts, scores=scores, loss=False)),
            "find_circuit": seconds(lambda: find_circuit(model, prompts)),
        }
        for _ in range(n + 1)
    ]
    return pd.DataFrame(rows[1:])


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
