"""What do models of no, one and two layers say? Bigrams, skip-trigrams, and a sum over paths.

    python -m experiments skip_trigrams

Models of no and one layer are trained here on the sources of Python's standard library (1,024 byte-pair tokens, no
LayerNorm, so that the weights are the whole story); those of two layers are the bundled one and the circuit written by
hand. Writes to figures/: skip_trigrams.csv (the strongest of every head of the one-layer model,
with what the text says of them), skip_trigrams.json (verdicts), skip_trigrams_bigrams.png, skip_trigrams_lift.png,
skip_trigrams_paths.png. About 1 minute on 2 CPU cores, and 3 more to train the two models once.
"""

from __future__ import annotations

import argparse
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.harness import begin, common_arguments, show_files, show_line
from experiments.judging import by_construction, effect, judge
from experiments.subjects.small_models import TEXT_VOCABULARY, text_model
from experiments.verdicts import Verdict, outcome, save_verdicts
from induction_lab import (
    HookedModel,
    bigram_logits,
    expand_paths,
    induction_circuit,
    load_model,
    repeated_tokens,
    skip_trigrams,
)
from induction_lab.data.corpora import TextFiles
from induction_lab.plots.style import printable
from induction_lab.results.token_labels import token_labels
from induction_lab.weights.ngrams import bigram_counts, bigram_divergence

NEAR = 48  # tokens back in which a source is looked for
PER_HEAD, COMMON = 25, 400  # skip-trigrams of each head, among the commonest tokens
EXPECTED = 3  # times that out must be expected to follow where source and destination meet, for it to say anything


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    text = TextFiles(d_vocab=TEXT_VOCABULARY).open(progress=sys.stderr.isatty())
    tokens = torch.from_numpy(text.train.astype(np.int64))
    zero, one = (text_model(n, steps=args.steps) for n in (0, 1))
    counts = bigram_counts(tokens, text.d_vocab)
    common = counts.sum(1).topk(COMMON).indices
    table = pd.concat([trigrams(one, head, common) for head in range(one.n_heads)], ignore_index=True)
    table["lift"] = lifts(tokens, table)
    table["exchanged_lift"] = lifts(tokens, table.assign(out=np.random.default_rng(0).permutation(table["out"])))
    table = table.sort_values("strength", ascending=False, ignore_index=True)
    table.round(4).to_csv(args.out / "skip_trigrams.csv", index=False)
    for row in table.head(12).to_dict("records"):
        show_line(f"{row['head']}  {row['text']:36s} strength {row['strength']:5.2f}  lift ×{np.exp(row['lift']):.1f}")
    two = [HookedModel(induction_circuit(), name="the circuit written by hand"), load_model()]
    paths = {model.name: attributions(model) for model in two}
    found = [bigram_verdict(zero, counts), trigram_verdict(table), path_verdict([one, *two])]
    written = [args.out / "skip_trigrams.csv", save_verdicts(found, args.out / "skip_trigrams.json")]
    for name, figure in {
        "bigrams": draw_bigrams(zero, counts),
        "lift": draw_lift(table),
        "paths": draw_paths(paths),
    }.items():
        written.append(args.out / f"skip_trigrams_{name}.png")
        figure.savefig(written[-1], dpi=110)
    show_files(written)


def trigrams(model: HookedModel, head: int, common: torch.Tensor) -> pd.DataFrame:
    """Averaged over the distances at which the text is searched."""
    found = skip_trigrams(model, (0, head), n=PER_HEAD, offset=range(1, NEAR + 1), per_source=2, among=common)
    return found.assign(head=f"L0H{head}")


def lifts(tokens: torch.Tensor, table: pd.DataFrame) -> list[float]:
    """How much likelier `out` is after `destination` where `source` came within `NEAR` tokens before: log of the ratio.

    To the likelihood p after `destination` anywhere: of n meetings of source and destination out follows in k, and the
    lift is `log((k + 1/2) / (n p + 1/2))`, near 0 by chance however few are expected. NaN where fewer than `EXPECTED`
    are: none would then say as little as one.
    """
    result = []
    for source, destination, out in table[["source", "destination", "out"]].itertuples(index=False):
        at = (tokens[NEAR:-1] == destination).nonzero()[:, 0] + NEAR
        follows = tokens[at + 1] == out
        window = tokens[at[:, None] - torch.arange(1, NEAR + 1)]
        with_source = (window == source).any(1)
        expected = float(with_source.sum()) * float(follows.sum()) / max(1, len(at))
        seen = float((follows & with_source).sum())
        result.append(float(np.log((seen + 0.5) / (expected + 0.5))) if expected >= EXPECTED else float("nan"))
    return result


def attributions(model: HookedModel) -> pd.DataFrame:
    period = 20 if (model.n_ctx or 0) < 101 else 50
    return expand_paths(model, repeated_tokens(model, period=period, n_prompts=8)).attribution()


def bigram_verdict(model: HookedModel, counts: torch.Tensor) -> Verdict:
    own, unigram = bigram_divergence(counts, bigram_logits(model))
    return Verdict(
        claim="A model without layers learns the bigrams of its text: W_E W_U is their table",
        source="Elhage et al. 2021",
        criterion="KL(text | model) below a tenth of what ignoring the token before costs",
        numbers={model.name: f"KL {own:.3f} nats a token; ignoring the token before costs {unigram:.3f}"},
        control=f"a model that knows only how often tokens are: {unigram:.3f} nats",
        **outcome({model.name: own < 0.1 * unigram}),
    )


def trigram_verdict(table: pd.DataFrame) -> Verdict:
    lift, exchanged = (table[name].dropna().to_numpy() for name in ("lift", "exchanged_lift"))
    share, control = (float((found > 0).mean()) if len(found) else float("nan") for found in (lift, exchanged))
    return Verdict(
        claim="A one-layer model holds skip-trigrams `source … destination → out` that can be read off its weights",
        source="Elhage et al. 2021",
        criterion=f"in the text, out follows the destination more often where the source came up to {NEAR} tokens "
        f"before, for more than 9 in 10 of the {PER_HEAD} strongest of each head among the {COMMON} commonest tokens",
        numbers={
            f"{len(lift)} of {len(table)} whose out is expected {EXPECTED} times or more": f"{share:.0%} lifted; "
            f"median ×{np.exp(np.median(lift)):.1f}"
        }
        if len(lift)
        else {"–": f"no out is expected {EXPECTED} times"},
        control=f"the same with outs exchanged among them: {control:.0%}; median ×{np.exp(np.median(exchanged)):.2f}",
        **judge({"text-1l": effect((lift > 0).tolist())} if len(lift) else {}, 0.9, unit="of skip-trigrams lifted"),
        caveat="The commonest tokens were chosen after a first look at all, whose strongest pairs hardly ever meet. "
        "One head is one part of what the model says: other heads and the direct path can outweigh it.",
    )


def path_verdict(models: list[HookedModel]) -> Verdict:
    numbers, passed, left_out = {}, {}, []
    for model in models:
        prompts = repeated_tokens(model, period=20, n_prompts=4)
        terms, logits = expand_paths(model, prompts), model.logits(prompts.tokens)
        largest = logits.abs().max()
        error = float((terms.total() - logits).abs().max() / largest)
        least = min(float((terms[path] - terms[path].mean(-1, keepdim=True)).abs().max() / largest) for path in terms)
        left_out.append(f"{model.name} {least:.1e}")
        numbers[model.name] = f"{len(terms)} paths, largest error {error:.1e} of the largest logit"
        passed[model.name] = error < 1e-5
    return Verdict(
        claim="An attention-only model is the sum of its paths: direct, through each head, through each virtual head",
        source="Elhage et al. 2021",
        criterion="with patterns and norms held, the paths add up to the logits within 1e-5 of the largest",
        numbers=numbers,
        control=f"leaving out the weakest path moves a logit by, of the largest: {', '.join(left_out)}",
        **by_construction(passed),
    )


def draw_bigrams(model: HookedModel, counts: torch.Tensor) -> Figure:
    """Log-probabilities of the commonest tokens' bigrams, in the text and in the model."""
    seen = counts.sum(1).topk(30).indices
    text = ((counts + 1e-3) / (counts + 1e-3).sum(1, keepdim=True)).log()
    tables = {"the text": text, "W_E W_U": bigram_logits(model).log_softmax(-1)}
    names = [printable(*token_labels(model.tokenizer, [int(token)])) for token in seen]
    figure, axes = plt.subplots(1, 3, figsize=(14, 4.6), layout="constrained")
    for ax, (title, table) in zip(axes, tables.items(), strict=False):
        image = ax.imshow(table[seen][:, seen].numpy(), vmin=-12, vmax=0, cmap="viridis")
        ax.set_xticks(range(len(seen)), names, rotation=90, fontsize=6)
        ax.set_yticks(range(len(seen)), names, fontsize=6)
        ax.set(title=title, xlabel="next token", ylabel="token")
    figure.colorbar(image, ax=axes[1], label="log-probability")
    often = counts > 50
    axes[2].plot(text[often], tables["W_E W_U"][often], ".", ms=1.5, alpha=0.3, color="#2a6f97")
    axes[2].plot([-9, 0], [-9, 0], color="#222222", lw=0.8)
    axes[2].set(xlabel="log-probability in the text", ylabel="in the model", title="bigrams seen more than 50 times")
    axes[2].spines[["top", "right"]].set_visible(False)
    return figure


def draw_lift(table: pd.DataFrame) -> Figure:
    """The strongest by name, and all lifts against those of exchanged outs."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained", width_ratios=[1.3, 1])
    best = table.drop_duplicates(["source", "out"]).head(18).iloc[::-1]
    left.barh(best["head"] + "  " + best["text"], best["strength"], color="#2a6f97")
    left.tick_params(axis="y", labelsize=7)
    left.set(xlabel="strength: logits added to out", title="source … destination → out")
    bins = np.linspace(-6, 8, 40)
    right.hist(table["lift"].dropna(), bins, color="#d1495b", alpha=0.8, label="read off the weights")
    right.hist(table["exchanged_lift"].dropna(), bins, color="#8d99ae", alpha=0.6, label="outs exchanged")
    right.axvline(0, color="#222222", lw=0.8)
    right.set(xlabel="lift in the text, log", ylabel="skip-trigrams")
    right.legend(frameon=False, fontsize=8)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def draw_paths(tables: dict[str, pd.DataFrame]) -> Figure:
    """The strongest paths to the right next token on repeated random tokens."""
    figure, axes = plt.subplots(1, len(tables), figsize=(5.2 * len(tables), 4.2), layout="constrained")
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        shown = table.iloc[np.argsort(-table["logits"].abs().to_numpy())[:14][::-1]]
        colours = [("#8d99ae", "#2a6f97", "#d1495b")[min(heads, 2)] for heads in shown["heads"]]
        ax.barh(shown["path"], shown["logits"], xerr=shown["standard_error"], color=colours)
        ax.tick_params(axis="y", labelsize=7)
        ax.set(xlabel="logits to the right next token", title=f"{name}: one head blue, virtual heads red")
        ax.title.set_fontsize(9)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--steps", type=int, default=1500, help="of the models' training")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
