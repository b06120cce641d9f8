"""How much of what was read does a position keep, and does it keep what its query asks for?

    python -m experiments kept

Information retrieval and data compression: a position has one vector, however much stands before it. Prompts of random
tokens, each place drawing one of 8 tokens of its own, so that no token comes twice; at the last position the token at
every earlier place is decoded from the stream (nearest centroid, chosen on half of the prompts, read on the other).
Then the last three tokens are made those that stood somewhere before, and the token that followed them is decoded
again. Writes to figures/: kept.csv, kept.json (verdicts), kept.png. About 5 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.of_models import Least, names, on_models
from experiments.judging import Effect, effect, judge, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel
from induction_lab.data.vocabulary import draw, front
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.runtime.progress import progress_bar

PLACES, CHOICES, ASKED, AT = 24, 8, 3, 8  # AT: where the three stand that come again
SETS, PROMPTS, AT_ONCE = 4, 200, 100  # sets of tokens, prompts of each
# The criteria, written before anything was run.
HALF = 0.5  # of what could be decoded of the places before
RETRIEVED = 0.25  # more of the token that is asked for
ESSAY = "essay §0"
LOWER_BOUND = (  # added after the numbers had been seen: the criterion cannot be failed by a poor decoder
    "What nearest centroids find is the least that is there: codes that they cannot read would be missed, so that "
    "little found is not little kept."
)


class Asked(NamedTuple):
    """Prompts, which token each place has, and which the last three were drawn from."""

    tokens: Int[Tensor, "prompt pos"]
    drawn: Int[Tensor, "prompt place"]


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "kept",
        every_set,
        lambda table: [little(table), asked_for(table)],
        draw_figure,
        least=Least("prompts", 4 * CHOICES, "so that each token has its centroid"),
        reads=False,
    )


def every_set(model: HookedModel, n: int | None) -> list[dict[str, Any]]:
    """The rows of every set of tokens, with and without what is asked for."""
    rows = []
    with progress_bar(SETS * 2, model.name, shown=sys.stderr.isatty()) as tick:
        for seed in range(SETS):
            for match in (False, True):
                rows += measured(model, PROMPTS if n is None else n, match=match, seed=seed)
                tick(1)
    return rows


def prompts(model: HookedModel, n: int, *, match: bool, seed: int) -> Asked:
    """`BOS, 24 places, 3 tokens`: the three are new ones, or with `match` those of places 8 to 10.

    Which tokens the places draw from, and what they draw, is the same with and without.
    """
    begin_with = front(model, "model")
    choices = draw(model, 1, PLACES * CHOICES + ASKED, seed, begin_with)[0]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(CHOICES, (n, PLACES), generator=generator)
    of_place = choices[: PLACES * CHOICES].view(PLACES, CHOICES)
    read = of_place.gather(1, drawn.T).T
    last = read[:, AT : AT + ASKED] if match else choices[PLACES * CHOICES :].expand(n, -1)
    bos = torch.tensor(begin_with).expand(n, -1)
    return Asked(torch.cat([bos, read, last], 1), drawn)


def measured(model: HookedModel, n: int, *, match: bool, seed: int) -> list[dict[str, Any]]:
    """By layer and place, the share of tokens decoded at the last position, above chance: 1 all, 0 as by guessing."""
    own = prompts(model, n, match=match, seed=seed)
    parts = [residual_streams(model, part).before for part in own.tokens.split(AT_ONCE)]
    last = [torch.cat([part[layer][:, -1].float().cpu() for part in parts]) for layer in range(model.n_layers + 1)]
    return [
        {"model": model.name, "set": seed, "match": match, "layer": layer, "depth": layer / model.n_layers}
        | {"place": place, "distance": PLACES + ASKED - 1 - place, "decoded": decoded(stream, own.drawn[:, place])}
        for layer, stream in enumerate(last)
        for place in range(PLACES)
    ]


def decoded(x: Float[Tensor, "prompt d"], y: Int[Tensor, " prompt"]) -> float:
    """`(accuracy − chance) / (1 − chance)` of the nearest centroid of the other half, either half once."""
    hits = []
    for half in (0, 1):
        fit, read = slice(half, None, 2), slice(1 - half, None, 2)
        own, labels = x[fit], y[fit].contiguous()
        there = labels.unique()
        centroids = torch.stack([own[labels == label].mean(0) for label in there])
        scale = (own - centroids[torch.searchsorted(there, labels)]).std(0).clamp(min=1e-6)
        hits.append((there[torch.cdist(x[read] / scale, centroids / scale).argmin(1)] == y[read]).float())
    accuracy = float(torch.cat(hits).mean())
    return (accuracy - 1 / CHOICES) / (1 - 1 / CHOICES)


def little(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        own = table[(table["model"] == model) & ~table["match"]]
        means = own.groupby("layer")["decoded"].mean()
        best = int(means.idxmax())
        effects[model] = effect(own[own["layer"] == best].groupby("set")["decoded"].mean().tolist())
        by_place = own[own["layer"] == best].groupby("distance")["decoded"].mean()
        near, far = by_place[by_place.index <= 6].mean(), by_place[by_place.index > 18].mean()
        numbers[model] = (
            f"{told(effects[model])} of what could be, in layer {best}, which keeps most; the nearest places "
            f"{near:.2f}, the farthest {far:.2f}"
        )
        start = own[own["layer"] == 0]["decoded"]
        control.append(f"{model} {start.mean():+.3f}")
    return Verdict(
        claim="Attention compresses: of random tokens that were read a position keeps but a small part in its vector",
        source=ESSAY,
        measured=f"{PLACES} places, each with one of {CHOICES} tokens of its own: how many are decoded at the last "
        "position, above chance (1 all, 0 as by guessing), mean over places, in the layer that keeps most; sets of "
        "tokens are the items",
        criterion=f"less than {HALF:g} of what could be",
        numbers=numbers,
        control="before the first layer, where the position knows nothing of the others: " + "; ".join(control),
        beforehand=True,
        **judge(effects, HALF, at_most=True, unit="of what could be decoded", undecided=_less_found(effects)),
    )


def _less_found(effects: dict[str, Effect]) -> dict[str, str]:
    """Why it says nothing where less than half was found; more than half would have decided."""
    return {model: LOWER_BOUND for model, found in effects.items() if found.value < HALF}


def asked_for(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        more = _more(table, model, AT + ASKED)
        layer = max(more, key=lambda each, more=more: more[each].value)
        held_out = []
        for left in sorted(table["set"].unique()):  # the layer is chosen on the other sets
            rest = _more(table[table["set"] != left], model, AT + ASKED)
            best = max(rest, key=lambda each, rest=rest: rest[each].value)
            held_out.append(_more(table[table["set"] == left], model, AT + ASKED)[best].value)
        effects[model] = effect(held_out)
        numbers[model] = f"{told(effects[model])} more of the token that followed (most in layer {layer})"
        beside = [_more(table, model, place)[layer].value for place in range(PLACES) if place not in _near(AT)]
        control.append(f"{model} {min(beside):+.2f} to {max(beside):+.2f}")
    return Verdict(
        claim="Attention retrieves: after three tokens that stood before, what followed them is brought to the query",
        source=ESSAY,
        measured="the same with the last three tokens made those of an earlier place: how much more of the token that "
        "followed them there is decoded at the last position; the layer chosen on the other sets of tokens",
        criterion=f"more by over {RETRIEVED:g} of what could be",
        numbers=numbers,
        control="other places in that layer, which nothing asks for: " + "; ".join(control),
        beforehand=True,
        **judge(effects, RETRIEVED, unit="of what could be decoded"),
    )


def _near(at: int) -> set[int]:
    return set(range(at, at + ASKED + 1))


def _more(table: Any, model: str, place: int) -> dict[int, Effect]:
    own = table[(table["model"] == model) & (table["place"] == place)]
    wide = own.pivot(index=["layer", "set"], columns="match", values="decoded")
    more = wide[True] - wide[False]
    return {int(layer): effect(rows.tolist()) for layer, rows in more.groupby("layer")}


def draw_figure(table: Any) -> Figure:
    """By layer and distance, what is decoded at the last position; below, what is more when it is asked for."""
    models = names(table)
    figure, axes = plt.subplots(2, len(models), figsize=(5.6 * len(models), 5.6), layout="constrained", squeeze=False)
    means = table.groupby(["model", "match", "layer", "place"])["decoded"].mean()
    image: Any = None
    for column, model in enumerate(models):
        plain, match = (means[model, each].unstack().to_numpy() for each in (False, True))
        for row, (values, title) in enumerate(
            ((plain, f"{model}: what the last position keeps"), (match - plain, "more when its tokens come again"))
        ):
            ax = axes[row][column]
            image = ax.imshow(values, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-1, vmax=1)
            ax.set(title=title, ylabel="before layer (top: the end)", xlabel="place of the token that is decoded")
            if row:
                ax.axvspan(AT - 0.5, AT + ASKED - 0.5, fill=False, ec="0.3", lw=1)
                ax.annotate("asked for", (AT + ASKED, 0.02), xycoords=("data", "axes fraction"), fontsize=8)
    figure.colorbar(image, ax=axes, label="share decoded, above chance")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
