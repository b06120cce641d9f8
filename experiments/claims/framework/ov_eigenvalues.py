"""Do the weights of induction heads copy, and match prefixes, whatever the tokens?

    python -m experiments ov_eigenvalues

For small models trained here (three kinds of data, five seeds each), the bundled model, SmolLM2 and Gemma 3 270M:
eigenvalues of the output circuits, of the query circuits against previous-token keys, and the share of tokens whose
query is matched best by their own key. Writes to figures/: ov_eigenvalues.csv (every head), ov_eigenvalues.json
(verdicts), ov_eigenvalues_planes_MODEL.png (the complex plane), ov_eigenvalues_corner.png (both shares of every head),
ov_eigenvalues_distance.png (matching and positional preference by distance). About 4 minutes on 2 CPU cores, and 10
more to train the small models once.
"""

from __future__ import annotations

import argparse
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.harness import begin, common_arguments, show_files
from experiments.judging import Effect, effect, judge
from experiments.subjects.induction_models import NAMED
from experiments.subjects.small_models import SEEDS, small_models
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HeadScores,
    HookedModel,
    load_model,
    ov_copying,
    ov_eigenvalues,
    positional_preference,
    qk_diagonal,
    qk_matching,
    repeated_tokens,
    score_heads,
    stream_rows,
)
from induction_lab.plots.circuits import plot_eigenvalue_grid

INDUCTION = 0.4  # prefix matching from which a head counts as an induction head
CORNER = 0.9  # of the claims
CLAIMS = {
    "ov_copying": "The OV circuits of induction heads copy: their eigenvalues are positive",
    "qk_matching": "Through the previous-token heads the QK circuits of induction heads match: so are theirs",
    "qk_diagonal": "Through the previous-token heads an induction head's query is matched best by its own token",
}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    small = small_models(args.seeds)
    named = [load_model(name) for name in args.models]
    control = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(), seed=99), name="random weights")
    table = pd.concat([read_heads(model) for model in (*small, *named, control)], ignore_index=True)
    table.round(5).to_csv(args.out / "ov_eigenvalues.csv", index=False)
    written = [args.out / "ov_eigenvalues.csv", save_verdicts(verdicts(table), args.out / "ov_eigenvalues.json")]
    figures = {"corner": draw_corner(table), "distance": draw_distance(named)}
    for model in named:
        heads = table.loc[table["model"] == model.name].sort_values(by="prefix_matching", ascending=False).head(12)
        title = f"{model.name}: eigenvalues of the output circuits, best prefix matching first; share of copying"
        figures[f"planes_{model.name}"] = plot_eigenvalue_grid(ov_eigenvalues(model), list(heads["head"]), title=title)
    for name, figure in figures.items():
        written.append(args.out / f"ov_eigenvalues_{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def looks(model: HookedModel) -> tuple[HeadScores, int]:
    """Where heads look on repeated tokens, and the distance at which induction heads look there."""
    period = 20 if (model.n_ctx or 0) < 101 else 50
    prompts = repeated_tokens(model, period=period)
    return score_heads(model, prompts, scores=["previous_token", "prefix_matching"], loss=False), period - 1


def read_heads(model: HookedModel) -> pd.DataFrame:
    scores, offset = looks(model)
    previous = scores["previous_token"]
    columns = {
        "previous_token": previous,
        "prefix_matching": scores["prefix_matching"],
        "ov_copying": ov_copying(model),
        "qk_matching": qk_matching(model, previous, offset=offset),
        "qk_diagonal": qk_diagonal(model, previous, offset=offset),
    }
    layer, head = (torch.arange(n) for n in previous.shape)
    names = [f"L{i}H{j}" for i in layer.tolist() for j in head.tolist()]
    flat = {name: values.flatten().numpy() for name, values in columns.items()}
    return pd.DataFrame({"model": model.name, "head": names, **flat})


def verdicts(table: pd.DataFrame) -> list[Verdict]:
    """Copying values, matching keys, and each token matched best by itself."""
    heads = table[table["prefix_matching"] > INDUCTION]
    others = table[(table["prefix_matching"] <= INDUCTION) & (table["model"] != "random weights")]
    random = table[table["model"] == "random weights"]
    told: dict[str, dict[str, str]] = {name: {} for name in CLAIMS}
    effects: dict[str, dict[str, Effect]] = {name: {} for name in CLAIMS}
    without = [name for name in dict.fromkeys(others["model"]) if name not in set(heads["model"])]
    for name, rows in heads.groupby("model", sort=False):
        for column in CLAIMS:
            values = rows[column]
            told[column][str(name)] = (
                f"{(values > CORNER).sum()} of {len(rows)} induction heads above {CORNER}: {values.min():.2f} … "
                f"{values.max():.2f}"
            )
            effects[column][str(name)] = effect(values.tolist())
    best = {name: rows["prefix_matching"].max() for name, rows in others.groupby("model")}
    missing = {str(name): f"no induction head (best prefix_matching {best[name]:.2f}): not read" for name in without}
    return [
        Verdict(
            claim=claim,
            source="Elhage et al. 2021",
            criterion=f"{column} of the heads with prefix_matching > {INDUCTION}, in the mean of a model, is above "
            f"{CORNER}",
            numbers=told[column] | missing,
            control=f"means of other heads: {_means(others)}; of random weights: {_means(random)}",
            **judge(effects[column], CORNER),
        )
        for column, claim in CLAIMS.items()
    ]


def _means(rows: Any) -> str:
    read = rows[rows["qk_matching"] != 0]
    means = f"ov_copying {rows['ov_copying'].mean():+.2f}, qk_matching {read['qk_matching'].mean():+.2f}"
    return f"{means}, qk_diagonal {read['qk_diagonal'].mean():.3f}"


def draw_corner(table: pd.DataFrame) -> Figure:
    """Every head that has an earlier layer to read: how it matches against how it copies."""
    kinds = {"small models": table["model"].str.startswith(("repeats", "scattered", "tiled"))}
    kinds |= {str(name): table["model"] == name for name in dict.fromkeys(table["model"][~kinds["small models"]])}
    figure, axes = plt.subplots(1, len(kinds), figsize=(3.1 * len(kinds), 3.3), layout="constrained", sharey=True)
    for ax, (name, chosen) in zip(axes, kinds.items(), strict=True):
        rows = table[chosen & (table["qk_matching"] != 0)]
        dots = ax.scatter(
            rows["ov_copying"], rows["qk_matching"], c=rows["prefix_matching"], s=16, vmin=0, vmax=1, cmap="viridis"
        )
        ax.axvline(CORNER, color="#d1495b", lw=0.8, ls="--")
        ax.axhline(CORNER, color="#d1495b", lw=0.8, ls="--")
        ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), xlabel="ov_copying", title=name)
    axes[0].set_ylabel("qk_matching")
    figure.colorbar(dots, ax=axes, label="prefix_matching")
    return figure


def draw_distance(models: list[HookedModel]) -> Figure:
    """By the distance between query and key: matching of induction heads, mean score of previous-token heads."""
    figure, axes = plt.subplots(len(models), 2, figsize=(10, 2.9 * len(models)), layout="constrained", squeeze=False)
    for (left, right), model in zip(axes, models, strict=True):
        scores, _ = looks(model)
        rows = stream_rows(model)
        distances = [1, 2, 4, 8, 16, 32, 64, *([128, 256, 512, 1024] if (model.n_ctx or 0) > 1024 else [100])]
        shares = torch.stack([qk_matching(model, scores["previous_token"], offset=d, source=rows) for d in distances])
        for head in scores.above("prefix_matching", INDUCTION)[:8]:
            left.plot(distances, shares[:, head.layer, head.head], "o-", ms=3, lw=1, label=str(head))
        left.set(xscale="log", ylim=(-1.05, 1.05), ylabel="qk_matching", title=f"{model.name}: induction heads")
        near = range(0, 21)
        preference = positional_preference(model, near, source=rows)
        for head in scores.above("previous_token", INDUCTION)[:8]:
            line, value = preference[:, head.layer, head.head], float(scores["previous_token"][head])
            right.plot(near, line - line.max(), "o-", ms=3, lw=1, label=f"{head} ({value:.2f})")
        right.set(ylabel="mean score less its maximum, nats", title="previous-token heads (their previous_token)")
        for ax in (left, right):
            ax.set_xlabel("distance from query back to key, tokens")
            ax.legend(frameon=False, fontsize=7)
            ax.spines[["top", "right"]].set_visible(False)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="*", default=NAMED, help="besides the small ones")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="small models of each kind")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
