"""Does every head write into a subspace of its own?

    python -m experiments subspaces

Three measures, each between the heads of a layer and between heads of different layers. The spaces that heads can write
to, by their weights: mean squared cosine of the principal angles. What they write on prose: cosine of covariances, and
the same with every dimension divided by the stream's spread in it. How they pull the senses of a word apart: cosine of
what two heads add to the difference between them, against what one head adds after other openings. The first two are 0
where two heads are as far apart as random spaces of their sizes, and 1 where they are one and the same. Writes to
figures/: subspaces.csv, subspaces.json (verdicts), subspaces.png. 4 minutes on one CPU core.
"""

from __future__ import annotations

import sys
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.geometry.experiment import head_outputs
from experiments.essay.geometry.senses import DATA, Read, Word, load_words, read_words
from experiments.essay.of_models import Least, names, on_models, shown
from experiments.essay.prose import as_tokens, read_prose
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict
from induction_lab import HookedModel, capture
from induction_lab.internals.head_outputs import written_by_heads
from induction_lab.runtime.progress import progress_bar

SPACES, TURNED, WRITTEN, EVEN, PULLS, OWN_PULL = (
    "spaces of the weights", "the same, turned at random", "what is written on prose",
    "written, dimensions of one size", "pulls between senses", "a head's own pull, other openings",
)  # fmt: skip
WITHIN, BETWEEN = "within a layer", "between layers"
# The criteria, written before anything was run.
APART = 0.1  # of the way from random spaces (0) to one and the same (1)
UNLIKE = 0.25  # of how alike a head's own pulls are after other openings
ESSAY = "essay §3"


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "subspaces",
        lambda model, most: measured(model, load_words(DATA)[:most]),
        lambda table: [spaces(table), written_apart(table), pulls_apart(table)],
        draw,
        least=Least("words", 3, "so that an error can be told"),
    )


def measured(model: HookedModel, words: list[Word]) -> list[dict[str, Any]]:
    """A row for each layer (word, for pulls), measure, and whether heads are of one layer: means over pairs."""
    rows: list[dict[str, Any]] = []

    def add(measure: str, between: str, values: list[float]) -> None:
        for item, value in enumerate(values):
            rows.append({"model": model.name, "measure": measure, "heads": between, "item": item, "value": value})

    by_pairs = {SPACES: (own := bases(model))}
    generator = torch.Generator().manual_seed(0)
    by_pairs[TURNED] = torch.stack([turned(each, generator) for each in own.flatten(0, 1)]).unflatten(0, own.shape[:2])
    found = {name: space_overlaps(each.flatten(0, 1)) for name, each in by_pairs.items()}
    found |= {name: covariance_overlaps(each) for name, each in covariances(model, own).items()}
    for name, overlaps in found.items():
        add(name, WITHIN, within_layers(overlaps, model.n_heads))
        add(name, BETWEEN, between_layers(overlaps, model.n_heads))
    read = read_words(model, words)
    for name, values in pulls(model, read, words[0].labels).items():
        add(*name, values.tolist())
    return rows


def bases(model: HookedModel) -> Float[Tensor, "layer head d_head d_model"]:
    """Orthonormal rows that span what each head can write into the stream, norms on the way taken in."""
    unit = torch.eye(model.d_head).expand(1, model.n_heads, -1, -1).to(model.device, model.dtype)
    found = []
    for layer in range(model.n_layers):
        rows = written_by_heads(model, layer, unit, at=unit)[0].double().cpu()  # a norm's scale moves no space
        _, sizes, basis = torch.linalg.svd(rows, full_matrices=False)
        if (sizes[:, -1] < 1e-6 * sizes[:, 0]).any():
            raise ValueError(
                f"A head of layer {layer} of {model.name} writes into fewer than {model.d_head} dimensions."
            )
        found.append(basis.float())
    return torch.stack(found)


def turned(basis: Float[Tensor, "d_head d_model"], generator: torch.Generator) -> Float[Tensor, "d_head d_model"]:
    """A random space of the same size."""
    rows = torch.randn(basis.shape, dtype=basis.dtype, generator=generator)
    return torch.linalg.qr(rows.T)[0].T


def space_overlaps(basis: Float[Tensor, "head d_head d_model"]) -> Float[Tensor, "head head"]:
    """Mean squared cosine of the principal angles, less what random spaces have (`d_head / d_model`), to 1 at most."""
    _, size, d = basis.shape
    projectors = (basis.mT @ basis).flatten(1)
    return ((projectors @ projectors.mT) / size - size / d) / (1 - size / d)


def covariance_overlaps(cov: Float[Tensor, "head d_model d_model"]) -> Float[Tensor, "head head"]:
    """Cosine of covariances, less what randomly turned ones have (of traces alone), to 1 at most."""
    rows = cov.flatten(1)
    norms, traces = rows.norm(dim=1), cov.diagonal(dim1=1, dim2=2).sum(1)
    sizes = norms[:, None] * norms
    chance = traces[:, None] * traces / cov.shape[-1] / sizes
    return ((rows @ rows.mT) / sizes - chance) / (1 - chance)


def covariances(
    model: HookedModel, basis: Float[Tensor, "layer head d_head d_model"]
) -> dict[str, Float[Tensor, "head d_model d_model"]]:
    """Of what every head of the model writes on prose, BOS apart; and with the stream's dimensions of one size."""
    prompts, _ = as_tokens(model, read_prose())
    assert prompts.lengths is not None
    shape = (model.n_layers, model.n_heads, model.d_head)
    total, square, n = torch.zeros(shape), torch.zeros(*shape, model.d_head), 0
    first, second = torch.zeros(2, model.n_layers, model.d_model)
    with progress_bar(len(prompts), f"{model.name} reads prose", shown=sys.stderr.isatty()) as tick:
        for row, length in zip(prompts.tokens, prompts.lengths.tolist(), strict=True):
            acts = capture(model, row[None, :length], ["z", "resid_post"])
            n += length - 1
            for layer in range(model.n_layers):
                z = acts["z", layer].transpose(1, 2)
                written = written_by_heads(model, layer, z, at=z)[0, :, 1:].float().cpu() @ basis[layer].mT
                total[layer] += written.sum(1)
                square[layer] += written.mT @ written
                stream = acts["resid_post", layer][0, 1:].float().cpu()
                first[layer] += stream.sum(0)
                second[layer] += stream.square().sum(0)
            tick(1)
    mean = total / n
    cov = basis.mT @ (square / n - mean[..., :, None] * mean[..., None, :]) @ basis
    spread = (second / n - (first / n).square()).clamp(min=1e-12).sqrt()[:, None]
    even = cov / spread[..., :, None] / spread[..., None, :]
    return {WRITTEN: cov.flatten(0, 1), EVEN: even.flatten(0, 1)}


def within_layers(overlaps: Float[Tensor, "head head"], n_heads: int) -> list[float]:
    """By layer, the mean over pairs of its heads."""
    pairs = ~torch.eye(n_heads, dtype=torch.bool)
    blocks = (overlaps[at : at + n_heads, at : at + n_heads] for at in range(0, len(overlaps), n_heads))
    return [float(block[pairs].mean()) for block in blocks]


def between_layers(overlaps: Float[Tensor, "head head"], n_heads: int) -> list[float]:
    """By layer, the mean over pairs of one of its heads and one of another layer."""
    found = []
    for at in range(0, len(overlaps), n_heads):
        others = torch.cat([overlaps[at : at + n_heads, :at], overlaps[at : at + n_heads, at + n_heads :]], 1)
        found.append(float(others.mean()))
    return found


def pulls(model: HookedModel, read: Read, labels: Bool[Tensor, " sentence"]) -> dict[tuple[str, str], Tensor]:
    """By word, cosines of what heads add to the difference between senses, each from another half of the openings."""
    even = torch.arange(len(labels)) % 2 == 0
    layer = torch.arange(model.n_layers * model.n_heads) // model.n_heads
    same, own = layer[:, None] == layer, torch.eye(len(layer), dtype=torch.bool)
    masks = {(PULLS, WITHIN): same & ~own, (PULLS, BETWEEN): ~same, (OWN_PULL, WITHIN): own}
    found: dict[tuple[str, str], list[Tensor]] = {name: [] for name in masks}
    for word in range(read.z.shape[1]):
        heads = head_outputs(model, read.z[:, word])
        a, b = (heads[:, labels & half].mean(1) - heads[:, ~labels & half].mean(1) for half in (even, ~even))
        a, b = (torch.nn.functional.normalize(each, dim=1)[model.n_heads :] for each in (a, b))  # layer 0 knows nothing
        for name, mask in masks.items():
            found[name].append((a @ b.mT)[mask[model.n_heads :, model.n_heads :]].mean())
    return {name: torch.stack(each) for name, each in found.items()}


def spaces(table: pd.DataFrame) -> Verdict:
    return _apart(
        table, SPACES, TURNED,
        claim="Every head has a subspace of its own to write to: a layer's heads are as far apart as random spaces",
        measured="The spaces that the output weights of a layer's heads span: the mean squared cosine of the principal "
        "angles of two heads, less that of random spaces of as many dimensions, of the way to 1; items are layers",
    )  # fmt: skip


def written_apart(table: pd.DataFrame) -> Verdict:
    return _apart(
        table, WRITTEN, EVEN,
        claim="What the heads of a layer write lies in different subspaces",
        measured="Covariances of what the heads of a layer write on prose: the cosine of two heads', less that of "
        "randomly turned ones, of the way to 1; items are layers",
    )  # fmt: skip


def _apart(table: pd.DataFrame, measure: str, beside: str, *, claim: str, measured: str) -> Verdict:
    values = {model: of(table, model, measure, WITHIN) for model in names(table)}
    return Verdict(
        claim=claim,
        source=ESSAY,
        measured=measured,
        criterion=f"at most {APART:.0%} of the way",
        numbers={
            model: f"{shown(each)}, highest {max(each):.3f}; between layers {shown(of(table, model, measure, BETWEEN))}"
            for model, each in values.items()
        },
        control=f"{beside}: " + "; ".join(f"{model} {shown(of(table, model, beside, WITHIN))}" for model in values),
        beforehand=True,
        **judge({model: effect(each) for model, each in values.items()}, APART, at_most=True, unit="of the way"),
    )


def pulls_apart(table: pd.DataFrame) -> Verdict:
    effects, numbers, control = {}, {}, []
    n_words = len(of(table, names(table)[0], PULLS, WITHIN))
    for model in names(table):
        other, own = of(table, model, PULLS, WITHIN), of(table, model, OWN_PULL, WITHIN)
        effects[model] = ratio(other, own)
        numbers[model] = f"another head of the layer {shown(other)} in cosine, the same head {shown(own)}: "
        numbers[model] += f"{told(effects[model])} of it"
        control.append(f"{model} {shown(of(table, model, PULLS, BETWEEN))}")
    return Verdict(
        claim="Each head pulls a word in a direction of its own",
        source=ESSAY,
        measured=f"{n_words} words of two senses: the difference between the senses in what a head adds at the word, "
        "from half of the openings; its cosine with another head's of the layer over that with its own, from the other",
        criterion=f"at most {UNLIKE:.0%} as alike as a head's own pulls",
        numbers=numbers,
        control="heads of different layers: " + "; ".join(control),
        beforehand=True,
        **judge(effects, UNLIKE, at_most=True, unit="of how alike a head's own pulls are"),
    )


def of(table: pd.DataFrame, model: str, measure: str, heads: str) -> list[float]:
    own: Any = table[(table["model"] == model) & (table["measure"] == measure) & (table["heads"] == heads)]
    return own["value"].tolist()


def draw(table: pd.DataFrame) -> Figure:
    """By layer, a panel a model: how far the layer's heads are from random spaces."""
    models = names(table)
    figure, axes = plt.subplots(1, len(models), figsize=(5.2 * len(models), 4.1), layout="constrained", squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        for measure, colour in ((SPACES, "#2a6f97"), (TURNED, "#8d99ae"), (WRITTEN, "#d1495b"), (EVEN, "#e09f3e")):
            ax.plot(of(table, model, measure, WITHIN), color=colour, label=measure)
        ax.axhline(APART, color="#8d99ae", lw=0.8, ls=":")
        ax.set(title=model, xlabel="layer", xticks=range(0, len(of(table, model, SPACES, WITHIN)), 5))
        ax.set_ylim(min(-0.05, ax.get_ylim()[0]), 1.0)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("0: as random spaces, 1: one and the same")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center")
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
