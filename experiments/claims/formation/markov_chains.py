"""In what order does a model learn to read the statistics of a Markov chain from its prompt?

    python -m experiments markov_chains

Each prompt is a new chain of three states, its transition probabilities drawn anew; a model can use how often states
came (unigrams), or what followed the current one (bigrams: an induction head that counts). Two-layer models on such
chains, on doubly stochastic ones (where unigrams say nothing), and one-layer models, five seeds each; intervals are
over these seeds, and say nothing of other chains or sizes. Writes to figures/: markov_chains.csv (divergences at every
checkpoint), markov_chains.json (verdicts), markov_chains.png. 10 minutes on 2 CPU cores the first time.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.harness import RUNS_FOLDER, begin, common_arguments, show_files
from experiments.judging import Effect, judge
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import AttentionOnlyConfig, Recipe, Run, TrainingPlan, train_runs
from induction_lab.data.markov import in_context_bigrams, in_context_unigrams
from induction_lab.data.training_streams import MarkovChains

RUNS = RUNS_FOLDER / "markov"
STATES, CONTEXT, EVERY = 3, 101, 25
KINDS = {"two layers": (2, False), "two layers, doubly stochastic": (2, True), "one layer": (1, False)}
PROMPTS, FROM = 256, 10  # tokens before which a prompt has said too little
NEAR = 0.5  # of the divergence of a uniform prediction


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    recipes = {
        f"{kind.replace(', ', '-').replace(' ', '-')}-{args.steps}-seed{seed}": recipe(kind, seed, args.steps)
        for seed in range(args.seeds)
        for kind in KINDS
    }
    trained = train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())
    labels = [(kind, seed) for seed in range(args.seeds) for kind in KINDS]
    parts = [divergences(run, kind, seed) for run, (kind, seed) in zip(trained.values(), labels, strict=True)]
    table = pd.concat(parts, ignore_index=True)
    table.round(5).to_csv(args.out / "markov_chains.csv", index=False)
    draw(table).savefig(args.out / "markov_chains.png", dpi=110)
    verdicts = [order_verdict(table), plateau_verdict(table)]
    names = ("markov_chains.csv", "markov_chains.png")
    show_files([save_verdicts(verdicts, args.out / "markov_chains.json"), *(args.out / name for name in names)])


def recipe(kind: str, seed: int, steps: int) -> Recipe:
    layers, doubly = KINDS[kind]
    data = MarkovChains(n_states=STATES, doubly_stochastic=doubly)
    model = AttentionOnlyConfig(n_layers=layers, d_vocab=data.d_vocab, n_ctx=CONTEXT)
    plan = TrainingPlan(steps=steps, batch=32, peak_rate=1e-3, every=EVERY, initial_scale=0.16)
    return Recipe(model, data, plan, seed=seed)


@torch.inference_mode()
def divergences(run: Run, kind: str, seed: int) -> pd.DataFrame:
    """KL divergence of each checkpoint from both strategies, in nats a token, on chains it was not trained on."""
    tokens = run.recipe.data.draw(torch.Generator().manual_seed(1_000_003), n_prompts=PROMPTS, n_ctx=CONTEXT)
    strategies = {"unigram": in_context_unigrams(tokens, STATES), "bigram": in_context_bigrams(tokens, STATES)}
    far = uniform(strategies["unigram"])
    rows = []
    for step in (each for each in run.steps if each % EVERY == 0):
        own = run.model(step).logits(tokens).log_softmax(-1)[:, FROM:, 1:]
        row: dict[str, Any] = {"run": kind, "seed": seed, "step": step}
        for name, strategy in strategies.items():
            right = strategy[:, FROM:]
            row[name] = float((right * (right.clamp(min=1e-12).log() - own)).sum(-1).mean())
        rows.append(row | {"uniform": far})
    return pd.DataFrame(rows)


def uniform(unigrams: Float[Tensor, "prompt pos state"]) -> float:
    """The divergence from unigrams of who knows nothing and finds every state as likely."""
    return float(np.log(STATES) - torch.special.entr(unigrams[:, FROM:]).sum(-1).mean())


def milestones(table: pd.DataFrame, kind: str, seed: int) -> dict[str, float]:
    """When a run is nearest to unigrams, when it is nearer to bigrams than to them, and how near it comes.

    Not when its divergence from bigrams is halved: untrained weights are so far from anything that leaving them does.
    """
    rows: Any = table[(table["run"] == kind) & (table["seed"] == seed)].set_index("step")
    crossed = rows.index[rows["bigram"] < rows["unigram"]]
    lowest = rows["unigram"].idxmin()
    return {
        "dip": float(lowest),
        "crossed": float(crossed[0]) if len(crossed) else np.inf,
        "nearest_unigram": float(rows["unigram"].min()),
        "bigram_then": float(rows.loc[lowest, "bigram"]),
        "uniform": float(rows["uniform"].iloc[0]),
        "last": float(rows.index[-1]),
        "last_bigram": float(rows["bigram"].iloc[-1]),
        "last_unigram": float(rows["unigram"].iloc[-1]),
    }


def order_verdict(table: pd.DataFrame) -> Verdict:
    found, doubly, one = (
        {seed: milestones(table, kind, seed) for seed in sorted(table["seed"].unique())} for kind in KINDS
    )
    effects = {
        f"seed {seed}": Effect(each["nearest_unigram"] / each["uniform"] if in_order(each) else 1.0)
        for seed, each in found.items()
    }
    nothing = [each["nearest_unigram"] / each["uniform"] for each in doubly.values()]
    passes = f"Where unigrams say nothing a model comes as near to them ({min(nothing):.2f} of it)."
    return Verdict(
        claim="On Markov chains the unigram solution comes first, then the bigram solution replaces it",
        source="Edelman et al. 2024",
        measured="how near a model comes to the unigrams of its prompt, as a share of how far from them a uniform "
        "prediction is; 1 where that is not before it is nearer to bigrams, or where it does not end nearer to them",
        criterion=f"at most {NEAR:g} over seeds, and more where unigrams say nothing (at first the divergence only had "
        "to fall below half of the untrained model's, which uniform predictions do as well: mended after a look)",
        numbers={
            f"seed {seed}": f"nearest to unigrams ({each['nearest_unigram']:.4f} nats, a uniform prediction "
            f"{each['uniform']:.3f}; from bigrams then {each['bigram_then']:.3f}) at step {each['dip']:.0f}; bigrams "
            f"nearer from step {step(each['crossed'])}; at the end {each['last_bigram']:.4f} from bigrams, "
            f"{each['last_unigram']:.3f} from unigrams"
            for seed, each in found.items()
        },
        control="doubly stochastic chains, where unigrams say nothing: nearest to them "
        + ", ".join(f"{share:.2f}" for share in nothing)
        + " of a uniform prediction's divergence. One layer, at the end: from bigrams "
        + ", ".join(f"{each['last_bigram']:.3f}" for each in one.values())
        + "; from unigrams "
        + ", ".join(f"{each['last_unigram']:.3f}" for each in one.values()),
        **judge(
            effects,
            NEAR,
            at_most=True,
            unit="of a uniform prediction's divergence",
            undecided=passes * (min(nothing) <= NEAR),
        ),
    )


def in_order(found: dict[str, float]) -> bool:
    """Whether a run is nearer to unigrams first, and to bigrams from some later step to the end."""
    return (
        found["nearest_unigram"] < found["bigram_then"]
        and found["dip"] < found["crossed"] < np.inf
        and found["last_bigram"] < found["last_unigram"]
    )


def plateau_verdict(table: pd.DataFrame) -> Verdict:
    seeds = sorted(table["seed"].unique())
    flat, doubly = ({seed: milestones(table, kind, seed) for seed in seeds} for kind in list(KINDS)[:2])
    return Verdict(
        claim="Where unigrams say nothing, bigrams are learnt sooner: the simple solution delays the better one",
        source="Edelman et al. 2024",
        measured="the step from which a model is nearer to bigrams than to unigrams; where it never is, the last step",
        criterion="on doubly stochastic chains that step is earlier than on chains on which unigrams help: the mean "
        "over seeds of the difference is above 0 (at first a vote was taken; the mean came after a look at three "
        "seeds)",
        numbers={
            f"seed {seed}": f"step {step(doubly[seed]['crossed'])} against {step(flat[seed]['crossed'])}"
            for seed in seeds
        },
        control="the chains on which unigrams help; same seeds, same shape",
        **judge({f"seed {seed}": sooner(flat[seed], doubly[seed]) for seed in seeds}, 0.0, unit="steps"),
    )


def sooner(than: dict[str, float], found: dict[str, float]) -> Effect:
    """By how many steps one run is nearer to bigrams sooner than another, as exactly as checkpoints tell."""
    ends = (min(each["crossed"], each["last"]) for each in (than, found))
    return Effect(next(ends) - next(ends), EVERY / 6**0.5)


def step(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.0f}"


def draw(table: pd.DataFrame) -> Figure:
    figure, axes = plt.subplots(1, len(KINDS), figsize=(12, 3.8), sharey=True, layout="constrained")
    for ax, kind in zip(axes, KINDS, strict=True):
        rows: Any = table[table["run"] == kind]
        for strategy, colour in (("unigram", "C1"), ("bigram", "C0")):
            for seed, some in rows.groupby("seed"):
                label = f"from {strategy}s" if seed == 0 else None
                ax.plot(some["step"], some[strategy], color=colour, lw=1.2, alpha=0.8, label=label)
        ax.axhline(rows["uniform"].iloc[0], color="#8d99ae", lw=1.2, ls="--", label="uniform, from unigrams")
        ax.set(title=kind, xlabel="step", yscale="log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("divergence, nats a token")
    axes[0].legend(frameon=False)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
