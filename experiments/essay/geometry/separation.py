"""Where the vectors of one word lie when it is used in two senses: angles, how well they separate, and who pulls.

Tensors in, tensors out; `labels` say the sense of each sentence, True or False. All is left one out: a sentence is
judged by centroids and directions of the others alone, so that nothing separates because it was fitted. Centroids are
compared by cosine, so a few dimensions of large variance count as much as they turn a vector: take the mean of many
words off before.
"""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor

TIE = 1e-5  # cosines that differ by less are alike: rounding


def pair_cosines(
    vectors: Float[Tensor, "*batch sentence d"], labels: Bool[Tensor, " sentence"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Mean cosine of two sentences of the same sense, and of two of different senses.

    Raises:
        ValueError: If a sense has fewer than two sentences.
    """
    _check(labels, least=2)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    gram = unit @ unit.mT
    same = labels[:, None] == labels
    other, pair = ~same, same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return gram[..., pair].mean(-1), gram[..., other].mean(-1)


def centroid_accuracy(
    vectors: Float[Tensor, "*batch sentence d"], labels: Bool[Tensor, "shuffle sentence"]
) -> Float[Tensor, "..."]:
    """How often a sentence is nearer, in cosine, to the centroid of its own sense's others than to the other's.

    `[shuffle, *batch]`, in [0, 1]; a tie counts one half, so vectors that are all alike score 0.5. Chance is about
    0.5, a little below, because leaving a sentence out moves its own centroid away from it.

    Args:
        vectors: Sentences of one word, at any number of layers.
        labels: Any number of labellings, judged side by side: the senses, and shuffles of them.

    Raises:
        ValueError: If a sense has fewer than two sentences.
    """
    for row in labels:
        _check(row, least=2)
    gram = (vectors @ vectors.mT).double()  # all that centroids need
    y = labels.to(gram)
    cosines = []
    for sense in (y, 1 - y):
        to = torch.einsum("ls,...st->l...t", sense, gram)  # of each sentence with the sense's sum
        size = torch.einsum("l...t,lt->l...", to, sense)[..., None]
        own = _beside(sense, to)
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        without = (to - own * diagonal) / (size - 2 * own * to + own * diagonal).clamp(min=1e-30).sqrt()
        cosines.append(without / diagonal.clamp(min=1e-30).sqrt())
    margin = (cosines[0] - cosines[1]) * (2 * _beside(y, cosines[0]) - 1)
    return ((margin > TIE).double() + (margin.abs() <= TIE).double() / 2).mean(-1).to(vectors.dtype)


def shuffles(labels: Bool[Tensor, " sentence"], n: int, *, seed: int = 0) -> Bool[Tensor, "shuffle sentence"]:
    """The labels in `n` random orders, the senses as large as they are."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([labels[torch.randperm(len(labels), generator=generator)] for _ in range(n)])


def even_splits(n: int) -> Bool[Tensor, "split sentence"]:
    """Every way to split an even number of sentences into two halves, each once.

    Raises:
        ValueError: If `n` is odd or below 4.
    """
    if n < 4 or n % 2:
        raise ValueError(f"Halves of at least two need an even number of sentences from 4 on, got {n}.")
    halves = [{0, *rest} for rest in itertools.combinations(range(1, n), n // 2 - 1)]
    return torch.tensor([[i in half for i in range(n)] for half in halves])


def pulls(
    written: Float[Tensor, "part sentence d"],
    stream: Float[Tensor, "sentence d"],
    labels: Bool[Tensor, " sentence"],
) -> Float[Tensor, " part"]:
    """How far what each part wrote moves a sentence towards its own sense, along the direction between the senses.

    For every sentence: direction (unit length) and midpoint between the centroids of the other sentences, of the
    stream for the direction and of the part for the midpoint; the mean over sentences of how far the part lies on its
    sense's side. In units of the stream; linear in the part, so that parts that add up to the stream have pulls that
    add up to the stream's own. 0 in the mean, or a little below, where a part knows nothing of the sense.

    Raises:
        ValueError: If a sense has fewer than two sentences.
    """
    _check(labels, least=2)
    n = len(labels)
    weights = []
    for sense in (labels, ~labels):
        others = sense.to(stream)[None] * (1 - torch.eye(n, device=stream.device, dtype=stream.dtype))
        weights.append(others / others.sum(1, keepdim=True))  # [left out, sentence]: means of the others
    direction = torch.nn.functional.normalize((weights[0] - weights[1]) @ stream, dim=-1)
    middle = (weights[0] + weights[1]) / 2
    along = torch.einsum("psd,id->psi", written, direction)  # on the direction of each sentence left out
    own = along.diagonal(dim1=1, dim2=2) - torch.einsum("is,psi->pi", middle, along)
    return (own * (2 * labels.to(stream) - 1)).mean(1)


def _beside(labels: Tensor, like: Tensor) -> Tensor:
    """`[labelling, sentence]` with axes of length 1 for the batch between."""
    return labels.reshape(len(labels), *[1] * (like.ndim - 2), -1)


def _check(labels: Tensor, *, least: int) -> None:
    n = int(labels.sum())
    if min(n, len(labels) - n) < least:
        raise ValueError(f"Each sense needs at least {least} sentences, got {n} and {len(labels) - n}.")
