"""What changes when a key already holds something of the token before it?

    python -m experiments smeared_keys

Smeared keys (each head mixes every key with the one before it, by a trained share) give one layer what it needs a
previous-token head for. Models of one and two layers with and without, five seeds each; intervals are over
these seeds of one recipe (`minute`), and say nothing of others. Writes to figures/: smeared_keys.csv, smeared_keys.json
(verdicts), smeared_keys.png. Two minutes on 2 CPU cores once the runs are there (`phase_runs.py`).
"""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
import torch

from experiments.harness import begin, show_files
from experiments.judging import votes
from experiments.subjects.phase_runs import UNSEEN, arguments, followed, number, of, runs, spread, summary
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import Trajectory, plot_small_multiples
from induction_lab.training.runs import Run

KINDS = {
    ("one layer", "vanilla"): "one-layer",
    ("one layer", "smeared"): "one-layer-smeared",
    ("two layers", "vanilla"): "two-layers",
    ("two layers", "smeared"): "two-layers-smeared",
}


def main(argv: list[str] | None = None) -> None:
    args = arguments(__doc__).parse_args(argv)
    begin(args.out)
    found = followed(tuple(KINDS.values()), seeds=args.seeds, steps=args.steps)
    table = summary(found)
    table["layer_0_stripe"] = [layer_0(each) for some in found.values() for each in some.values()]
    trained = runs(tuple(KINDS.values()), seeds=args.seeds, steps=args.steps)
    table["share_of_the_key_before"] = [smear(run) for some in trained.values() for run in some.values()]
    table.round(4).to_csv(args.out / "smeared_keys.csv", index=False)
    figure = plot_small_multiples({kind: list(found[name].values()) for kind, name in KINDS.items()})
    figure.savefig(args.out / "smeared_keys.png", dpi=110)
    verdicts = [one_layer_verdict(table), two_layer_verdict(table)]
    names = ("smeared_keys.csv", "smeared_keys.png")
    show_files([save_verdicts(verdicts, args.out / "smeared_keys.json"), *(args.out / name for name in names)])


def layer_0(trajectory: Trajectory) -> float:
    """Best stripe score among the heads of layer 0, at the end."""
    return float(trajectory.heads("induction_stripe", UNSEEN)[-1, 0].max())


def smear(run: Run) -> float:
    """Of the head of layer 0 that smears most: how much of its keys is the one before."""
    network: Any = run.model().network
    if not run.recipe.model.smeared_keys:
        return float("nan")
    return float((1 - torch.sigmoid(network.blocks[0].attn.smear.detach())).max())


def one_layer_verdict(table: pd.DataFrame) -> Verdict:
    smeared, plain = of(table, "one-layer-smeared"), of(table, "one-layer")
    return Verdict(
        claim="With smeared keys one layer can do what else takes two",
        source="Olsson et al. 2022, argument 2",
        criterion="the loss on the second copy falls below half of ln 63 in every seed, and never without smearing",
        numbers={
            f"seed {each['seed']}": f"halved at step {number(each['loss_halved'])}; at the end "
            f"{each['second_copy_loss']:.3f} nats, stripe {each['induction_stripe']:.2f}, keys hold up to "
            f"{each['share_of_the_key_before']:.0%} of the one before"
            for each in smeared.to_dict("records")
        },
        control=f"one layer without: halved in {plain['loss_halved'].notna().sum()} of {len(plain)} runs, at the end "
        f"{spread(plain['second_copy_loss'])} nats",
        **votes(
            {
                f"seed {a['seed']}": a["loss_halved"] == a["loss_halved"] and b["loss_halved"] != b["loss_halved"]
                for a, b in zip(smeared.to_dict("records"), plain.to_dict("records"), strict=True)
            }
        ),
    )


def two_layer_verdict(table: pd.DataFrame) -> Verdict:
    smeared, plain = of(table, "two-layers-smeared"), of(table, "two-layers")
    pairs = list(zip(smeared.to_dict("records"), plain.to_dict("records"), strict=True))
    late = float("inf")
    return Verdict(
        claim="With smeared keys two layers copy earlier, and induction sits in layer 0",
        source="Olsson et al. 2022, argument 2",
        criterion="the loss on the second copy halves at an earlier step than without, and at the end a head of layer "
        "0 has a stripe score above 0.4",
        numbers={
            f"seed {a['seed']}": f"halved at step {number(a['loss_halved'])} against {number(b['loss_halved'])}; layer "
            f"0 {a['layer_0_stripe']:.2f} against {b['layer_0_stripe']:.2f}"
            for a, b in pairs
        },
        control=f"layer 0 without smearing: stripe at most {plain['layer_0_stripe'].max():.2f}",
        **votes(
            {
                f"seed {a['seed']}": first(a["loss_halved"], late) < first(b["loss_halved"], late)
                and a["layer_0_stripe"] > 0.4
                for a, b in pairs
            }
        ),
    )


def first(step: float | None, otherwise: float) -> float:
    return otherwise if step is None or step != step else step


if __name__ == "__main__":
    main(sys.argv[1:])
