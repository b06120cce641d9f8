"""A model larger than memory: peak memory and time to score it from disk, beside reading it once and its products.

    python -m experiments larger_than_memory                             # 8B, 16 GB on disk while it runs
    python -m experiments larger_than_memory --shape 500M --folder /big/disk

A random model of Llama's shape is written in bfloat16, one file a layer, scored in a fresh process with `offload=True`,
and deleted. "reading" reads all files once, "products" multiplies as many tokens with as many weights in memory, block
after block. Peaks are above those of the interpreter with all libraries imported. Writes offload.csv beside this file.
About 15 minutes and 16 GB of disk for 8B, 1 minute for 500M.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file

from experiments.benchmarks.score_memory import resident
from induction_lab import load_model, repeated_tokens, score_heads
from induction_lab.models.on_disk.offloading import offloading_of

HERE = Path(__file__).parent
SHAPES = {  # layers, width, MLP, query heads, key-value heads, vocabulary
    "8B": (32, 4096, 14336, 32, 8, 128256),
    "1B": (16, 2048, 8192, 32, 8, 128256),
    "500M": (14, 1024, 3584, 16, 4, 32000),
    "tiny": (2, 64, 128, 4, 2, 300),
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.measure is not None:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="larger-than-memory-") as name:
        folder = Path(name) / args.shape
        write(folder, args.shape)
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        given = ["--shape", args.shape, "--dtype", args.dtype, "--prompts", str(args.prompts), "--measure", str(folder)]
        forget(folder)
        command = [sys.executable, "-m", "experiments", "larger_than_memory", *given]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        forget(folder)
        start = time.perf_counter()
        for path in folder.glob("*.safetensors"):
            with path.open("rb", buffering=0) as file:
                while file.read(2**24):
                    pass
        reading = time.perf_counter() - start
        shutil.rmtree(folder)
    row = {
        "model": f"{args.shape}, {args.dtype}",
        "file_gb": round(size / 1e9, 2),
        **found,
        "reading_s": round(reading, 1),
        "products_s": round(products(args.shape, getattr(torch, args.dtype), found["tokens"]), 1),
    }
    row["ratio"] = round(row["score_s"] / (row["reading_s"] + row["products_s"]), 2)
    print(pd.DataFrame([row]).to_string(index=False))
    kept = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
    others = kept[kept["model"] != row["model"]] if len(kept) else kept
    pd.concat([others, pd.DataFrame([row])]).to_csv(args.out, index=False)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Load and score in this process."""
    before = resident("VmHWM")
    start = time.perf_counter()
    model = load_model(args.measure, dtype=args.dtype, offload=True)
    load_s = time.perf_counter() - start
    prompts = repeated_tokens(model, n_prompts=args.prompts, period=50 if model.d_vocab > 500 else 9)
    start = time.perf_counter()
    scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token", "induction_stripe"])
    score_s = time.perf_counter() - start
    assert torch.isfinite(scores["prefix_matching"]).all()
    offloading = offloading_of(model.network)
    assert offloading is not None
    return {
        "tokens": prompts.tokens.numel(),
        "peak_gb": round((resident("VmHWM") - before) / 1e6, 2),
        "read_gb": round(offloading.bytes_read / 1e9, 2),
        "load_s": round(load_s, 1),
        "score_s": round(score_s, 1),
    }


def weights(shape: str, layer: int) -> dict[str, tuple[int, int]]:
    """Names and sizes of a layer's matrices."""
    _, width, mlp, heads, kv_heads, _ = SHAPES[shape]
    small = width * kv_heads // heads
    sizes = {f"self_attn.{name}_proj": (width, width) for name in "qo"}
    sizes |= {f"self_attn.{name}_proj": (small, width) for name in "kv"}
    sizes |= {"mlp.gate_proj": (mlp, width), "mlp.up_proj": (mlp, width), "mlp.down_proj": (width, mlp)}
    return {f"model.layers.{layer}.{name}.weight": size for name, size in sizes.items()}


def write(folder: Path, shape: str) -> None:
    """A random model, a file after another, so that memory holds one layer."""
    n_layers, width, mlp, heads, kv_heads, vocabulary = SHAPES[shape]
    folder.mkdir()
    torch.manual_seed(0)
    places: dict[str, str] = {}

    def put(file: str, tensors: dict[str, torch.Tensor]) -> None:
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, file))

    def drawn(size: tuple[int, int]) -> torch.Tensor:
        return torch.empty(size, dtype=torch.bfloat16).normal_(0.0, 0.02)

    ones = torch.ones(width, dtype=torch.bfloat16)
    put("embedding.safetensors", {"model.embed_tokens.weight": drawn((vocabulary, width))})
    for layer in range(n_layers):
        norms = {f"model.layers.{layer}.{name}_layernorm.weight": ones for name in ("input", "post_attention")}
        norms = {name: gain.clone() for name, gain in norms.items()}
        put(f"layer-{layer:02}.safetensors", norms | {n: drawn(size) for n, size in weights(shape, layer).items()})
    put("unembedding.safetensors", {"model.norm.weight": ones, "lm_head.weight": drawn((vocabulary, width))})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": n_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))


def forget(folder: Path) -> None:
    """Let the system forget what it keeps of the files in memory."""
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def products(shape: str, dtype: torch.dtype, tokens: int) -> float:
    """Seconds to multiply tokens with all matrices of a model, those of one layer drawn anew for each."""
    n_layers, width, *_, vocabulary = SHAPES[shape]
    seconds = 0.0
    for size, times in [*((size, n_layers) for size in weights(shape, 0).values()), ((vocabulary, width), 1)]:
        matrix = torch.empty(size, dtype=dtype).normal_()
        x = torch.empty(tokens, size[1], dtype=dtype).normal_()
        start = time.perf_counter()
        for _ in range(times):
            torch.nn.functional.linear(x, matrix)
        seconds += time.perf_counter() - start
    return seconds


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="8B")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="to compute in")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room; the system's by default")
    parser.add_argument("--measure", default=None, help="score a folder and print the row (used by the script itself)")
    parser.add_argument("--out", type=Path, default=HERE / "offload.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
