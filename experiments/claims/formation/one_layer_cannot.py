"""Can one attention layer form induction heads?

    python -m experiments one_layer_cannot

One-layer models on the data that make two-layer models form them (recipe `minute`), five seeds; the interval is over
these seeds of one recipe, and says nothing of others. Writes to figures/: one_layer_cannot.csv, one_layer_cannot.json
(verdict), one_layer_cannot.png. A minute on 2 CPU cores once the runs are there (`phase_runs.py`).
"""

from __future__ import annotations

import sys

import matplotlib.pyplot as plt
import pandas as pd

from experiments.harness import begin, show_files
from experiments.judging import votes
from experiments.subjects.phase_runs import UNSEEN, arguments, followed, of, spread, summary
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import plot_over_training

NONE = 0.15  # prefix matching below which there is no induction head


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    begin(args.out)
    found = followed(("one-layer", "two-layers"), seeds=args.seeds, steps=args.steps)
    table = summary(found)
    table["highest_prefix_matching"] = [
        each.best("prefix_matching", prompts=UNSEEN).max() for some in found.values() for each in some.values()
    ]
    table.round(4).to_csv(args.out / "one_layer_cannot.csv", index=False)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    every = [each for some in found.values() for each in some.values()]
    groups = {each.runs[0]: variant for variant, some in found.items() for each in some.values()}
    plot_over_training(every, "prefix_matching", prompts=UNSEEN, groups=groups, ax=axes[0])
    plot_over_training(every, "loss_by_copy", prompts=UNSEEN, index=2, groups=groups, ax=axes[1])
    figure.savefig(args.out / "one_layer_cannot.png", dpi=110)
    names = ("one_layer_cannot.csv", "one_layer_cannot.png")
    show_files(
        [save_verdicts([verdict(table)], args.out / "one_layer_cannot.json"), *(args.out / name for name in names)]
    )


def verdict(table: pd.DataFrame) -> Verdict:
    one, two = of(table, "one-layer"), of(table, "two-layers")
    return Verdict(
        claim="One attention layer cannot form induction heads",
        source="Elhage et al. 2021; Olsson et al. 2022",
        criterion=f"no head's prefix matching reaches {NONE} at any step, in any seed",
        numbers={
            f"seed {each['seed']}": f"highest at any step {each['highest_prefix_matching']:.3f}; at the end, second "
            f"copy {each['second_copy_loss']:.2f} nats"
            for each in one.to_dict("records")
        },
        control=f"two layers on the same data: {spread(two['prefix_matching'])}, second copy "
        f"{spread(two['second_copy_loss'])} nats",
        **votes({f"seed {each['seed']}": each["highest_prefix_matching"] < NONE for each in one.to_dict("records")}),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
