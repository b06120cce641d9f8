"""Do induction heads form where heads start with large weights, and what carries copying there?

    python -m experiments initial_scale

The recipe `minute` from two scales of initial weights, its own and that of weights drawn as wide as the stream allows,
five seeds each, 1,200 steps; intervals are over the seeds of this one recipe, and say nothing of others.
`prefix_matching` reads one lag only, the token after the earlier occurrence; heads are read here at the lag they like
best (`displaced_induction`), and that lag is taken from them: the keys there are masked, and others of the same heads
as a control. Writes to figures/: initial_scale.csv, initial_scale.json (verdicts), initial_scale.png. About 15 minutes
on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.harness import RUNS_FOLDER, begin, common_arguments, show_files
from experiments.judging import Effect, judge
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import Head, HookedModel, Prompts, load_recipe, repeated_tokens, score_heads, train_runs
from induction_lab.results.statistics import number_and_error
from induction_lab.training.runs import Run

RUNS = RUNS_FOLDER / "initial_scale"
SCALES = {0.16: 0.02, 1.0: 0.125}  # and the standard deviation of what reads the stream
EVERY, PERIOD, PROMPTS = 50, 20, 16  # blocks of 20 tokens are never trained on
LOOKS, CARRIES, SPARED = 0.4, 0.5, 0.1  # of displaced induction; of the fall of the loss
SMALL, LARGE = min(SCALES), max(SCALES)
FARTHEST = 8  # of the lags that are read; the control where the own lag is 0


def main(argv: list[str] | None = None) -> None:
    parser = common_arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1200, help="of training; fewer for a quick look")
    args = parser.parse_args(argv)
    begin(args.out)
    table = pd.DataFrame([measured(run, *each) for each, run in runs(args.seeds, args.steps).items()])
    table.round(4).to_csv(args.out / "initial_scale.csv", index=False)
    verdicts = [form_verdict(table), carry_verdict(table), late_verdict(table)]
    written = [args.out / "initial_scale.csv", save_verdicts(verdicts, args.out / "initial_scale.json")]
    written.append(args.out / "initial_scale.png")
    draw(table).savefig(written[-1], dpi=110)
    show_files(written)


def runs(seeds: int, steps: int) -> dict[tuple[float, int], Run]:
    """By scale and seed, trained where they are not there yet."""
    recipes = {}
    for scale in SCALES:
        for seed in range(seeds):
            minute = load_recipe("minute", steps=steps, every=EVERY, seed=seed)
            plan = replace(minute.training, initial_scale=scale)
            recipes[f"scale-{scale}-{steps}-seed{seed}"] = replace(minute, training=plan)
    trained = train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())
    asked = [(scale, seed) for scale in SCALES for seed in range(seeds)]
    return dict(zip(asked, trained.values(), strict=True))


def measured(run: Run, scale: float, seed: int) -> dict[str, Any]:
    """What formed by the end of a run, when, and what is lost with the lag at which its heads look."""
    best = {step: looks(run.model(step))[0][1] for step in run.steps if step % EVERY == 0}
    model = run.model()
    heads, prompts = looks(model), asked(model)
    scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token"])
    (first, second), (head, value, lag) = scores.loss_by_copy[:2], heads[0]
    own = {each: each_lag for each, score, each_lag in heads if score >= LOOKS} or {head: lag}
    other = {each: -each_lag or FARTHEST for each, each_lag in own.items()}
    facts: dict[str, Any] = {
        "scale": scale, "seed": seed, "head": str(head), "displaced_induction": value, "lag": lag,
        "heads": " ".join(f"{each} {each_lag:+d}" for each, each_lag in own.items()),
        "prefix_matching": scores.top("prefix_matching", 1)[0][1],
        "previous_token": scores.top("previous_token", 1)[0][1],
        "first_copy": first, "second_copy": second,
        "formed": next((step for step, score in best.items() if score >= LOOKS), float("nan")), "steps": max(best),
    }  # fmt: skip
    for name, masked in (("own_lag", own), ("other_lag", other)):
        facts[name], facts[f"{name}_error"] = number_and_error(rise(model, prompts, masked))
    return facts


def asked(model: HookedModel) -> Prompts:
    return repeated_tokens(model, n_prompts=PROMPTS, period=PERIOD)


def looks(model: HookedModel) -> list[tuple[Head, float, int]]:
    """Heads above the first layer, with displaced induction and its lag; best first."""
    scores = score_heads(model, asked(model), scores=["displaced_induction", "induction_lag"])
    every = scores.top("displaced_induction", model.n_layers * model.n_heads)
    lags = scores["induction_lag"]
    return [(head, value, int(lags[head.layer, head.head])) for head, value in every if head.layer > 0]


def rise(model: HookedModel, prompts: Prompts, lags: Mapping[Head, int]) -> Tensor:
    """By how much the second copy's loss rises, a value a prompt, when heads cannot see the keys at their lag."""
    with masked_lags(model, lags, PERIOD):
        changed = second_copy(model, prompts)
    return changed - second_copy(model, prompts)


def second_copy(model: HookedModel, prompts: Prompts) -> Tensor:
    """Loss on the second copy's tokens from its second one on: the first repeats nothing that can be known."""
    logits = model.logits(prompts.tokens)[:, PERIOD + 1 : -1]
    right = prompts.tokens[:, PERIOD + 2 :]
    return -logits.log_softmax(-1).gather(-1, right[..., None].to(logits.device))[..., 0].mean(1).cpu()


@contextmanager
def masked_lags(model: HookedModel, lags: Mapping[Head, int], period: int) -> Iterator[None]:
    """Each head's queries in the second copy do not see the key `lag` tokens after their earlier occurrence."""

    def mask(scores: Tensor, hook: Any, *, head: int, lag: int) -> Tensor:
        query = torch.arange(period + 1, scores.shape[-2])
        key = query - period + lag
        keep = (key >= 0) & (key < query)
        scores[:, head, query[keep], key[keep]] = -torch.inf
        return scores

    network: Any = model.network
    points = []
    for head, lag in lags.items():
        points.append(network.blocks[head.layer].attn.hook_attn_scores)
        points[-1].add_hook(partial(mask, head=head.head, lag=lag))
    try:
        yield
    finally:
        for point in points:
            point.remove_hooks()


def told(row: Any) -> str:
    return (
        f"displaced induction {row['displaced_induction']:.2f} at lag {row['lag']:+d} ({row['head']}), prefix matching "
        f"at most {row['prefix_matching']:.2f}, second copy {row['second_copy']:.2f} nats"
    )


def named(row: Any) -> str:
    return f"deviation {SCALES[row['scale']]:g}, seed {row['seed']}"


def copies(row: Any) -> bool:
    """Whether a run has learnt to copy: heads of one that has not yet cannot be said to do it this way or that."""
    return row["second_copy"] < row["first_copy"] / 2


def unlearnt(rows: Any) -> str:
    late = [named(row) for row in rows if row["scale"] == LARGE and not copies(row)]
    return f"Copying is not learnt yet after {rows[0]['steps']} steps: {', '.join(late)}." if late else ""


def form_verdict(table: pd.DataFrame) -> Verdict:
    rows: Any = table.to_dict("records")
    large = {f"seed {row['seed']}": Effect(row["displaced_induction"]) for row in rows if row["scale"] == LARGE}
    return Verdict(
        claim="Where heads start with large weights, induction heads form as well, some of them displaced",
        source="seen here; Elhage et al. 2021 and Olsson et al. 2022 do not say",
        measured="heads of the second layer, by the attention around earlier occurrences at the lag (-8 to 8) that "
        f"they like best, after {rows[0]['steps']} steps; repeated blocks of {PERIOD} tokens, a length never trained "
        "on; lag +1 is prefix matching",
        criterion=f"displaced induction of the best head, over seeds of the largest scale, above {LOOKS}; not "
        "decided while a seed has not learnt to copy (loss on the second copy below half of that on the first)",
        numbers={named(row): told(row) for row in rows},
        control="the recipe's own scale, in the first rows",
        **judge(large, LOOKS, undecided=unlearnt(rows)),
    )


def carry_verdict(table: pd.DataFrame) -> Verdict:
    rows: Any = [row for row in table.to_dict("records") if row["displaced_induction"] >= LOOKS]
    effects, weak = {}, []
    for row in rows:
        fall = row["first_copy"] - row["second_copy"]
        if row["scale"] == LARGE:
            effects[f"seed {row['seed']}"] = Effect(row["own_lag"] / fall, row["own_lag_error"] / fall, PROMPTS)
            weak += [] if abs(row["other_lag"]) < SPARED * fall else [named(row)]
    return Verdict(
        claim="What these heads attend to at their own lag is what copying hangs on",
        source="seen here",
        measured="the keys at each head's own lag masked, for every head of the second layer with displaced induction "
        f"of {LOOKS} or more; rise of the second copy's loss",
        criterion=f"over seeds of the largest scale the rise is more than {CARRIES:.0%} of the fall from first to "
        "second copy",
        numbers={
            named(row): f"{row['heads']}: {row['own_lag']:+.2f} ± {row['own_lag_error']:.2f} of "
            f"{row['first_copy'] - row['second_copy']:.2f} nats"
            for row in rows
        }
        or {"–": "no head looks at any lag"},
        control="as many keys of the same heads, at the opposite lag: "
        + ("; ".join(f"{named(row)} {row['other_lag']:+.2f} ± {row['other_lag_error']:.2f}" for row in rows) or "none"),
        **judge(
            effects, CARRIES, unit="of the fall", undecided=f"Masking others matters in {', '.join(weak)}." * bool(weak)
        ),
    )


def late_verdict(table: pd.DataFrame) -> Verdict:
    rows: Any = table.to_dict("records")
    steps = {(row["scale"], row["seed"]): row["formed"] for row in rows}
    ends = {row["seed"]: row["steps"] for row in rows}

    def at_least(scale: float, seed: int) -> float:
        found = steps[scale, seed]
        return ends[seed] if found != found else found

    later = {f"seed {seed}": Effect(at_least(LARGE, seed) - at_least(SMALL, seed), EVERY / 12**0.5) for seed in ends}
    return Verdict(
        claim="Induction heads, at whatever lag, form later where heads start with large weights",
        source="seen here; Elhage et al. 2021 and Olsson et al. 2022 do not say",
        criterion=f"the best displaced induction reaches {LOOKS} at a later step than in the recipe, seed by seed; "
        "where it never does, the last step counts, which can only make it less late",
        numbers={
            f"seed {seed}": "; ".join(
                f"deviation {SCALES[scale]:g} "
                + (f"step {steps[scale, seed]:.0f}" if steps[scale, seed] == steps[scale, seed] else "never")
                for scale in SCALES
            )
            for seed in ends
        },
        control=f"the recipe's own scale, same seeds and batches; evaluations are {EVERY} steps apart",
        **judge(later, 0.0, unit="steps"),
    )


def draw(table: pd.DataFrame) -> Figure:
    """Each run's best head, read at lag +1 and at its own; and what is lost with that lag."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    every: Any = table
    for i, (_, rows) in enumerate(every.groupby("scale")):
        x = i + 0.12 * (rows["seed"] - rows["seed"].mean())
        first = i == 0
        axes[0].plot(x, rows["prefix_matching"], "o", color="#8d99ae", label="at lag +1" if first else None)
        axes[0].plot(x, rows["displaced_induction"], "o", color="#d1495b", label="at its own lag" if first else None)
        for at, value, lag in zip(x, rows["displaced_induction"], rows["lag"], strict=True):
            how = {"xytext": (0, 5), "textcoords": "offset points", "ha": "center", "fontsize": 7}
            axes[0].annotate(f"{lag:+d}", (at, value), **how)
        fall = rows["first_copy"] - rows["second_copy"]
        for name, colour, label in (("own_lag", "#d1495b", "own lag masked"), ("other_lag", "#8d99ae", "opposite lag")):
            errors = rows[f"{name}_error"] / fall
            axes[1].errorbar(x, rows[name] / fall, errors, fmt="o", color=colour, label=label if first else None)
    axes[0].set(ylabel="attention of the best head", ylim=(0, 1.08))
    axes[1].set(ylabel="rise of the second copy's loss,\nof the fall between copies")
    for ax in axes:
        ax.set_xticks(range(len(SCALES)), [f"{SCALES[scale]:g}" for scale in SCALES])
        ax.set_xlabel("standard deviation of initial weights")
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
