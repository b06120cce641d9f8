"""At "Paris", do the queries of middle blocks ask for landmarks of Paris, rather than of other cities?

    python -m experiments landmarks

28 cities (landmarks.toml), each read at the end of the same openings; two landmarks of each, and its country, after the
same neutral words. Queries at the city are held against keys of all landmarks, placed at the same distances before
it. By how many nats does a head score a city's own landmarks above those of others, what each city and each landmark
has for all taken off; and of two cities, how often are both scored with their own rather than exchanged? Heads of the
middle third are chosen on half of the cities and read among the other half; the same with landmarks dealt out anew; and
the same heads with the countries in the landmarks' place. Writes to figures/: landmarks.csv, landmarks.json (verdicts),
landmarks.png. 1 minute on one CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.asked import OFFSETS, line, mean_over_layers, of, scores, share
from experiments.essay.geometry.senses import Word, read_words
from experiments.essay.geometry.topics import best_elsewhere
from experiments.essay.of_models import Least, names, on_models, shown
from experiments.essay.passages import read_data
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel
from induction_lab.weights.rotary import relative_rotations

DATA = Path(__file__).with_name("landmarks.toml")
HEADS, SHUFFLES = 10, 20
LANDMARKS, COUNTRIES, SHUFFLED = "the city's landmarks", "the city's country", "landmarks dealt out anew"
BEST = -1  # as a layer: the best heads of the middle third together
# The criteria, written before anything was run.
OFTEN = 0.75  # of pairs of cities: half of the way from chance to always
DEEPER = 0.1  # of pairs: by how much the middle third must be right more often than the lowest
OWN = 0.5  # of what is asked of landmarks: what may be asked of the country if it is landmarks that are asked for
ESSAY = "essay §4"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "landmarks",
        measured,
        lambda table: [asks(table), in_the_middle(table), landmarks_alone(table)],
        draw,
        least=Least("cities", 6, "three in each half"),
    )


def measured(model: HookedModel, most: int | None = None) -> list[dict[str, Any]]:
    """A row for each city, kind of key and layer, for the best heads of the middle third, and for every shuffle."""
    cities, found = all_scores(model, read_data(DATA), most)
    _, third, _ = thirds(model.n_layers)
    middle = {kind: each[third.start : third.stop].flatten(0, 1) for kind, each in found.items()}
    rows: list[dict[str, Any]] = []

    def add(place: str, layer: int, score: Float[Tensor, "part city city"], chosen: Tensor) -> None:
        nats, often = (of_heads(score, chosen, each) for each in (gains, right))
        for city, a, b in zip(cities, nats.tolist(), often.tolist(), strict=True):
            rows.append({"model": model.name, "place": place, "layer": layer, "word": city, "nats": a, "right": b})

    chosen = best_elsewhere(in_halves(middle[LANDMARKS], gains), HEADS)
    for kind, each in found.items():
        add(kind, BEST, middle[kind], chosen)
        for layer, score in enumerate(each):
            add(kind, layer, score, best_elsewhere(in_halves(found[LANDMARKS][layer], gains), 1))
    for seed in range(SHUFFLES):
        dealt = middle[LANDMARKS][..., dealt_out(len(cities), seed)]
        add(SHUFFLED, seed, dealt, best_elsewhere(in_halves(dealt, gains), HEADS))
    return rows


def all_scores(
    model: HookedModel, data: dict[str, Any], most: int | None = None
) -> tuple[list[str], dict[str, Float[Tensor, "layer head city city"]]]:
    """The cities, and scores of each city's queries for the things of each city, means over openings and distances."""
    cities = list(data["cities"])[:most]
    n, none = len(cities), torch.zeros(0, dtype=torch.bool)
    at = [Word(city, [], [one.format(city=city) for one in data["openings"]], none) for city in cities]
    things = [
        Word(city, [], [data["neutral"].format(thing=thing) for thing in data["cities"][city]], none) for city in cities
    ]
    queries, keys = (read_words(model, words).stream for words in (at, things))  # [layer, city, sentence, d_model]
    turn = relative_rotations(model, OFFSETS).mean(1)
    found: dict[str, list[Tensor]] = {LANDMARKS: [], COUNTRIES: []}
    for layer in range(model.n_layers):
        q, k = (each[layer].flatten(0, 1)[None] for each in (queries, keys))
        each = scores(model, layer, turn[layer], q, k)[:, 0]
        each = each.unflatten(2, (n, -1)).unflatten(1, (n, -1)).mean(2)  # [head, city, city, thing]
        found[LANDMARKS].append(each[..., :-1].mean(-1))
        found[COUNTRIES].append(each[..., -1])
    return cities, {kind: torch.stack(each) for kind, each in found.items()}


def gains(score: Float[Tensor, "*part city city"]) -> Float[Tensor, "*part city"]:
    """How far each city's own lie above the rest, what its query and its keys have for all taken off."""
    centred = score - score.mean(-1, keepdim=True)
    return (centred - centred.mean(-2, keepdim=True)).diagonal(dim1=-2, dim2=-1)


def right(score: Float[Tensor, "*part city city"]) -> Float[Tensor, "*part city"]:
    """Of the pairs that each city is in, how often both score their own higher than exchanged; a tie: half."""
    own = score.diagonal(dim1=-2, dim2=-1)
    apart = own[..., :, None] + own[..., None, :] - score - score.mT
    tie = 1e-5 * score.abs().amax((-2, -1))[..., None, None]  # rounding
    each = (apart > tie).float() + (apart.abs() <= tie).float() / 2
    return (each.sum(-1) - each.diagonal(dim1=-2, dim2=-1)) / (score.shape[-1] - 1)


def halves(n: int) -> list[Bool[Tensor, " city"]]:
    """Every second city, and the others."""
    even = torch.arange(n) % 2 == 0
    return [even, ~even]


def in_halves(
    score: Float[Tensor, "part city city"], measure: Callable[[Tensor], Tensor]
) -> Float[Tensor, "part city"]:
    """A measure of each half of the cities by itself, so that a half knows nothing of the other."""
    found = torch.zeros(score.shape[:-1])
    for own in halves(score.shape[-1]):
        found[:, own] = measure(score[:, own][:, :, own])
    return found


def of_heads(
    score: Float[Tensor, "part city city"], chosen: Int[Tensor, "city head"], measure: Callable[[Tensor], Tensor]
) -> Float[Tensor, " city"]:
    """The same of the mean over the heads that were chosen for each half."""
    found = torch.zeros(score.shape[-1])
    for own in halves(score.shape[-1]):
        found[own] = measure(score[chosen[own][0]].mean(0)[own][:, own])
    return found


def dealt_out(n: int, seed: int) -> Int[Tensor, " city"]:
    """For each city another one of its half, whose landmarks it gets."""
    generator, found = torch.Generator().manual_seed(seed), torch.zeros(n, dtype=torch.long)
    for own in halves(n):
        places = own.nonzero()[:, 0]
        order = places[torch.randperm(len(places), generator=generator)]
        found[order] = order.roll(1)
    return found


def asks(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        often = of(table, model, LANDMARKS, BEST, "right")
        effects[model] = effect(often)
        numbers[model] = f"{share(often)} of pairs, {shown(of(table, model, LANDMARKS, BEST, 'nats'))} nats"
        tries = [effect(of(table, model, SHUFFLED, seed, "right")).value for seed in range(SHUFFLES)]
        control.append(f"{model} {sum(tries) / len(tries):.3f}, at most {max(tries):.3f}")
    return Verdict(
        claim='At "Paris" the query of a middle block asks for landmarks of Paris, not of other cities',
        source=ESSAY,
        measured=f"{table['word'].nunique()} cities after three openings, two landmarks of each after neutral words; "
        f"the {HEADS} best heads of the middle third of the layers together, chosen on the other half of the cities: "
        "how often, of two cities, both are scored with their own landmarks rather than with the other's",
        criterion=f"in more than {OFTEN:.0%} of the pairs (chance 50 %)",
        numbers=numbers,
        control=f"each city with another's landmarks, {SHUFFLES} times, heads chosen anew: " + "; ".join(control),
        beforehand=True,
        **judge(effects, OFTEN, unit="of pairs of cities"),
    )


def in_the_middle(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        low, middle, high = (mean_over_layers(table, model, LANDMARKS, third) for third in thirds(depth(table, model)))
        effects[model] = effect([a - b for a, b in zip(middle, low, strict=True)])
        numbers[model] = f"middle third right in {share(middle)} of pairs, lowest in {share(low)}, highest in "
        numbers[model] += f"{share(high)}; middle less lowest {told(effects[model])}"
        countries = [share(mean_over_layers(table, model, COUNTRIES, third)) for third in thirds(depth(table, model))]
        control.append(f"{model} lowest {countries[0]}, middle {countries[1]}, highest {countries[2]}")
    return Verdict(
        claim="Middle blocks ask for landmarks, and shallow ones do not",
        source=ESSAY,
        measured="the best head of each layer, chosen on the other half of the cities; mean over a third's layers",
        criterion=f"in the middle third right more often than in the lowest, by {DEEPER:g} of the pairs",
        numbers=numbers,
        control="the same heads with the countries in the landmarks' place: " + "; ".join(control),
        beforehand=True,
        **judge(effects, DEEPER, unit="of pairs of cities"),
    )


def landmarks_alone(table: pd.DataFrame) -> Verdict:
    effects, numbers, control, undecided = {}, {}, [], {}
    for model in names(table):
        own, country = (of(table, model, kind, BEST, "nats") for kind in (LANDMARKS, COUNTRIES))
        effects[model], asked = ratio(country, own), effect(own)
        numbers[model] = f"the country {told(effects[model])} of the landmarks: {shown(country)} nats of {shown(own)}"
        control.append(f"{model} right in {share(of(table, model, COUNTRIES, BEST, 'right'))} of pairs")
        if asked.value < 2 * (asked.error or 0.0):
            undecided[model] = f"In {model} no landmarks are asked for, of which the country could be a part."
    return Verdict(
        claim="It is landmarks that are asked for: the city's country is asked for less than half as much",
        source=ESSAY,
        measured="scores of the same heads for the countries over those for the landmarks, in nats (a country's name "
        "is one common word, a landmark's often several rare ones, which a small model may know less of)",
        criterion=f"at most {OWN:.0%} of it",
        numbers=numbers,
        control="how often both cities of a pair are scored with their own country: " + "; ".join(control),
        beforehand=True,
        **judge(effects, OWN, at_most=True, unit="of what is asked of landmarks", undecided=undecided),
    )


def depth(table: pd.DataFrame, model: str) -> int:
    """How many layers a model has."""
    own: Any = table[(table["model"] == model) & (table["place"] == LANDMARKS)]
    return 1 + int(own["layer"].max())


def thirds(n: int) -> list[range]:
    """The lowest, the middle and the highest third of the layers; the middle is what is left."""
    part = max(1, n // 3)
    return [range(part), range(n // 3, n - n // 3), range(n - part, n)]


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: how often the best head scores cities with their own, the middle third shaded."""
    models: Sequence[str] = names(table)
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.1), layout="constrained", squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        n = depth(table, model)
        for kind, colour in ((LANDMARKS, "#d1495b"), (COUNTRIES, "#2a6f97")):
            line(ax, [of(table, model, kind, layer, "right") for layer in range(n)], kind, colour, "-")
        tries = [effect(of(table, model, SHUFFLED, seed, "right")).value for seed in range(SHUFFLES)]
        ax.axhline(sum(tries) / len(tries), color="#8d99ae", ls=":", label=SHUFFLED)
        _, third, _ = thirds(n)
        ax.axvspan(third.start - 0.5, third.stop - 0.5, color="0.93", zorder=0, label="middle third")
        best = effect(of(table, model, LANDMARKS, BEST, "right")).value
        ax.set(title=f"{model}: {HEADS} best heads of the middle {best:.2f}", xlabel="layer", ylim=(0.3, 1.02),
               xticks=range(0, n, 5))  # fmt: skip
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("how often two cities score their own higher")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
