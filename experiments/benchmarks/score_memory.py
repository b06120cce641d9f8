"""Peak memory to score every head, beside the plain forward pass and what materialising the matrices takes.

    python -m experiments score_memory

Each row is a fresh process: the model is loaded, the peak counter of Linux is reset, one prompt is run, and the peak
above the loaded model is read. "cut to 4 layers" is SmolLM2-135M's first four layers with a longer context, where the
matrices of a single layer would take 9 x 32,769^2 x 4 bytes = 38 GB. Writes memory.csv beside this file. About 8
minutes.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from induction_lab import load_model, repeated_tokens, score_heads
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.attention_scores import ATTENTION_SCORES

HERE = Path(__file__).parent
PLAIN, OURS, EAGER = "plain forward, SDPA", "induction_lab, 7 attention scores", "eager, output_attentions"
JOBS = [
    (PLAIN, 1025, 30),
    (OURS, 1025, 30),
    (EAGER, 1025, 30),
    (PLAIN, 8193, 30),
    (OURS, 8193, 30),
    (PLAIN, 32769, 4),
    (OURS, 32769, 4),
]


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.job is not None:
        print(json.dumps(measure(*JOBS[args.job])))
        return
    rows = []
    for number in range(len(JOBS)):
        command = [sys.executable, __file__, "--job", str(number)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    plain = {(row["tokens"], row["layers"]): row["peak_mb"] for row in rows if row["way"] == PLAIN}
    table["ratio_to_plain"] = [round(row["peak_mb"] / plain[row["tokens"], row["layers"]], 2) for row in rows]
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def measure(way: str, n_tokens: int, n_layers: int) -> dict[str, Any]:
    """Run one job in this process."""
    torch.set_num_threads(2)
    model = cut(load_model("smollm2-135m"), n_layers=n_layers, n_ctx=max(8193, n_tokens))
    prompts = repeated_tokens(model, n_prompts=1, period=(n_tokens - 1) // 2)
    model.hidden(prompts.tokens[:, :8])  # what the first call allocates once
    if way == OURS:
        score_heads(model, prompts.tokens[:, :8], scores=["previous_token"], loss=False)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.perf_counter()
    if way == OURS:
        scores = score_heads(model, prompts, scores=ATTENTION_SCORES, loss=False)
        assert torch.isfinite(scores["prefix_matching"]).all()
    elif way == PLAIN:
        model.hidden(prompts.tokens)
    else:
        model.network.set_attn_implementation("eager")
        with torch.inference_mode():
            model.network.base_model(prompts.tokens, use_cache=False, output_attentions=True)
    seconds = time.perf_counter() - start
    peak = round((resident("VmHWM") - before) / 1024)
    return {"way": way, "tokens": n_tokens, "layers": n_layers, "peak_mb": peak, "seconds": round(seconds, 1)}


def cut(model: HookedModel, *, n_layers: int, n_ctx: int) -> HookedModel:
    """The first layers of a Llama, with room for longer prompts."""
    network = model.network
    network.model.layers = network.model.layers[:n_layers]
    network.config = network.model.config = copy.copy(network.config)
    network.config.num_hidden_layers, network.config.max_position_embeddings = n_layers, n_ctx
    for layer in network.model.layers:
        layer.self_attn.config = network.config
    return HookedModel(network, model.tokenizer, name=f"{model.name}, first {n_layers} layers")


def resident(field: str) -> int:
    """Kilobytes of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--job", type=int, default=None, help="run one job and print its row (used by the script itself)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "memory.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
