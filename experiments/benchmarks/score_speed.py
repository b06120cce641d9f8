"""Time to score every head of SmolLM2-135M on one prompt, beside what people use today.

    python -m experiments score_speed --tokens 1025 --rounds 21

One process, float32, two threads. Each run of a way is paired with a plain forward pass of the same network without
logits (transformers, SDPA) right beside it, before and after in turn, so that noise of the machine hits both alike; the
table gives median times and the median, lowest and highest of the paired ratios. Writes speed.csv beside this file.
About 5 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformer_lens.head_detector import detect_head

from induction_lab import load_model, repeated_tokens, score_heads
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.attention_scores import ATTENTION_SCORES

HERE = Path(__file__).parent
Way = Callable[[], object]
PLAIN = "plain forward (transformers, SDPA, no logits)"
OURS = f"induction_lab: {len(ATTENTION_SCORES)} attention scores"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(2)
    model = load_model(args.model)
    ways = all_ways(model, args.tokens)
    pairs = {
        name: paired(ways[PLAIN], run, rounds=args.rounds if name == OURS else max(3, args.rounds // 4))
        for name, run in ways.items()
        if name != PLAIN
    }
    table = summary(pairs)
    print(
        f"{model.name}, one prompt of {args.tokens} tokens, {args.rounds} paired runs of ours, a quarter of the others"
    )
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def paired(plain: Way, way: Way, *, rounds: int) -> list[tuple[float, float]]:
    """Seconds of (plain, way), run side by side; one more round before them warms up."""
    seconds = []
    for round_ in range(rounds + 1):
        both = {name: 0.0 for name in ("plain", "way")}
        for name in ("plain", "way") if round_ % 2 else ("way", "plain"):
            start = time.perf_counter()
            (plain if name == "plain" else way)()
            both[name] = time.perf_counter() - start
        if round_:
            seconds.append((both["plain"], both["way"]))
    return seconds


def all_ways(model: HookedModel, n_tokens: int) -> dict[str, Way]:
    """What is compared: each a function that scores the model's heads once."""
    prompts = repeated_tokens(model, n_prompts=1, period=(n_tokens - 1) // 2)
    tokens, network, period = prompts.tokens, model.network, prompts.period
    assert tokens.shape[1] == n_tokens and period is not None
    bridge = model.hooked
    assert model.tokenizer is not None
    text = model.tokenizer.decode(model.tokenizer(STORY * 40)["input_ids"][: n_tokens - 1])

    def plain() -> object:
        network.set_attn_implementation("sdpa")
        with torch.inference_mode():
            return network.base_model(tokens, use_cache=False)

    def ours() -> object:
        return score_heads(model, prompts, scores=ATTENTION_SCORES, loss=False)

    def cached() -> object:
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_pattern"))
        patterns = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.n_layers)]
        return [p.diagonal(1 - period, -2, -1)[..., 2:].mean((0, 2)) for p in patterns]

    def eager() -> object:
        network.set_attn_implementation("eager")
        with torch.inference_mode():
            patterns = network.base_model(tokens, use_cache=False, output_attentions=True).attentions
        network.set_attn_implementation("sdpa")
        return [p.diagonal(1 - period, -2, -1)[..., 2:].mean((0, 2)) for p in patterns]

    def detector() -> object:
        with torch.inference_mode():
            return [
                detect_head(bridge, text, kind)
                for kind in ("previous_token_head", "duplicate_token_head", "induction_head")
            ]

    return {
        PLAIN: plain,
        OURS: ours,
        "transformers eager, output_attentions + one diagonal": eager,
        "TransformerLens run_with_cache (patterns) + one diagonal": cached,
        "TransformerLens detect_head, its three head types": detector,
    }


def summary(pairs: dict[str, list[tuple[float, float]]]) -> pd.DataFrame:
    """One row a way."""
    every_plain = [plain for own in pairs.values() for plain, _ in own]
    rows = [{"way": PLAIN, "median_s": round(statistics.median(every_plain), 2), "ratio_to_plain": 1.0}]
    for name, own in pairs.items():
        ratios = sorted(way / plain for plain, way in own)
        row = {"way": name, "median_s": round(statistics.median(way for _, way in own), 2)}
        row["ratio_to_plain"] = round(statistics.median(ratios), 2)
        rows.append({**row, "lowest": round(ratios[0], 2), "highest": round(ratios[-1], 2)})
    return pd.DataFrame(rows)


STORY = (
    "The lighthouse keeper wrote down the weather every morning, and every evening he read aloud what he had written, "
    "so that the gulls on the rail would know how the day had been. "
)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=1025)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out", type=Path, default=HERE / "speed.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
