"""What is read at a pronoun: its vector's variance with either noun, and its attention to both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.pronouns.sentences import Sentences
from induction_lab import HookedModel
from induction_lab.attention.grouped import to_query_heads
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams

AT_ONCE = 128  # sentences


class Read(NamedTuple):
    """At one token of every sentence: the stream before each layer and at the end, and attention to either noun."""

    vectors: Float[Tensor, "layer prompt d"]
    attention: Float[Tensor, "noun prompt layer head"]


def read_causal(model: HookedModel, own: Sentences, *marks: str) -> list[Read]:
    """At each mark, in a model that reads left to right: what comes after the last of them is not read."""
    parts: list[list[Read]] = [[] for _ in marks]
    for part in torch.arange(len(own.cell)).split(AT_ONCE):
        end = 1 + max(int(own.passages.marks[mark][part, 1].max()) for mark in marks)
        streams, rows = residual_streams(model, own.passages.tokens[part, :end]), torch.arange(len(part))
        nouns = [own.passages.marks[noun][part, 1] for noun in ("one", "two")]
        for mark, found in zip(marks, parts, strict=True):
            at = own.passages.marks[mark][part, 1]
            vectors = torch.stack([each[rows, at].float().cpu() for each in streams.before])
            layers = [
                torch.stack([seen.probabilities(rows, at, noun) for noun in nouns])
                for _, seen in sorted(streams.attention.items())
            ]
            found.append(Read(vectors, torch.stack(layers, 2).float().cpu()))
    return [joined(found) for found in parts]


def joined(parts: list[Read]) -> Read:
    """Sentences read in parts."""
    return Read(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


def components(
    vectors: Float[Tensor, "layer prompt d"], own: Sentences
) -> tuple[Float[Tensor, "layer cell"], Float[Tensor, "layer cell"]]:
    """By cell, the variance of the vectors that goes with the noun that is meant, and with the other noun.

    A two-way analysis of variance without replication: `σ² = (MS of the noun − MS of the rest) / n`, summed over
    coordinates, of vectors of length 1. Unbiased, so it may be a little below 0 where there is none.
    """
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    n_one, n_two = (int(own.nouns[:, i].max()) + 1 for i in (0, 1))
    meant, other = [], []
    for cell in own.cell.unique():
        rows = (own.cell == cell).nonzero()[:, 0]
        x = unit[:, rows].unflatten(1, (n_one, n_two))  # each pair of nouns once, in order
        middle = x.mean((1, 2), keepdim=True)
        of_one, of_two = x.mean(2, keepdim=True) - middle, x.mean(1, keepdim=True) - middle
        rest = (x - middle - of_one - of_two).square().sum((1, 2, 3)) / ((n_one - 1) * (n_two - 1))
        one = (n_two * of_one.square().sum((1, 2, 3)) / (n_one - 1) - rest) / n_two
        two = (n_one * of_two.square().sum((1, 2, 3)) / (n_two - 1) - rest) / n_one
        first = int(own.meant[rows[0]]) == 0
        meant.append(one if first else two)
        other.append(two if first else one)
    return torch.stack(meant, 1), torch.stack(other, 1)


def cut(
    streams: ResidualStreams, query: Int[Tensor, " prompt"], keys: list[Int[Tensor, " prompt"]]
) -> Float[Tensor, "prompt pos d_model"]:
    """The end of the stream when one token of each prompt cannot attend to some others, in any head of any layer.

    What it attends to otherwise is divided by what is left, as if those had been masked.
    """

    def edit(attention: Any) -> Any:
        rows = torch.arange(len(query))
        z = attention.z.clone()
        own, kept = z[rows, :, query], torch.ones(z.shape[:2], dtype=z.dtype, device=z.device)
        v = to_query_heads(attention.v, z.shape[1], dim=1)
        for key in keys:
            p = attention.probabilities(rows, query, key).to(z)
            own = own - p[..., None] * v[rows, :, key]
            kept = kept - p
        z[rows, :, query] = own / kept.clamp(min=1e-6)[..., None]
        return replace(attention, z=z)

    return streams.run(0, edit)
