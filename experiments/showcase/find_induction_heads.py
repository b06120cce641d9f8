"""Which heads of a model are induction heads, where do they sit, and what does the model do with them?

    python -m experiments find_induction_heads --model smollm2-135m --seed 0

Scores every head on repeated random tokens, tests them against prompts that repeat nothing, and writes to figures/,
each name beginning with find_induction_heads_MODEL:
.csv (every score of every head), _scores.png (heatmaps), _by_layer.png, _loss.png (loss by position),
_patterns.png (what the best previous-token head and the best induction head look at).
About half a minute on 2 CPU cores for smollm2-135m.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from experiments.harness import begin, common_arguments, show_files, show_scores
from induction_lab import capture, load_model, repeated_tokens, score_heads
from induction_lab.plots.heads import plot_all_scores, plot_loss, plot_patterns, plot_score_by_layer


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    model = load_model(args.model)
    prompts = repeated_tokens(model, n_prompts=args.prompts, period=args.period, seed=args.seed)
    scores = score_heads(model, prompts, chance_test=True, progress=sys.stderr.isatty())
    show_scores(scores)

    stem = args.out / f"find_induction_heads_{model.name.replace('/', '_')}"
    written = [scores.save(f"{stem}.csv")]
    previous, induction = (scores.top(name, 1)[0][0] for name in ("previous_token", "prefix_matching"))
    short = repeated_tokens(model, n_prompts=1, period=min(12, args.period), seed=args.seed)
    acts = capture(model, short, "pattern", heads=[previous, induction])
    patterns = [acts["pattern", head.layer][0, acts.heads[head.layer].index(head)] for head in (previous, induction)]
    for name, figure in {
        "scores": plot_all_scores(scores),
        "by_layer": plot_score_by_layer(scores, "prefix_matching").figure,
        "loss": plot_loss(scores).figure,
        "patterns": plot_patterns(torch.stack(patterns), [previous, induction], labels=model.token_labels(short)),
    }.items():
        path = Path(f"{stem}_{name}.png")
        figure.savefig(path, dpi=110)
        written.append(path)
    show_files(written)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="induction-2l")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--period", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
