"""The engine on a GPU: exact in every precision, and how close to the plain flash forward pass.

    python -m experiments gpu_engine

First every path of the engine (plain, grouped keys, a boolean and an additive mask, soft-capping, sinks, fewer queries
than keys) in float32, bfloat16 and float16 against float64 on the same rounded inputs: the largest difference of
probabilities and outputs. Then a random model of Llama-3-8B's shape in bfloat16, one prompt of 8,192 to 131,072 tokens:
seconds and peak memory of all seven attention scores over those of the plain forward pass (flash kernel, no logits),
runs in turn; prompts that do not fit the memory are named. Writes gpu.csv and gpu_exactness.csv beside this file. Needs
a GPU with at least 40 GB for the second part; `--layers 4` needs 12.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from induction_lab import HookedModel, repeated_tokens, score_heads
from induction_lab.attention.exact import Attention
from induction_lab.attention.kernels import attention_with_lse
from induction_lab.scores.attention_scores import ATTENTION_SCORES

HERE = Path(__file__).parent
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of outputs of size about 1
LENGTHS = (8_192, 16_384, 32_768, 65_536, 131_072)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not torch.cuda.is_available():
        print("There is no GPU that torch.cuda sees: nothing is measured.")
        return
    exact: Any = pd.DataFrame([row for dtype in TOLERANCE for row in exactness(dtype)])
    exact.to_csv(args.out / "gpu_exactness.csv", index=False)
    print(exact.to_string(index=False), flush=True)
    model = llama_shaped(args.layers)
    rows = []
    for n_tokens in LENGTHS:
        try:
            rows.append(compared(model, n_tokens, rounds=args.rounds))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows.append({"tokens": n_tokens, "layers": args.layers, "note": "out of memory"})
        print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(args.out / "gpu.csv", index=False)
    if not exact["within"].all():
        raise SystemExit("Some path is not exact within its tolerance: see gpu_exactness.csv.")


def exactness(dtype: torch.dtype, *, device: str = "cuda") -> list[dict[str, Any]]:
    """Every path against float64."""
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, length: int) -> Tensor:
        return torch.randn(2, heads, length, 64, generator=generator).to(device, dtype)

    n = 257
    window = torch.ones(n, n, dtype=torch.bool, device=device).tril().triu(-63)[None, None]
    bias = torch.zeros(1, 1, n, n, device=device).masked_fill(~window, -torch.inf)
    cases: dict[str, tuple[int, int, dict[str, Any]]] = {
        "plain": (8, n, {}),
        "grouped keys": (2, n, {}),
        "boolean mask": (8, n, {"mask": window}),
        "additive mask": (8, n, {"mask": bias}),
        "soft-capping": (8, n, {"softcap": 20.0}),
        "sinks": (8, n, {"sinks": torch.randn(8, generator=generator).to(device)}),
        "fewer queries than keys": (8, 100, {}),
    }
    rows = []
    for name, (kv_heads, n_queries, how) in cases.items():
        q, k, v = drawn(8, n)[:, :, -n_queries:], drawn(kv_heads, n), drawn(kv_heads, n)
        found, expected = read(q, k, v, how), read(q.double(), k.double(), v.double(), how)
        off = [float((a.double() - b.double()).abs().max()) for a, b in zip(found, expected, strict=True)]
        row = {"path": name, "dtype": str(dtype).removeprefix("torch."), "output": off[0], "probabilities": off[1]}
        rows.append({**row, "tolerance": TOLERANCE[dtype], "within": max(off) <= TOLERANCE[dtype]})
    return rows


def read(q: Tensor, k: Tensor, v: Tensor, how: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Outputs, and the probabilities of some pairs of query and key."""
    same: dict[str, Any] = dict(how)
    for name, x in how.items():
        same[name] = x.to(q.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
    z, lse = attention_with_lse(q, k, v, scale=0.125, **same)
    layer = Attention(0, q, k, v, z, lse, 0.125, same.get("mask"), same.get("softcap"), same.get("sinks"))
    query = torch.arange(q.shape[2], device=q.device)
    key = query + k.shape[2] - q.shape[2] if q.shape[2] == k.shape[2] else query  # the token itself, or an early one
    return z, layer.probabilities(torch.zeros_like(query), query, key)


def llama_shaped(n_layers: int) -> HookedModel:
    """Random weights in the shape of Llama 3 8B."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape: dict[str, Any] = dict(
        vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=n_layers,
        num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=max(LENGTHS) + 1, rope_theta=5e5,
        bos_token_id=128_000,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        network: Any = LlamaForCausalLM(LlamaConfig(**shape))
    network = network.to(torch.bfloat16).eval()
    return HookedModel(network, name=f"random, shape of Llama 3 8B, {n_layers} layers")


def compared(model: HookedModel, n_tokens: int, *, rounds: int) -> dict[str, Any]:
    """Ours over plain, in turn; the first round of each warms up."""
    prompts = repeated_tokens(model, n_prompts=1, period=(n_tokens - 1) // 2)
    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: model.hidden(prompts.tokens),
        "ours": lambda: score_heads(model, prompts, scores=ATTENTION_SCORES, loss=False),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 0)
    for _ in range(rounds + 1):
        for name, run in ways.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            run()
            torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() - before)
    ratios = sorted(ours / plain for ours, plain in zip(seconds["ours"][1:], seconds["plain"][1:], strict=True))
    return {
        "tokens": n_tokens,
        "layers": model.n_layers,
        "plain_seconds": round(statistics.median(seconds["plain"][1:]), 3),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
        "plain_peak_gb": round(peaks["plain"] / 2**30, 2),
        "peak_ratio": round(peaks["ours"] / peaks["plain"], 3),
        "note": "",
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
