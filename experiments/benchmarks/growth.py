"""How do time and memory of every public analysis grow with prompts, context, heads, layers and vocabulary?

    python -m experiments growth                                       # all analyses, all axes
    python -m experiments growth --what ablation_sweep --axis heads

Random Llama models on one thread: a stream of 64, heads of 16, and by default 8 prompts of 2 x 16 tokens, 4 layers of 4
heads, a vocabulary of 1,024. Each axis in turn is made 2 and 8 times as large. Time is CPU time, the least of some
runs; memory the peak of PyTorch's tensors above what was there before. A slope is the power of the size by which a
number grows from the second size to the third. Beside it stands the power by which the work itself grows at last: a
slope lies below it while what does not grow costs most, and should not lie above. Writes growth.csv beside this file.
About 6 minutes.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from experiments.harness import show_files, show_line
from induction_lab import (
    HookedModel,
    Prompts,
    ablation_sweep,
    attribute_logits,
    capture,
    classify_heads,
    explain,
    find_circuit,
    induction_activity,
    patch_paths,
    repeated_tokens,
    score_heads,
    write_report,
)

HERE = Path(__file__).parent
FACTORS = (1, 2, 8)
LEAST, MOST = 0.3, 4  # seconds that are measured in all, and runs, whichever comes first


class Size(NamedTuple):
    """How large a problem is."""

    prompts: int = 8
    context: int = 16
    heads: int = 4
    layers: int = 4
    vocabulary: int = 1024


class Analysis(NamedTuple):
    """What is measured, and by which power its work grows along each axis; 0 where an axis is none of its own."""

    run: Callable[[HookedModel, Prompts], object]
    grows: Size


def _report(model: HookedModel, prompts: Prompts) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_report(model, Path(folder) / "report.html", n_prompts=len(prompts), period=prompts.period)


def _last(model: HookedModel) -> str:
    return f"L{model.n_layers - 1}H0"


ANALYSES = {
    "score_heads": Analysis(lambda model, prompts: score_heads(model, prompts), Size(1, 2, 1, 1, 1)),
    "capture": Analysis(lambda model, prompts: capture(model, prompts, ["pattern", "z"]), Size(1, 2, 1, 1, 0)),
    "attribute_logits": Analysis(lambda model, prompts: attribute_logits(model, prompts), Size(1, 2, 1, 1, 1)),
    "find_circuit": Analysis(lambda model, prompts: find_circuit(model, prompts), Size(1, 2, 2, 2, 1)),
    "classify_heads": Analysis(
        lambda model, prompts: classify_heads(model, prompts, causal=False), Size(1, 2, 1, 1, 1)
    ),
    "induction_activity": Analysis(
        lambda model, prompts: induction_activity(model, prompts.tokens[:1], _last(model)), Size(0, 2, 1, 1, 1)
    ),
    "ablation_sweep": Analysis(lambda model, prompts: ablation_sweep(model, prompts), Size(1, 2, 2, 2, 1)),
    "patch_paths": Analysis(lambda model, prompts: patch_paths(model, prompts, _last(model)), Size(1, 2, 2, 1, 1)),
    "explain": Analysis(lambda model, prompts: explain(model, prompts, n_random=2), Size(1, 2, 2, 2, 1)),
    "write_report": Analysis(_report, Size(1, 2, 2, 2, 1)),
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for axis in args.axis:
        for factor in FACTORS:
            size = Size()._replace(**{axis: getattr(Size(), axis) * factor})
            model = random_model(size)
            _ = model.unembeds_by_parts, model.bridge  # found out once a model
            prompts = repeated_tokens(model, n_prompts=size.prompts, period=size.context, distinct=False)
            for what in args.what:
                if getattr(ANALYSES[what].grows, axis):
                    rows.append({"what": what, "axis": axis, "size": getattr(size, axis)})
                    rows[-1] |= measured(ANALYSES[what], model, prompts)
                    show_line(" ".join(map(str, rows[-1].values())))
    table = slopes(pd.DataFrame(rows))
    table.to_csv(args.out, index=False)
    show_line(table.to_string(index=False))
    show_files([args.out])


def random_model(size: Size) -> HookedModel:
    """A Llama with room for the longest prompts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=64,
        intermediate_size=128,
        head_dim=16,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        num_hidden_layers=size.layers,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    return HookedModel(LlamaForCausalLM(config).eval(), name="random")


def measured(analysis: Analysis, model: HookedModel, prompts: Prompts) -> dict[str, float]:
    """CPU seconds and megabytes."""
    seconds: list[float] = []
    while sum(seconds) < LEAST and len(seconds) < MOST:
        begin = time.process_time()
        analysis.run(model, prompts)
        seconds.append(time.process_time() - begin)
    return {"seconds": round(min(seconds), 4), "peak_mb": round(peak(lambda: analysis.run(model, prompts)) / 1e6, 3)}


def peak(run: Callable[[], object]) -> int:
    """Bytes of tensors that are there at once at most, beyond those that were there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    there = most = 0
    for event in sorted(_allocations(profiled), key=lambda event: event.start_ns()):
        there += event.nbytes()
        most = max(most, there)
    return most


def _allocations(profiled: Any) -> list[Any]:
    found = profiled.profiler.kineto_results
    return [event for event in found.events() if event.name() == "[memory]"]


def slopes(rows: pd.DataFrame) -> pd.DataFrame:
    """A row an analysis and axis: numbers at the three sizes, slopes of the last step, and what the work grows by."""
    found = []
    by: Any = rows.groupby(["what", "axis"], sort=False)
    for (what, axis), points in by:
        point: Any = points.to_dict("list")
        row = {"what": what, "axis": axis, "sizes": " ".join(map(str, point["size"]))}
        for name in ("seconds", "peak_mb"):
            row[name] = " ".join(f"{value:.3g}" for value in point[name])
            _, before, last = point[name]
            row[f"slope_{name}"] = round(math.log(last / before) / math.log(FACTORS[2] / FACTORS[1]), 2)
        found.append(row | {"work": getattr(ANALYSES[str(what)].grows, str(axis))})
    return pd.DataFrame(found)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", default=list(ANALYSES), choices=ANALYSES)
    parser.add_argument("--axis", nargs="+", default=list(Size._fields), choices=Size._fields)
    parser.add_argument("--out", type=Path, default=HERE / "growth.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
