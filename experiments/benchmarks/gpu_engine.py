"""The engine on a GPU: exact in every precision, as fast as the plain forward pass; sweeps and training beside loops.

    python -m experiments gpu_engine        # or make bench-gpu

1. Every path of the engine (each of PyTorch's kernels, grouped keys, unlike widths, a boolean and an additive mask,
   soft-capping, sinks, fewer queries than keys) in float32, bfloat16 and float16 against float64 on the same rounded
   inputs: the largest difference of outputs and probabilities.
2. Head scores of the bundled model in each precision against float64.
3. A random model of Llama 3 8B's shape in bfloat16, one prompt of 8,192 to 131,072 tokens: seconds and peak memory of
   all seven attention scores over those of the plain forward pass (no logits), runs in turn.
4. A mean-ablation sweep over all heads of SmolLM2-135M's shape against the plain loop, and training of the recipes
   `text-2l` and `minute` against the plain loop of `training_speed`, one seed and eight seeds stacked.

Writes gpu_exactness.csv, gpu_scores.csv, gpu.csv and gpu_jobs.csv beside this file, after each part, and says what fell
short of what is asked. At most nine minutes on one GPU of 80 GB; `--layers 4` needs 12 GB.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from experiments.benchmarks import ablation_speed, training_speed
from induction_lab import AttentionOnlyTransformer, HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.attention.exact import Attention
from induction_lab.attention.kernels import attention_with_lse
from induction_lab.scores.attention_scores import ATTENTION_SCORES
from induction_lab.training.stacked_runs import StackedTrainer
from induction_lab.training.trainer import Trainer

HERE = Path(__file__).parent
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # of outputs of size about 1
SCORES_WITHIN = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}  # of probabilities, through two layers
LENGTHS = (8_192, 16_384, 32_768, 65_536, 131_072)
MOST = 1.05  # seconds and memory over those of the plain pass
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not torch.cuda.is_available():
        print("There is no GPU that torch.cuda sees: nothing is measured.")
        return
    place = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    print(place, flush=True)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "gpu_exactness": lambda: [row for dtype in TOLERANCE for row in exactness(dtype)],
        "gpu_scores": lambda: [precision(dtype) for dtype in SCORES_WITHIN],
        "gpu_jobs": lambda: [*sweeping(rounds=args.rounds), *training(rounds=args.rounds)],
        "gpu": lambda: long_contexts(args.layers, rounds=args.rounds),
    }
    short = []
    for name, measure in parts.items():
        started = time.perf_counter()
        table: Any = pd.DataFrame(measure()).assign(on=place)
        table.to_csv(args.out / f"{name}.csv", index=False)
        print(f"\n{name} ({time.perf_counter() - started:.0f} s)\n{table.to_string(index=False)}", flush=True)
        short += [f"{name}: {row}" for row in table.to_dict("records") if not row.get("within", True)]
    print("\nFell short of what is asked:" if short else "\nNothing fell short of what is asked.")
    print(*short, sep="\n")


def exactness(dtype: torch.dtype, *, device: str = "cuda") -> list[dict[str, Any]]:
    """Every path against float64."""
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, length: int, width: int = 64) -> Tensor:
        return torch.randn(2, heads, length, width, generator=generator).to(device, dtype)

    n = 257
    window = torch.ones(n, n, dtype=torch.bool, device=device).tril().triu(-63)[None, None]
    bias = torch.zeros(1, 1, n, n, device=device).masked_fill(~window, -torch.inf)
    cases: dict[str, tuple[int, int, dict[str, Any]]] = {
        "plain": (8, n, {}),
        "grouped keys": (2, n, {}),
        "odd widths": (2, n, {}),
        "boolean mask": (8, n, {"mask": window}),
        "additive mask": (8, n, {"mask": bias}),
        "soft-capping": (8, n, {"softcap": 20.0}),
        "sinks": (8, n, {"sinks": torch.randn(8, generator=generator).to(device)}),
        "fewer queries than keys": (8, 100, {}),
    }
    blind = window.expand(2, 1, n, n).clone()
    blind[0, :, :9] = False
    cases["queries that see nothing"] = (8, n, {"mask": blind})
    rows = []
    for kernel in (None, *KERNELS) if device == "cuda" else (None,):
        for name, (kv_heads, n_queries, how) in cases.items():
            width = 40 if name == "odd widths" else 64
            q, k = drawn(8, n, width)[:, :, -n_queries:], drawn(kv_heads, n, width)
            v = drawn(kv_heads, n, 21 if name == "odd widths" else 64)
            expected = read(q.double(), k.double(), v.double(), how)
            with forced(kernel):
                found = read(q, k, v, how)
            first = 9 if name == "queries that see nothing" else 0  # what those before give is arbitrary
            off = [float((found[i].double() - expected[i])[..., first:, :].abs().max()) for i in range(2)]
            finite = bool(found[0].isfinite().all())
            row = {"kernel": kernel or "as PyTorch chooses", "path": name, "dtype": str(dtype).removeprefix("torch.")}
            row |= {"output": off[0], "probabilities": off[1], "tolerance": TOLERANCE[dtype]}
            rows.append({**row, "within": finite and max(off) <= TOLERANCE[dtype]})
    return rows


@contextmanager
def forced(kernel: str | None) -> Iterator[None]:
    """PyTorch chooses this kernel wherever it serves."""
    with nullcontext() if kernel is None else sdpa_kernel([KERNELS[kernel], SDPBackend.MATH]):
        yield


def read(q: Tensor, k: Tensor, v: Tensor, how: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Outputs, and the probabilities of some pairs of query and key."""
    same: dict[str, Any] = dict(how)
    for name, x in how.items():
        same[name] = x.to(q.dtype) if isinstance(x, Tensor) and x.is_floating_point() else x
    z, lse = attention_with_lse(q, k, v, scale=0.125, **same)
    layer = Attention(0, q, k, v, z, lse, 0.125, same.get("mask"), same.get("softcap"), same.get("sinks"))
    query = torch.arange(q.shape[2], device=q.device)
    key = query + k.shape[2] - q.shape[2] if q.shape[2] == k.shape[2] else query  # the token itself, or an early one
    return z, layer.probabilities(torch.zeros_like(query), query, key)  # [batch, head, query, d], [pair, head]


def precision(dtype: torch.dtype) -> dict[str, Any]:
    """Attention scores of the bundled model in one precision against float64, every head."""
    expected, found = load_model(device="cpu", dtype=torch.float64), load_model(device="cuda", dtype=dtype)
    prompts = repeated_tokens(expected, n_prompts=8)
    ours, right = (score_heads(model, prompts, scores=ATTENTION_SCORES, loss=False) for model in (found, expected))
    off = max(float((ours.values[name].double() - right.values[name].double()).abs().max()) for name in right.values)
    row = {"model": expected.name, "dtype": str(dtype).removeprefix("torch."), "largest_difference": off}
    return {**row, "tolerance": SCORES_WITHIN[dtype], "within": off <= SCORES_WITHIN[dtype]}


def random_llama(name: str, dtype: torch.dtype, **shape: Any) -> HookedModel:
    """Random weights in the shape of a model."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device("cuda"):
        network: Any = LlamaForCausalLM(LlamaConfig(**shape))
    return HookedModel(network.to(dtype).eval(), name=name)


def long_contexts(n_layers: int, *, rounds: int) -> list[dict[str, Any]]:
    """All attention scores of Llama 3 8B's shape over the plain pass, by length of the prompt."""
    model = random_llama(
        "Llama 3 8B's shape", torch.bfloat16, vocab_size=128_256, hidden_size=4096, intermediate_size=14_336,
        num_hidden_layers=n_layers, num_attention_heads=32, num_key_value_heads=8, rope_theta=5e5, bos_token_id=128_000,
        max_position_embeddings=max(LENGTHS) + 1,
    )  # fmt: skip
    rows = []
    for n_tokens in LENGTHS:
        try:
            rows.append(compared(model, n_tokens, rounds=rounds if n_tokens < LENGTHS[-2] else min(rounds, 3)))
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows.append({"tokens": n_tokens, "layers": n_layers, "note": "out of memory", "within": False})
        print(rows[-1], flush=True)
    return rows


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
        "within": statistics.median(ratios) <= MOST and peaks["ours"] <= MOST * peaks["plain"],
    }


def sweeping(*, rounds: int) -> list[dict[str, Any]]:
    """Ablation of every head of SmolLM2-135M's shape: ours over the plain loop, and how far the losses differ."""
    model = random_llama(
        "SmolLM2-135M's shape", torch.float32, vocab_size=49_152, hidden_size=576, intermediate_size=1536,
        num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, rope_theta=1e5, bos_token_id=0,
        max_position_embeddings=8192,
    )  # fmt: skip
    prompts = repeated_tokens(model, n_prompts=4)
    ablation_speed.sweep(model, prompts)
    pairs, difference = ablation_speed.paired(model, prompts, ablation_speed.plain_loop, rounds)
    row = ratio_of("ablation sweep, 270 heads", pairs)
    return [{**row, "note": f"over the plain loop; losses differ by at most {difference:.1e}"}]


def training(*, rounds: int, seeds: int = 8) -> list[dict[str, Any]]:
    """Training steps: ours over the plain loop; and a step of stacked seeds over as many of one."""
    rows = []
    for name in training_speed.STEPS:
        recipe = training_speed.rotary(name)
        batches = [training_speed.fixed_batch(recipe, seed).cuda() for seed in range(8)]
        trainers = [
            Trainer(
                AttentionOnlyTransformer(recipe.model).cuda(),
                training_speed.Fixed(batches, recipe.model.d_vocab),
                recipe.training,
            )
            for _ in range(seeds + 1)
        ]
        alone, stacked = trainers[0], StackedTrainer(trainers[1:])
        plain = training_speed.plain(recipe, batches)
        steps = 10 * training_speed.STEPS[name]

        def ours(n: int, trainer: Trainer = alone) -> None:
            for _ in range(n):
                trainer.advance()

        def together(n: int, trainer: StackedTrainer = stacked) -> None:
            for _ in range(n):
                trainer.advance()

        seconds: dict[str, list[float]] = {"ours": [], "plain": [], "stacked": []}
        for round_ in range(rounds + 1):
            for way, run in {"ours": ours, "plain": plain, "stacked": together}.items():
                torch.cuda.synchronize()
                start = time.perf_counter()
                run(steps if round_ else 3)
                torch.cuda.synchronize()
                seconds[way] += [time.perf_counter() - start] if round_ else []
        row = ratio_of(f"training {name}, one seed", list(zip(seconds["ours"], seconds["plain"], strict=True)))
        rows.append({**row, "note": "over the plain loop"})
        one_by_one = [seeds * taken for taken in seconds["ours"]]
        row = ratio_of(f"training {name}, {seeds} seeds", list(zip(seconds["stacked"], one_by_one, strict=True)))
        rows.append({**row, "note": "stacked, over one after the other"})
    return rows


def ratio_of(job: str, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """Median, lowest and highest of ours over theirs."""
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    row = {"job": job, "seconds": round(statistics.median(ours for ours, _ in pairs), 3)}
    return row | {
        name: round(value, 3)
        for name, value in {"ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}.items()
    }


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
