"""What do rounding, compiling and shorter prompts buy a mean-ablation sweep in time, and what do they cost in error?

    python -m experiments below_the_floor                                  # every way
    python -m experiments below_the_floor --way bfloat16 second-copy-25

SmolLM2-135M, 4 prompts of 2 x 50 random tokens, one thread; the loss on the second copy without each head. Exact is
what `ablation_sweep` does by default: float32, eager, the whole second copy. Time: the heads of layers 6 and 22, which
lie on average as high as all, each way and the exact sweep side by side, first one then the other first; ratios of
process CPU time (median, lowest, highest) and of wall time. Error: the heads of every fourth layer (63), once.
`compiled` is a network that was compiled before the sweep, which runs such networks' own code: it tells how noisy the
ratios are. `compiled-parts` compiles each block's MLP and norms and, for this script alone, lets them through. At the
same time a way that takes a share r of it could be given 1 / r as many prompts: `error_same_time` is its standard error
then, over the exact sweep's (median over heads). Writes below_the_floor.csv and below_the_floor_error.csv beside this
file. About 15 minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch

from experiments.harness import show_files, show_line
from induction_lab import Effects, HookedModel, Prompts, ablation_sweep, load_model, repeated_tokens
from induction_lab.data.prompts import PromptsLike

HERE = Path(__file__).parent
LARGE = 0.1  # nats
UNITS = ("avx512_bf16", "amx_bf16", "bf16")  # what processors call products of bfloat16

Heads = list[tuple[int, int]]


@dataclass(frozen=True, eq=False)
class Way:
    """A sweep made ready: of what, on what, with what in force, after how many seconds of CPU time that come once."""

    model: HookedModel
    prompts: PromptsLike
    inside: Callable[[], AbstractContextManager[Any]] = nullcontext
    once: float = 0.0
    note: str = ""

    def sweep(self, heads: Heads) -> Effects:
        """Each of the heads ablated."""
        with self.inside():
            return ablation_sweep(self.model, self.prompts, heads=heads)


class NotHereError(Exception):
    """A way that cannot be had, and why."""


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(1)
    model = load_model(args.model)
    exact = Way(model, repeated_tokens(model, n_prompts=args.prompts))
    layers = range(model.n_layers)[args.every // 2 :: args.every]
    many, few = ([(layer, head) for layer in some for head in range(model.n_heads)] for some in (layers, layers[1::4]))
    known = exact.sweep(many)
    times, errors = [], []
    for name in args.way:
        try:
            way = WAYS[name](exact, few)
            ratios = paired(exact, way, few, args.rounds)
        except NotHereError as why:
            times.append({"way": name, "note": str(why)})
        else:
            times.append({"way": name} | time_row(ratios, way))
            errors.append({"way": name} | error_row(known, way.sweep(many), times[-1]["cpu_ratio"]))
            show_line(pd.DataFrame(errors[-1:]).to_string(index=False))
        show_line(pd.DataFrame(times[-1:]).to_string(index=False))
        save(times, args.out)
        save(errors, args.out.with_stem(f"{args.out.stem}_error"))
    show_files([args.out, args.out.with_stem(f"{args.out.stem}_error")])


def save(rows: list[dict[str, Any]], path: Path) -> None:
    """The ways that were measured, in the order asked."""
    pd.DataFrame(rows).to_csv(path, index=False)


def compiled(exact: Way, heads: Heads) -> Way:
    """The whole network, compiled."""
    model = again(exact)
    model.network.compile()
    return Way(model, exact.prompts, note="the sweep runs the network's own code")


def compiled_parts(exact: Way, heads: Heads) -> Way:
    """What stands between attention and attention, compiled for the shapes of a sweep.

    Raises:
        NotHereError: If it does not compile, as without a C++ compiler.
    """
    from torch._inductor import config, utils

    model = again(exact)
    attend = set(model.anatomy.attention_modules)
    for part in (part for block in model.anatomy.blocks for part in block.children() if part not in attend):
        part.compile(dynamic=False)
    way = Way(model, exact.prompts, lambda: mock.patch.object(torch.compiler, "set_stance", lambda _: ExitStack()))
    first = [head for head in heads if head[0] == heads[-1][0]]
    seconds = []
    with utils.fresh_cache(), config.patch(compile_threads=1):  # in children that are waited for, so that they count
        for _ in range(2):
            start = sum(os.times()[:4])
            try:
                way.sweep(first)
            except (RuntimeError, OSError) as error:
                raise NotHereError(f"does not compile here: {str(error).splitlines()[0]}") from error
            seconds.append(sum(os.times()[:4]) - start)
    return Way(model, exact.prompts, way.inside, once=seconds[0] - seconds[1], note="not how the sweep runs them")


def bfloat16(exact: Way, heads: Heads) -> Way:
    """Weights, streams and products in bfloat16.

    Raises:
        NotHereError: If the processor has no products of bfloat16.
    """
    has = bfloat16_units()
    if not has:
        raise NotHereError(f"this processor has none of {', '.join(UNITS)}")
    return Way(again(exact, dtype="bfloat16"), exact.prompts, note=f"this processor has {', '.join(has)} alone")


def medium(exact: Way, heads: Heads) -> Way:
    """Weights and streams in float32, factors of products rounded to bfloat16 if PyTorch sees fit."""
    precision = torch.get_float32_matmul_precision()

    def inside() -> ExitStack:
        stack = ExitStack()
        torch.set_float32_matmul_precision("medium")
        stack.callback(torch.set_float32_matmul_precision, precision)
        return stack

    weight = next(weight for weight in exact.model.network.parameters() if weight.ndim == 2)
    x = torch.randn(256, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        here = torch.nn.functional.linear(x, weight)
        with inside():
            same = torch.allclose(torch.nn.functional.linear(x, weight), here, rtol=1e-4, atol=1e-4)
    note = "rounds nothing on this processor" if same else "factors are rounded"
    return Way(exact.model, exact.prompts, inside, note=f'set_float32_matmul_precision("medium"); {note}')


def autocast(exact: Way, heads: Heads) -> Way:
    """Products as autocast rounds them.

    Raises:
        NotHereError: As the sweep refuses that.
    """
    way = Way(exact.model, exact.prompts, lambda: torch.autocast("cpu", torch.bfloat16))
    try:
        way.sweep(heads[:1])
    except ValueError as refused:
        raise NotHereError(f"refused: {str(refused).partition(':')[0]}") from refused
    return way


def cut(n: int) -> Callable[[Way, Heads], Way]:
    """Prompts whose second copy is left after its first `n` tokens."""

    def way(exact: Way, heads: Heads) -> Way:
        prompts = exact.prompts
        assert isinstance(prompts, Prompts) and prompts.period is not None
        end = prompts.first + prompts.period + n
        return Way(exact.model, prompts.tokens[:, :end], note=f"prompts.tokens[:, :{end}]")

    return way


WAYS: dict[str, Callable[[Way, Heads], Way]] = {
    "compiled": compiled,
    "compiled-parts": compiled_parts,
    "bfloat16": bfloat16,
    "autocast": autocast,
    "medium": medium,
    "second-copy-25": cut(25),
    "second-copy-10": cut(10),
}


def again(exact: Way, dtype: str = "float32") -> HookedModel:
    """The same model, loaded once more."""
    return load_model(exact.model.name, dtype=dtype)


def bfloat16_units() -> list[str]:
    """What this processor multiplies bfloat16 with."""
    has = torch.cpu.get_capabilities()
    return [unit for unit in UNITS if has.get(unit)]


def paired(exact: Way, way: Way, heads: Heads, rounds: int) -> list[tuple[float, float, float]]:
    """CPU time over that of the exact sweep, wall time likewise, and the exact sweep's CPU seconds, a row a round."""
    found = []
    for round_ in range(rounds):
        cpu, wall = {}, {}
        for one in (exact, way) if round_ % 2 else (way, exact):
            start = time.process_time(), time.perf_counter()
            one.sweep(heads)
            cpu[one], wall[one] = time.process_time() - start[0], time.perf_counter() - start[1]
        found.append((cpu[way] / cpu[exact], wall[way] / wall[exact], cpu[exact]))
    return found


def time_row(ratios: list[tuple[float, float, float]], way: Way) -> dict[str, Any]:
    """Ratios, and after how many such sweeps what comes once has paid for itself."""
    cpu = sorted(one for one, _, _ in ratios)
    saved = (1 - statistics.median(cpu)) * statistics.median(seconds for _, _, seconds in ratios)
    return {
        "cpu_ratio": round(statistics.median(cpu), 3),
        "lowest": round(cpu[0], 3),
        "highest": round(cpu[-1], 3),
        "wall_ratio": round(statistics.median(wall for _, wall, _ in ratios), 3),
        "rounds": len(ratios),
        "seconds_once": round(way.once, 1),
        "pays_after_sweeps": (round(way.once / saved, 1) if saved > 0 else "never") if way.once else "",
        "note": way.note,
    }


def error_row(exact: Effects, other: Effects, time_ratio: float) -> dict[str, Any]:
    """How far effects are from the exact ones, in nats, and what that changes in what one would say of the heads.

    `beyond_error` counts heads that are further off than the exact effect's standard error over prompts. A head's
    verdict is the sign of its effect, where that is more than two standard errors from 0.
    """
    both: Any = exact.table.merge(other.table, on="label", suffixes=("", "_other"), validate="1:1")
    difference: Any = (both["effect_other"] - both["effect"]).abs()
    error, other_error = both["standard_error"], both["standard_error_other"]
    above = both["effect"].abs() > LARGE
    verdicts, other_verdicts = verdict(both["effect"], error), verdict(both["effect_other"], other_error)
    times = float((other_error / error).median())
    return {
        "heads": len(both),
        "median_difference": round(float(difference.median()), 6),
        "largest_difference": round(float(difference.max()), 6),
        "of": both["label"][int(difference.argmax())],
        "median_error": round(float(error.median()), 4),
        "beyond_error": int((difference > error).sum()),
        "rank_correlation": round(exact.correlation(other, kind="spearman"), 4),
        "above_0.1": int(above.sum()),
        "change_sides": int((above != (both["effect_other"].abs() > LARGE)).sum()),
        "beyond_2_errors": int((verdicts != 0).sum()),
        "verdicts_change": int((verdicts != other_verdicts).sum()),
        "error_ratio": round(times, 3),
        "error_same_time": round(times * time_ratio**0.5, 3),
    }


def verdict(effect: Any, error: Any) -> Any:
    """1 where a head helps, -1 where it hurts, 0 where its effect is within two standard errors of 0."""
    return (effect > 2 * error).astype(int) - (effect < -2 * error).astype(int)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--way", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument(
        "--every", type=int, default=4, help="layers whose heads errors are taken of; times: a quarter of them"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "below_the_floor.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
