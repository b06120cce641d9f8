"""What is looked for, and what is known, at which depth?

    python -m experiments layers

By layer: which kinds of heads stand where (on repeated tokens), how far heads look and how much they rest (on prose),
and when the next token can be read off the stream (logit lens), by kind of token: inside a word, function words, fixed
phrases, repeats in the context, facts, inferences, other words (experiments/essay/texts.toml, marked by hand). A token
settles in the first layer from which on it stays among the best 11; tokens that never do are left out. The lens reads
shallow layers poorly, and frequent tokens well wherever they stand: both are in what it says. (A first run counted the
function words of a phrase as the phrase, which put phrases in layer 19.8; the criteria are as they were.)
Writes to figures/: layers.csv, layers.json (verdicts), layers.png. 3 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from experiments.essay.layers.settling import DRAWS, RANK, Tokens, alike, means, resampled, settles, shuffled, sums
from experiments.essay.prose import FACT, INFERENCE, INSIDE, KINDS, NONE, OTHER, PHRASE, TEXTS, as_tokens, read_prose
from experiments.harness import begin, common_arguments, show_files
from experiments.verdicts import Verdict, outcome, save_verdicts
from induction_lab import HookedModel, Prompts, attention_spread, load_model, repeated_tokens, score_heads
from induction_lab.attribution.lens import read_layers

LOOKS = 0.4  # what people call an induction head, or a previous-token head
LOWER = 0.1  # of the depth by which one kind must lie below another
FARTHER = 0.5  # rank correlation of layer and distance
SHALLOW = 1 / 3  # of the depth
HEADS = {"previous_token": "#2a6f97", "duplicate_token": "#e09f3e", "prefix_matching": "#d1495b", "resting": "#8d99ae"}
COLOURS = dict(zip(KINDS, ("#2a6f97", "#8d99ae", "#e09f3e", "#3b8b5d", "#222222", "#7b4ea3", "#d1495b"), strict=True))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    passages = read_prose(args.texts)
    model = load_model(args.model)
    prompts, kinds = as_tokens(model, passages)
    by_head = looks(model, prompts, seed=args.seed)
    lens, tokens = read(model, prompts, kinds)
    rng = np.random.default_rng(args.seed)
    settled = by_kind(tokens, len(prompts), rng)
    begin(args.out)
    table = pd.concat([by_head, lens, settled], ignore_index=True).assign(model=model.name)
    table.round(5).to_csv(args.out / "layers.csv", index=False)
    found = [order_of_heads(model, by_head, rng), reach(model, by_head, rng)]
    found += [order_of_kinds(model, tokens, len(prompts), claim, rng) for claim in CLAIMS]
    draw(model, table, found).savefig(args.out / "layers.png", dpi=110)
    written = save_verdicts(found, args.out / "layers.json")
    show_files([written, args.out / "layers.csv", args.out / "layers.png"])


def looks(model: HookedModel, prose: Prompts, *, seed: int) -> pd.DataFrame:
    """Scores of every head on repeated tokens, and its spread on prose."""
    period = 20 if (model.n_ctx or 101) < 101 else 50
    repeated = repeated_tokens(model, n_prompts=8, period=period, seed=seed)
    scores: Any = score_heads(model, repeated, scores=list(HEADS), loss=False, progress=sys.stderr.isatty())
    scores = scores.to_dataframe()
    scores = scores.rename(columns={"score": "quantity", "mean": "value"})
    spread: Any = attention_spread(model, prose, progress=sys.stderr.isatty())
    keep = ["layer", "head", "quantity", "value", "standard_error"]
    parts = [scores[keep].assign(prompts="repeated"), spread[keep].assign(prompts="prose")]
    return pd.concat(parts, ignore_index=True).assign(part="head")


def read(model: HookedModel, prompts: Prompts, kinds: np.ndarray) -> tuple[pd.DataFrame, Tokens]:
    """Median rank and mean log-probability by layer and kind; and where each token settles."""
    found = read_layers(model, prompts, progress=sys.stderr.isatty())
    at = kinds != NONE
    rank, log_p = found.rank.numpy()[:, at], found.log_probability.numpy()[:, at]
    kind, rows = kinds[at], []
    for index, name in enumerate(KINDS):
        own = kind == index
        for layer in range(-1, model.n_layers) if own.any() else ():
            here, numbers = log_p[layer + 1, own], {"part": "lens", "kind": name, "layer": layer, "n": int(own.sum())}
            error = here.std() / len(here) ** 0.5
            rows.append(numbers | {"quantity": "rank (median)", "value": float(np.median(rank[layer + 1, own]))})
            rows.append(numbers | {"quantity": "log_probability", "value": here.mean(), "standard_error": error})
    settled = settles(rank)
    known = settled >= -1
    third = np.digitize(log_p[-1], np.quantile(log_p[-1, known], [1 / 3, 2 / 3]))
    text = np.broadcast_to(np.arange(len(prompts))[:, None], kinds.shape)[at]
    return pd.DataFrame(rows), Tokens(*(x[known] for x in (text, kind, settled, third)))


def by_kind(tokens: Tokens, n_texts: int, rng: np.random.Generator) -> pd.DataFrame:
    """Mean settling layer of each kind with its bootstrap error over texts."""
    made = sums(tokens, n_texts)
    mean, draws, count = means(made.sum(1)), means(resampled(made, rng)), made[1].sum((0, 2))
    rows = [
        {"kind": name, "value": mean[i], "standard_error": np.nanstd(draws[:, i]), "n": int(count[i])}
        for i, name in enumerate(KINDS)
        if count[i]
    ]
    return pd.DataFrame(rows).assign(part="settling", quantity="settling layer")


def order_of_heads(model: HookedModel, by_head: pd.DataFrame, rng: np.random.Generator) -> Verdict:
    """Do heads that match tokens and positions stand below those that complete patterns?"""
    scored: Any = by_head[by_head["prompts"] == "repeated"]
    where = {
        name: scored[(scored["quantity"] == name) & (scored["value"] >= LOOKS)]["layer"].to_numpy()
        for name in ("previous_token", "duplicate_token", "prefix_matching")
    }
    numbers, passed, control = {}, {}, []
    for name, layers in where.items():
        numbers[name] = f"{len(layers)} heads" + (f", mean layer {layers.mean():.1f}" if len(layers) else "")
    upper = where.pop("prefix_matching")
    for name, lower in where.items():
        if len(lower) and len(upper):
            gap, every = upper.mean() - lower.mean(), np.concatenate([lower, upper])
            mixed = [rng.permutation(every) for _ in range(DRAWS)]
            chance = np.array([one[len(lower) :].mean() - one[: len(lower)].mean() for one in mixed])
            p = float((chance >= gap - 1e-9).mean())
            numbers[f"{name} below induction"] = f"{gap:.1f} of {model.n_layers} layers, p = {p:.3f}"
            passed[name] = bool(gap >= LOWER * model.n_layers and p < 0.05)
            control.append(f"{name} up to {np.quantile(chance, 0.95):.1f} layers (95 % of shuffles)")
    return Verdict(
        claim="Shallow blocks look for form: previous-token and duplicate-token heads sit below induction heads",
        source="essay §4",
        measured=f"mean layer of the heads that score at least {LOOKS} on repeated random tokens, {model.name}",
        criterion=f"both kinds lie lower by at least {LOWER:.0%} of the depth, p < 0.05 in a permutation test",
        numbers=numbers,
        control="labels shuffled among these heads: " + ("; ".join(control) or "no such heads"),
        **outcome(passed),
    )


def correlation(x: Any, y: Any) -> float:
    """Spearman's."""
    found: Any = spearmanr(x, y)
    return float(found.statistic)


def reach(model: HookedModel, by_head: pd.DataFrame, rng: np.random.Generator) -> Verdict:
    """Do deeper layers look farther?"""
    by_layer: Any = by_head[by_head["quantity"] == "distance_past_first"].groupby("layer")["value"].mean()
    first: Any = by_head[by_head["quantity"] == "first"].groupby("layer")["value"].mean()
    layers = by_layer.index.to_numpy()
    rho = correlation(layers, by_layer) if len(layers) > 2 else np.nan
    chance = np.array([correlation(rng.permutation(layers), by_layer) for _ in range(DRAWS)])
    p = float((chance >= rho).mean())
    third = max(1, len(layers) // 3)
    parts = {"lowest third": slice(None, third), "middle": slice(third, -third), "highest third": slice(-third, None)}
    numbers = {
        f"{name} of the layers": f"{by_layer.iloc[part].mean():.1f} tokens, {first.iloc[part].mean():.0%} rests on BOS"
        for name, part in parts.items()
        if len(by_layer.iloc[part])
    }
    return Verdict(
        claim="Shallow blocks look nearby, deep ones at the whole context",
        source="essay §4",
        measured=f"attention distance on prose of what does not rest on BOS, mean of a layer's heads, {model.name}",
        criterion=f"rank correlation of layer and distance at least {FARTHER}, p < 0.05",
        numbers={"rank correlation": f"rank correlation {rho:.2f}, p = {p:.3f}"} | numbers,
        control=f"layers shuffled: 95 % of correlations below {np.quantile(chance, 0.95):.2f}",
        **outcome({model.name: bool(rho >= FARTHER and p < 0.05)}),
    )


CLAIMS = {
    "Form is settled low: the rest of a word is known at a lower layer than other words": [(INSIDE, OTHER)],
    "San → Francisco is the business of shallow blocks": [(PHRASE, OTHER)],
    "From form over facts to logic: what is inferred settles above facts, facts above form": [
        (INSIDE, FACT),
        (FACT, INFERENCE),
    ],
}


def order_of_kinds(model: HookedModel, tokens: Tokens, n_texts: int, claim: str, rng: np.random.Generator) -> Verdict:
    """Does one kind of token settle below another?"""
    made, numbers, passed, control = sums(tokens, n_texts), {}, {}, []
    mean, draws = means(made.sum(1)), resampled(made, rng)
    shallow = "shallow" in claim
    needed = LOWER * model.n_layers if len(CLAIMS[claim]) == 1 else 0.0
    for low, high in CLAIMS[claim]:
        i, j = KINDS.index(low), KINDS.index(high)
        gap, spread = mean[j] - mean[i], means(draws)[:, j] - means(draws)[:, i]
        bounds = np.nanquantile(spread, [0.025, 0.975])
        chance = shuffled(tokens, i, j, n_texts, rng)
        equal = alike(made.sum(1), i, j)
        numbers[low] = f"settles in layer {mean[i]:.1f} ({int(made[1].sum((0, 2))[i])} tokens)"
        numbers[high] = f"settles in layer {mean[j]:.1f} ({int(made[1].sum((0, 2))[j])} tokens)"
        name = f"{low} below {high}"
        numbers[name] = f"{gap:+.1f} layers, 95 % interval {bounds[0]:+.1f} … {bounds[1]:+.1f}"
        passed[name] = bool(gap >= needed and bounds[0] > 0)
        control.append(
            f"{name}: kinds shuffled within texts at most {np.nanquantile(chance, 0.975):+.1f} layers (97.5 %), "
            f"among tokens equally likely at the end {equal:+.1f} ± {np.nanstd(alike(draws, i, j)):.1f}"
        )
        if shallow:
            passed[f"{low} within the lowest third"] = bool(mean[i] < SHALLOW * model.n_layers)
    least = f"by at least {LOWER:.0%} of the depth, " if needed else ""
    return Verdict(
        claim=claim,
        source="essay §4",
        measured=f"the first layer from which on the logit lens holds at most {RANK} tokens likelier than the right "
        f"one, mean over tokens of which that is true in the end; {n_texts} texts, {model.name}",
        criterion=f"lower {least}the 95 % bootstrap interval over texts above 0"
        + (f"; and within the lowest third of the {model.n_layers} layers" if shallow else ""),
        numbers=numbers,
        control="; ".join(control),
        **outcome(passed),
    )


def draw(model: HookedModel, table: Any, found: list[Verdict]) -> Figure:
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    _draw_heads(axes[0, 0], table[table["part"] == "head"])
    _draw_reach(axes[0, 1], table[table["part"] == "head"], found[1])
    lens, settled = table[table["part"] == "lens"], table[table["part"] == "settling"].sort_values("value")
    for kind in KINDS:
        rows = lens[(lens["kind"] == kind) & (lens["quantity"] == "rank (median)")]
        axes[1, 0].plot(rows["layer"], rows["value"] + 1, color=COLOURS[kind], label=kind)
    axes[1, 0].axhline(RANK + 1, color="0.8", lw=0.8)
    axes[1, 0].set(yscale="log", xlabel="layer", ylabel="place of the right token (1: best), median")
    axes[1, 0].set_title("Read off the stream, by kind of token", fontsize=10)
    axes[1, 0].legend(frameon=False, fontsize=8)
    y = np.arange(len(settled))
    errors = 1.96 * settled["standard_error"]
    axes[1, 1].barh(y, settled["value"], xerr=errors, color=[COLOURS[kind] for kind in settled["kind"]], ecolor="0.4")
    axes[1, 1].set_yticks(y, [f"{row.kind} ({int(row.n)})" for row in settled.itertuples()])
    first, last = settled.iloc[0], settled.iloc[-1]
    title = f"Settles: {first['kind']} L{first['value']:.0f} … {last['kind']} L{last['value']:.0f}"
    axes[1, 1].set_title(title, fontsize=10)
    axes[1, 1].set(xlabel="settles in layer (mean, 95 % interval)", xlim=(0, model.n_layers))
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{model.name}: what is looked for, and what is known, by layer", fontsize=12)
    return figure


def _draw_heads(ax: Any, heads: Any) -> None:
    """The best head of each kind by layer."""
    strongest = {}
    for name, colour in HEADS.items():
        best = heads[(heads["quantity"] == name)].groupby("layer")["value"].max()
        label = {"prefix_matching": "induction"}.get(name, name.replace("_", " "))
        ax.plot(best.index, best, color=colour, label=label, marker="o", ms=3, lw=0 if name == "resting" else 1.2)
        strongest[label] = int(best.idxmax())
    title = ", ".join(f"{name} L{layer}" for name, layer in strongest.items() if name != "resting")
    ax.set(xlabel="layer", ylabel="score of the layer's best head", ylim=(0, 1.02))
    ax.set_title(f"Strongest: {title}", fontsize=10)
    ax.legend(frameon=False, fontsize=8)


def _draw_reach(ax: Any, heads: Any, told: Verdict) -> None:
    rows = heads[heads["quantity"] == "distance_past_first"]
    mean = rows.groupby("layer")["value"].mean()
    ax.scatter(rows["layer"], rows["value"], s=8, color="#8d99ae", label="a head")
    ax.plot(mean.index, mean, color="#2a6f97", label="mean of the layer")
    ax.set(xlabel="layer", ylabel="distance of what is read, tokens", ylim=(0, None))
    rests = heads[heads["quantity"] == "first"].groupby("layer")["value"].mean()
    other = ax.twinx()
    other.plot(rests.index, rests, color="#e09f3e", ls="--", label="rests on BOS (right)")
    other.set(ylabel="attention on BOS", ylim=(0, 1))
    other.spines["top"].set_visible(False)
    ax.set_title(f"Distance against depth: {told.numbers['rank correlation']}", fontsize=10)
    lines = [part for each in (ax, other) for part in each.get_legend_handles_labels()[0]]
    ax.legend(handles=lines, frameon=False, fontsize=8, loc="upper left")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="any causal model that reads text")
    parser.add_argument("--texts", type=Path, default=TEXTS, help="prose with marks, see experiments/essay/texts.toml")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
