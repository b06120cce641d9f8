"""Time and peak memory of the K-composition scores of all pairs of heads, beside what people use today.

    python -m experiments composition_speed

Peaks: each way in a fresh process, its first call, above the loaded model. Seconds: one process a model, float32, two
threads. Each run of a way is paired with one of ours right beside it, before and after in turn, so that noise of the
machine hits both alike; `ratio` is the median of the paired times over ours, with the lowest and the highest. `gflop`
is what matrix products do (QR and SVD are not counted), `of_sgemm` how close that comes to the rate of a plain
2048 x 2048 product in the same process, best of many. The floor is the time that the factored way's products alone
would take at that rate.

Only ours folds norms into the weights, so they are folded before the clock starts, which leaves the network what it is
and lets `max_difference` compare numbers. A way that wants more memory than the machine has gives torch's error as its
note. Writes composition.csv beside this file. About 25 minutes; `--models` repeats some where the machine was busy.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformer_lens.FactoredMatrix import FactoredMatrix
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.benchmarks.score_memory import cut, resident
from induction_lab import load_model
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.weights.composition import composition_scores

HERE = Path(__file__).parent
COLUMNS = (
    "model way layers heads d_model d_head seconds ratio lowest highest peak_mb gflop of_sgemm max_difference note"
)
FLOOR = "floor: the factored way's products at the sgemm rate"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(2)
    if args.first_call:
        print(json.dumps(first_call(*args.first_call)))
        return
    if args.time:
        print(json.dumps(timings(args.time)))
        return
    rows = []
    for model in args.models:
        rate, timed = in_fresh_process("--time", model)
        for way, seconds in timed.items():
            row = {"model": model, "way": way, **seconds}
            row |= {} if way == FLOOR else in_fresh_process("--first-call", model, way)
            if "seconds" in row:
                row["of_sgemm"] = significant(row["gflop"] / row["seconds"] / rate, 2)
            rows.append(row)
            print(row, flush=True)
    table = pd.DataFrame(rows, columns=COLUMNS.split())
    if args.out.exists():
        kept = [row for row in pd.read_csv(args.out).to_dict("records") if row["model"] not in args.models]
        every = sorted([*kept, *rows], key=lambda row: list(MODELS).index(row["model"]))
        table = pd.DataFrame(every, columns=COLUMNS.split())
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def ours(model: HookedModel) -> Tensor:
    return composition_scores(model, "K", subtract_baseline=False)


def transformer_lens(model: HookedModel) -> Tensor:
    return model.hooked.all_composition_scores("K").scores


def pair_by_pair(model: HookedModel) -> Tensor:
    """TransformerLens' FactoredMatrix, as its tutorials write it."""
    W_Q, W_K, W_V, W_O = (torch.stack(layers) for layers in zip(*by_head(model), strict=True))
    OV, QK = FactoredMatrix(W_V, W_O), FactoredMatrix(W_Q, W_K.mT)
    norms_OV, norms_QK = OV.norm(), QK.norm()
    scores = empty_scores(model)
    for l1, l2 in itertools.combinations(range(model.n_layers), 2):
        for h1, h2 in itertools.product(range(model.n_heads), repeat=2):
            norm = (OV[l1, h1] @ QK[l2, h2].T).norm()
            scores[l1, h1, l2, h2] = norm / (norms_OV[l1, h1] * norms_QK[l2, h2])
    return scores


def factored(model: HookedModel) -> Tensor:
    """One product of d_head-wide factors for each pair of layers, all their heads at once; its blocks' norms."""
    writers, readers = [], []
    for W_Q, W_K, W_V, W_O in by_head(model):
        for sides, inner, outer in ((writers, W_V, W_O), (readers, W_Q, W_K.mT)):
            factors = torch.linalg.qr(inner, mode="r").R @ outer  # as long as `inner @ outer`, and d_head wide
            sides.append((factors / factors.norm(dim=(1, 2), keepdim=True)).flatten(0, 1))
    scores = empty_scores(model)
    for l1, l2 in itertools.combinations(range(model.n_layers), 2):
        product = writers[l1] @ readers[l2].T
        blocks = product.view(model.n_heads, model.d_head, model.n_heads, model.d_head)
        scores[l1, :, l2] = blocks.square_().sum(dim=(1, 3)).sqrt()
    return scores


def by_head(model: HookedModel) -> Iterator[tuple[Tensor, ...]]:
    """Each layer's W_Q, W_K, W_V, W_O, grouped keys and values once for each head that reads them."""
    for layer in range(model.n_layers):
        yield tuple(
            weights.repeat_interleave(model.n_heads // len(weights), 0) for weights in head_weights(model, layer)
        )


def empty_scores(model: HookedModel) -> Tensor:
    return torch.zeros(model.n_layers, model.n_heads, model.n_layers, model.n_heads)


def attention_only(n_layers: int, n_heads: int, d_model: int) -> HookedModel:
    config = AttentionOnlyConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=d_model, d_head=64, d_vocab=100, n_ctx=64, layer_norm=False
    )
    return HookedModel(AttentionOnlyTransformer(config))


def gpt2() -> HookedModel:
    """Random weights; what LayerNorm takes away, the mean, is taken from the weights that read it."""
    torch.manual_seed(0)
    network: Any = GPT2LMHeadModel(GPT2Config(vocab_size=100, n_positions=64, bos_token_id=0, eos_token_id=0))
    for block in network.transformer.h:
        block.attn.c_attn.weight -= block.attn.c_attn.weight.mean(0)
    return HookedModel(network.eval())


def smollm2(n_layers: int) -> HookedModel:
    """Its gains moved from the norms before the heads into the weights that read them."""
    model = cut(load_model("smollm2-135m"), n_layers=n_layers, n_ctx=8192)
    for layer in model.network.model.layers:
        for reader in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            reader.weight *= layer.input_layernorm.weight
        layer.input_layernorm.weight.fill_(1)
    return model


OURS, TRANSFORMER_LENS = "induction_lab composition_scores", "TransformerLens all_composition_scores"
PAIR_BY_PAIR, FACTORED = "TransformerLens FactoredMatrix, pair by pair", "factored, one product a pair of layers"
WAYS: dict[str, Callable[[HookedModel], Tensor]] = {
    OURS: ours,
    TRANSFORMER_LENS: transformer_lens,
    PAIR_BY_PAIR: pair_by_pair,
    FACTORED: factored,
}
# How to load each model, and how many paired runs of each way.
MODELS: dict[str, tuple[Callable[[], HookedModel], dict[str, int]]] = {
    "attention-only, GPT-2 small's size": (lambda: attention_only(12, 12, 768), {FACTORED: 15, PAIR_BY_PAIR: 2}),
    "GPT-2 small, random weights": (gpt2, {TRANSFORMER_LENS: 7}),
    "SmolLM2-135M": (lambda: smollm2(30), {FACTORED: 15, TRANSFORMER_LENS: 5, PAIR_BY_PAIR: 1}),
    "SmolLM2-135M, first 15 layers": (lambda: smollm2(15), {TRANSFORMER_LENS: 7}),
    "attention-only, GPT-2 XL's size": (lambda: attention_only(48, 25, 1600), {FACTORED: 1}),
}


@torch.no_grad()
def first_call(model_name: str, way_name: str) -> dict[str, Any]:
    """Peak of the first call in this process; then what it computes, and how far that is from ours."""
    model, way = MODELS[model_name][0](), WAYS[way_name]
    for parameter in model.network.parameters():
        parameter.sum()  # read files that are mapped and not yet in memory
    leave_the_machine_some_memory()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    try:
        scores = way(model)
    except RuntimeError as error:
        return {"note": str(error).splitlines()[0]}
    peak = round((resident("VmHWM") - before) / 1024)
    with FlopCounterMode(display=False) as counter:
        way(model)
    difference = float((scores - ours(model)).abs().max())
    return {"peak_mb": peak, "gflop": round(counter.get_total_flops() / 1e9, 1), "max_difference": f"{difference:.0e}"}


@torch.no_grad()
def timings(model_name: str) -> tuple[float, dict[str, dict[str, Any]]]:
    """This process's sgemm rate in GFLOP a second, and a row for the floor, for ours and for every other way."""
    load, rounds = MODELS[model_name]
    model = load()
    leave_the_machine_some_memory()
    rate = sgemm_rate()
    pairs = {name: paired(model, WAYS[name], rounds=rounds[name]) for name in rounds}
    rate = max(rate, sgemm_rate())
    our_seconds = statistics.median(mine for own in pairs.values() for mine, _ in own)
    n_pairs = model.n_layers * (model.n_layers - 1) // 2
    gflop = n_pairs * 2 * (model.n_heads * model.d_head) ** 2 * model.d_model / 1e9
    shape = {"layers": model.n_layers, "heads": model.n_heads, "d_model": model.d_model, "d_head": model.d_head}
    floor = {"seconds": gflop / rate, "ratio": gflop / rate / our_seconds, "gflop": gflop}
    rows = {FLOOR: floor, OURS: {"seconds": our_seconds, "ratio": 1.0}}
    rows |= {name: summary(own) for name, own in pairs.items()}
    return rate, {
        name: {**shape, **{key: significant(value, 3) for key, value in row.items()}} for name, row in rows.items()
    }


def paired(model: HookedModel, way: Callable[[HookedModel], Tensor], *, rounds: int) -> list[tuple[float, float]]:
    """Seconds of (ours, way), run side by side; one more round before them warms up. Empty if `way` fails."""
    seconds = []
    for round_ in range(rounds + 1):
        both = {}
        for function in (ours, way) if round_ % 2 else (way, ours):
            start = time.perf_counter()
            try:
                function(model)
            except RuntimeError:  # out of memory: `first_call` says so
                return []
            both[function] = time.perf_counter() - start
        if round_:
            seconds.append((both[ours], both[way]))
    return seconds


def summary(own: list[tuple[float, float]]) -> dict[str, float]:
    if not own:
        return {}
    ratios = sorted(theirs / mine for mine, theirs in own)
    seconds = statistics.median(theirs for _, theirs in own)
    return {"seconds": seconds, "ratio": statistics.median(ratios), "lowest": ratios[0], "highest": ratios[-1]}


def sgemm_rate(size: int = 2048, n_tries: int = 30) -> float:
    """GFLOP a second of a plain float32 product, best of several."""
    left, right, product = torch.randn(3, size, size)
    best = float("inf")
    for _ in range(n_tries):
        start = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def leave_the_machine_some_memory(gigabytes: int = 4) -> None:
    """Let a way that wants more than there is end with torch's error, not with the machine's."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = resident("VmSize") * 1024 + max(0, free - gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def in_fresh_process(*arguments: str) -> Any:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def significant(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="replace these rows only")
    parser.add_argument("--first-call", nargs=2, metavar=("MODEL", "WAY"), help="used by the script itself")
    parser.add_argument("--time", metavar="MODEL", help="used by the script itself")
    parser.add_argument("--out", type=Path, default=HERE / "composition.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
