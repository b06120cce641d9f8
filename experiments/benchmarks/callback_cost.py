"""What does `InductionCallback` add to training a language model, at its default of one measurement in 100 updates?

    python -m experiments callback_cost [--rounds 5]

SmolLM2-135M in float32 with AdamW and batches of random tokens; each round takes one update and one measurement, one
after the other, so that both see the same load. Larger batches make updates dearer and the share smaller. Writes
callback.csv beside this file. About 2 minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from induction_lab import InductionCallback, load_model

HERE = Path(__file__).parent


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = load_model(args.model)
    network, callback = model.network.train(), InductionCallback()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6)
    tokens = torch.randint(100, model.d_vocab - 100, (args.batch, args.tokens))
    callback._begin(network, model.tokenizer, name="benchmark")

    def update() -> None:
        network(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    update()  # what only the first costs
    callback._measured(0)
    ratios = []
    for step in range(1, args.rounds + 1):
        trained, measured = seconds(update), seconds(lambda step=step: callback._measured(step))
        ratios.append(measured / trained)
    share = [100 * ratio / callback.every for ratio in sorted(ratios)]
    row = {"model": model.name, "batch": f"{args.batch} x {args.tokens} tokens", "every": callback.every}
    row |= {"measurement, in updates": statistics.median(ratios), "share of training, %": statistics.median(share)}
    table = pd.DataFrame([row | {"lowest": share[0], "highest": share[-1], "rounds": args.rounds}])
    print(table.to_string(index=False))
    table.to_csv(args.out, index=False)


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="whose training is watched")
    parser.add_argument("--batch", type=int, default=2, help="sequences in an update")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each")
    parser.add_argument("--rounds", type=int, default=5, help="updates, each beside a measurement")
    parser.add_argument("--out", type=Path, default=HERE / "callback.csv")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
