"""Train the bundled model, induction-2l: two attention layers that learn to copy repeated tokens.

    python -m experiments train_bundled_model

Data: BOS, then a block of p random tokens (p between 4 and 60) tiled to the end of the context. Periods 20, 33 and 50
are never trained on: the model must pass on them, and on copies with a gap between, before it is written. A model
trained on one period alone learns that distance and fails here.

Why this shape. Rotary positions give the cleanest attention: with learned ones (1,500 steps) a head of layer 1 stayed
at 0.18 and the best previous-token head at 0.59. Heads are 32 wide, because rotary heads need enough fast-turning
dimensions to single out the token just before: 16 wide reached 0.69 at best. 256 tokens and 128 positions, so that
2 x 50 prompts and their controls without any repeat both fit. 2,500 steps, because the previous-token head goes on
sharpening long after copying works: 0.67 after 1,500 steps with seed 0, 0.90 after 2,500 with seed 1.

The committed weights were trained before loss and norms were computed by the kernels of today: now the same seed rounds
otherwise and gives another model, which has to pass the same checks.

Writes model.safetensors, config.json and training.json (every 50 steps: loss and scores) to
induction_lab/models/weights/induction-2l. About 6 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from experiments.harness import ROOT
from induction_lab import HookedModel, repeated_tokens, score_heads
from induction_lab.data.training_streams import TiledBlocks
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.named_models import BUNDLED
from induction_lab.training.trainer import TrainingPlan, train

CONFIG = AttentionOnlyConfig(n_layers=2, n_heads=4, d_model=64, d_head=32, d_vocab=256, n_ctx=128, positions="rotary")
UNSEEN = (20, 33, 50)
DATA = TiledBlocks(d_vocab=256, shortest=4, longest=60, left_out=UNSEEN)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    network = AttentionOnlyTransformer(CONFIG, seed=args.seed)
    plan = TrainingPlan(steps=args.steps)
    history = train(network, DATA, plan, seed=args.seed, look=look, progress=not args.quiet)
    checks = examine(HookedModel(network.eval(), name=BUNDLED))
    for name, (value, ok) in checks.items():
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {value:.3f}")
    if not all(ok for _, ok in checks.values()) and not args.keep_failed:
        raise SystemExit("The model was not written: it fails a check. Train longer or with another seed.")
    network.save(args.out)
    facts = {"seed": args.seed, "steps": args.steps, "unseen_periods": UNSEEN, "history": history}
    (args.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"written to {args.out}")


def look(network: AttentionOnlyTransformer) -> dict[str, int | float]:
    """The best heads and the loss on the second copy, at a period that is not trained on."""
    model = HookedModel(network)
    scores = score_heads(model, repeated_tokens(model, n_prompts=8), scores=["prefix_matching", "previous_token"])
    best = {name: round(scores.top(name, 1)[0][1], 4) for name in scores.scores}
    return {**best, "second_copy_loss": round(scores.loss_by_copy[1], 4)}


def examine(model: HookedModel) -> dict[str, tuple[float, bool]]:
    """The acceptance checks: value, and whether it passes."""
    checks = {}
    for label, prompts in {
        **{f"unseen period {period}": repeated_tokens(model, period=period, seed=1) for period in UNSEEN},
        "copies 9 tokens apart": repeated_tokens(model, period=20, gap=9, seed=1),
    }.items():
        scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token"])
        induction, previous = (scores.top(name, 2) for name in scores.scores)
        checks[f"{label}, second-copy loss < 0.1"] = (scores.loss_by_copy[1], scores.loss_by_copy[1] < 0.1)
        checks[f"{label}, second-best induction head >= 0.8"] = (induction[1][1], induction[1][1] >= 0.8)
        checks[f"{label}, previous-token head >= 0.7"] = (previous[0][1], previous[0][1] >= 0.7)
    return checks


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = ROOT / "induction_lab" / "models" / "weights" / BUNDLED
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--out", type=Path, default=default, help="folder to write (default: the package's own)")
    parser.add_argument("--keep-failed", action="store_true", help="write the model even if a check fails")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
