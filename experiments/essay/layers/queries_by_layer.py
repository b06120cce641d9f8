"""What do queries ask, by layer: do scores go by place and token in shallow layers, and by deeper streams above?

    python -m experiments queries_by_layer

On prose, every head's scores before the softmax, between each token and the earlier ones (BOS apart), less each query's
mean, which changes no weight. How much of their variance goes with the distance alone; with the key's token alone; with
the scores that the head would give had each token been read by itself (after the same neutral words), or with no more
than the three before it; and with those that it would give if its queries alone, or its keys alone, were made of the
stream of a lower layer? Squared correlations; distance and token are fitted on half of the passages and read on the
others. Writes to figures/: queries_by_layer.csv,
queries_by_layer.json (verdicts), queries_by_layer.png. 2 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.senses import NEUTRAL
from experiments.essay.of_models import names, on_models
from experiments.essay.prose import as_tokens, read_prose
from experiments.judging import effect, judge
from experiments.verdicts import Verdict
from induction_lab import HookedModel, capture
from induction_lab.attention.exact import Attention
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.runtime.progress import progress_bar

LENGTH, FIRST = 112, 8  # tokens of each passage; queries from the eighth on
SHARES = (0.0, 0.25, 0.5, 0.75)  # of the way from the embedding to the layer's own input
WIDTH = 4  # tokens of a short context, the token itself among them
DISTANCE, TOKEN, STATIC, ELSEWHERE, SHORT, EMBEDDED, QUERY, KEY = (
    "distance alone", "the key's token alone", "each token by itself", "another passage's tokens by themselves",
    f"each with the {WIDTH - 1} before it", "tokens as they are embedded", "queries made of a lower stream",
    "keys made of a lower stream",
)  # fmt: skip
# Written before anything was run. Then, after a look, tokens were read by themselves: the first choice was their
# embeddings, which layers above the first hardly read (0.01 of the variance, less than the key's token alone).
MOSTLY, HARDLY = 0.5, 0.25  # of the variance of scores
CHANGED = (
    "The thresholds were fixed beforehand; that tokens are read by themselves was decided after a look: the first "
    "choice was their embeddings, which layers above the first hardly read."
)
ESSAY = "essay §4"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "queries_by_layer",
        measured,
        lambda table: [shallow(table), deep(table)],
        draw,
    )


def measured(model: HookedModel) -> list[dict[str, Any]]:
    """A row for each head and measure, and share of the way where there is one."""
    prompts, _ = as_tokens(model, read_prose(), length=LENGTH)
    assert prompts.lengths is not None
    tokens = prompts.tokens[prompts.lengths == LENGTH]
    streams, rows = residual_streams(model, tokens), []
    short = {STATIC: by_themselves(model, tokens), SHORT: with_few_before(model, streams)}
    with progress_bar(model.n_layers, model.name, shown=sys.stderr.isatty()) as tick:
        for layer in range(model.n_layers):
            for (measure, way), values in of_layer(
                streams, {name: each[layer] for name, each in short.items()}, layer
            ).items():
                rows += [
                    {"model": model.name, "layer": layer, "head": head, "measure": measure, "way": way, "value": value}
                    for head, value in enumerate(values.tolist())
                ]
            tick(1)
    return rows


def by_themselves(model: HookedModel, tokens: Int[Tensor, "prompt pos"]) -> Float[Tensor, "layer prompt pos d_model"]:
    """Every layer's input at each token after `NEUTRAL`, without what the passage says."""
    neutral = model.tokenizer(NEUTRAL, add_special_tokens=False)["input_ids"]
    known, place = tokens.unique(return_inverse=True)
    before = torch.tensor([model.bos_token_id, *neutral]).expand(len(known), -1)
    return _at_end(model, torch.cat([before, known[:, None]], 1))[:, place]


def with_few_before(model: HookedModel, streams: ResidualStreams) -> Float[Tensor, "layer prompt pos d_model"]:
    """Every layer's input at each token after BOS and no more than the few tokens before it."""
    tokens = streams.tokens.cpu()
    found = torch.stack(streams.before[: model.n_layers]).float().cpu()  # where there are no more anyway
    windows = tokens[:, 1:].unfold(1, WIDTH, 1).flatten(0, 1)
    read = _at_end(model, torch.cat([torch.full((len(windows), 1), model.bos_token_id), windows], 1))
    found[:, :, WIDTH:] = read.unflatten(1, (len(tokens), -1))
    return found


def _at_end(model: HookedModel, rows: Int[Tensor, "row pos"]) -> Float[Tensor, "layer row d_model"]:
    found = []
    for some in rows.split(256):
        acts = capture(model, some, "resid_pre", positions=[-1])
        found.append(torch.stack([acts["resid_pre", layer][:, 0].float().cpu() for layer in range(model.n_layers)]))
    return torch.cat(found, 1)


def of_layer(
    streams: ResidualStreams, short: dict[str, Float[Tensor, "prompt pos d_model"]], layer: int
) -> dict[tuple[str, float], Float[Tensor, " head"]]:
    """Shares of the variance of one layer's scores; below the first layer there is nothing."""
    prompts, own = torch.arange(len(streams.tokens)), streams.attention[layer]
    scores = centred_scores(own)
    found = {(DISTANCE, 1.0): goes_with(scores, by_distance(scores)),
             (TOKEN, 1.0): goes_with(scores, by_token(scores, streams.tokens.cpu()))}  # fmt: skip
    for name, stream in short.items():
        like = streams.before[layer]
        lower = streams.attention_at(layer, stream.to(like), prompts=prompts)
        assert isinstance(lower, Attention)
        static = centred_scores(lower)
        found[name, 1.0] = goes_with(scores, static)
        if name == STATIC:
            found[ELSEWHERE, 1.0] = goes_with(scores, static.roll(1, 0))
    for way in SHARES:
        lower = streams.attention_at(layer, streams.before[int(way * layer)], prompts=prompts)
        assert isinstance(lower, Attention)
        if way == 0:
            found[EMBEDDED, 0.0] = goes_with(scores, centred_scores(lower))
        found[QUERY, way] = goes_with(scores, centred_scores(replace(own, q=lower.q)))
        found[KEY, way] = goes_with(scores, centred_scores(replace(own, k=lower.k)))
    return found


def asked(n: int) -> Bool[Tensor, "query key"]:
    """Which pairs count: keys before the query, BOS apart."""
    query, key = torch.arange(n)[:, None], torch.arange(n)
    return (key < query) & (key > 0) & (query >= FIRST)


def centred_scores(attention: Attention) -> Float[Tensor, "prompt head query key"]:
    """Scores less their mean over each query's keys; 0 where none is asked."""
    with torch.inference_mode():
        scores = attention.scores().float().cpu()
    pairs = asked(scores.shape[-1])
    scores = scores.masked_fill(~pairs, 0.0)
    return (scores - scores.sum(-1, keepdim=True) / pairs.sum(-1, keepdim=True).clamp(min=1)).masked_fill(~pairs, 0.0)


def goes_with(
    scores: Float[Tensor, "prompt head query key"], others: Float[Tensor, "prompt head query key"]
) -> Float[Tensor, " head"]:
    """The squared correlation of two scores within queries, over all passages."""
    along = (scores * others).sum((0, 2, 3))
    return along.square() / (scores.square().sum((0, 2, 3)) * others.square().sum((0, 2, 3))).clamp(min=1e-30)


def by_distance(scores: Float[Tensor, "prompt head query key"]) -> Float[Tensor, "prompt head query key"]:
    """For every pair the mean at its distance, over the other half of the passages."""
    n = scores.shape[-1]
    away = (torch.arange(n)[:, None] - torch.arange(n)).clamp(min=0)
    return _means(scores, away.expand(len(scores), -1, -1))


def by_token(
    scores: Float[Tensor, "prompt head query key"], tokens: Int[Tensor, "prompt key"]
) -> Float[Tensor, "prompt head query key"]:
    """For every pair the mean for its key's token, over the other half of the passages; 0 where it is not there."""
    known = tokens.unique(return_inverse=True)[1]
    return _means(scores, known[:, None].expand(-1, scores.shape[-1], -1))


def _means(scores: Tensor, kind: Int[Tensor, "prompt query key"]) -> Tensor:
    """Means by kind of the other half of the passages, less their mean over each query's keys."""
    pairs = asked(scores.shape[-1])
    found = torch.zeros_like(scores)
    even = torch.arange(len(scores)) % 2 == 0
    for own in (even, ~even):
        others, n = kind[~own][:, pairs].flatten(), int(kind.max()) + 1
        sums = torch.zeros(scores.shape[1], n).index_add(
            1, others, scores[~own].transpose(0, 1)[:, :, pairs].flatten(1)
        )
        means = sums / torch.bincount(others, minlength=n).clamp(min=1)
        found[own] = means[:, kind[own]].transpose(0, 1)
    found = found.masked_fill(~pairs, 0.0)
    return (found - found.sum(-1, keepdim=True) / pairs.sum(-1, keepdim=True).clamp(min=1)).masked_fill(~pairs, 0.0)


def shallow(table: pd.DataFrame) -> Verdict:
    values = {model: third(table, model, STATIC, 0) for model in names(table)}
    return Verdict(
        claim="Shallow blocks ask for form: their scores go by the tokens themselves and their places",
        source=ESSAY,
        measured=_measured(table) + " the first third of the layers (without layer 0, where it is so by construction), "
        "scores of each token read by itself, after the same neutral words",
        criterion=f"they go with more than {MOSTLY:.0%} of the variance of a head's scores",
        numbers={model: told(table, model, 0) for model in values},
        control=_control(table, 0),
        caveat=CHANGED,
        **judge({model: effect(each) for model, each in values.items()}, MOSTLY, unit="of the variance"),
    )


def deep(table: pd.DataFrame) -> Verdict:
    values = {model: third(table, model, STATIC, 2) for model in names(table)}
    return Verdict(
        claim="Deep blocks ask for something else: their scores hardly go by the tokens themselves and their places",
        source=ESSAY,
        measured=_measured(table) + " the last third of the layers, scores of each token read by itself, after the "
        "same neutral words",
        criterion=f"they go with at most {HARDLY:.0%} of the variance of a head's scores",
        numbers={model: told(table, model, 2) for model in values},
        control=_control(table, 2),
        caveat=CHANGED,
        **judge({model: effect(each) for model, each in values.items()}, HARDLY, at_most=True, unit="of the variance"),
    )


def _measured(table: pd.DataFrame) -> str:
    return f"Scores on passages of prose, {LENGTH} tokens each, less each query's mean, BOS apart; items are heads;"


def _control(table: pd.DataFrame, which: int) -> str:
    return f"{ELSEWHERE}, which share the distances alone: " + "; ".join(
        f"{model} {shown(third(table, model, ELSEWHERE, which))}" for model in names(table)
    )


def told(table: pd.DataFrame, model: str, which: int) -> str:
    """What the scores of a third of the layers go with."""
    parts = [f"{name} {shown(third(table, model, name, which))}" for name in (STATIC, SHORT, DISTANCE, TOKEN, EMBEDDED)]
    for name in (QUERY, KEY):
        ways = (f"{effect(third(table, model, name, which, way)).value:.2f}" for way in SHARES)
        parts.append(f"{name} {', '.join(ways)} (0, ¼, ½, ¾ of the way up)")
    return "; ".join(parts)


def third(table: pd.DataFrame, model: str, measure: str, which: int, way: float | None = None) -> list[float]:
    """Of the heads in the first (0) or the last (2) third of the layers, without layer 0."""
    own: Any = table[(table["model"] == model) & (table["measure"] == measure) & (table["layer"] > 0)]
    own = own if way is None else own[own["way"] == way]
    n = 1 + int(own["layer"].max())
    return own[own["layer"] * 3 // n == which]["value"].tolist() or own["value"].tolist()


def shown(values: list[float]) -> str:
    found = effect(values)
    return f"{found.value:.2f} ± {found.error or 0.0:.2f}"


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: means over heads of what scores go with."""
    models = names(table)
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.3), layout="constrained", squeeze=False)
    lines = (
        (STATIC, 1.0, "#d1495b", "-"), (SHORT, 1.0, "#e09f3e", "-"), (EMBEDDED, 0.0, "#5f7a4f", ":"),
        (DISTANCE, 1.0, "#2a6f97", "--"), (TOKEN, 1.0, "#8d99ae", "--"),
    )  # fmt: skip
    for ax, model in zip(axes[0], models, strict=True):
        for measure, way, colour, style in lines:
            own: Any = table[(table["model"] == model) & (table["measure"] == measure) & (table["way"] == way)]
            mean = own.groupby("layer")["value"].mean()
            ax.plot(mean.index, mean, style, color=colour, label=measure)
        ax.set(title=model, xlabel="layer", ylim=(0, 1.02), xticks=range(0, 1 + int(mean.index[-1]), 5))
        ax.set_xlim(-0.5, len(mean) - 0.5)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("share of the variance of scores")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
