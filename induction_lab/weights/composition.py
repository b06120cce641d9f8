"""Composition: how much of what one head writes a later head reads, from the weights alone, for all pairs at once.

The score of a pair is `|A B| / (|A| |B|)` in Frobenius norms, `A` what the earlier head writes into the stream and `B`
what the later one reads. Neither is ever multiplied out: `|A B|^2` is the inner product of `A^T A` and `B B^T`, which
are d_model x d_model, symmetric and known from d_head-wide factors. So all pairs come out of one matrix product that
runs over the d_model (d_model + 1) / 2 distinct entries, a few rows of them at a time: for d_model = 768 and
d_head = 64 a tenth of the operations of multiplying the factors pair by pair, and no pair's product in memory.
Source: Elhage et al. (2021), "Three kinds of composition", https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import key_head, to_query_heads
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, Heads, heads_by_layer
from induction_lab.weights.folded import FoldedWeights

Kind = Literal["Q", "K", "V"]
_BLOCK_BYTES = 2**24  # of the symmetric matrices' rows that are held at a time
_LAYER_GROUPS = 4  # a product with later layers only; more groups waste less and multiply narrower matrices


@takes_names
def composition_scores(
    model: HookedModel,
    kind: str = "K",
    *,
    later: Heads = None,
    subtract_baseline: bool = True,
    folded: FoldedWeights | None = None,
) -> Float[Tensor, "layer_1 head_1 layer_2 head_2"]:
    """How much of what one head writes a later head reads, against random matrices; for all pairs of heads.

    In row convention, with `OV = W_V W_O` of the earlier and `QK = W_Q W_K^T` of the later head, over the product of
    the two factors' Frobenius norms, so in [0, 1]::

        K: |OV QK^T|      Q: |OV QK|      V: |OV OV'|

    less what Gaussian matrices of the same shapes give (`composition_baseline`), sign kept: many lie below it.
    0 where the second head is in no later layer, so that it cannot read; NaN for layers that do not attend. All norms
    on the way are folded in; rotary positions turn neither side, which changes Q and K composition of single offsets,
    not what is read. Exact to about 1e-4 where nothing composes and 1e-6 elsewhere. Weights only: a high score is no
    proof that it matters.

    Where norms stand in the stream itself (post-norm: GPT-1, BERT), `OV` is what arrives of it at the later layer, that
    is times the centring and gains of all norms between the two; it is defined pair by pair, and how much of what the
    head wrote is lost on the way is not in it.

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        kind: Which input of the later head: `Q`, `K` or `V`.
        later: Only with these as the second head; pairs of the others are NaN.
        subtract_baseline: False gives the plain ratio.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If `kind` is none of the three, or the weights are not to be had.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"`kind` must be Q, K or V, got {kind!r}.")
    n_layers, n_heads = model.n_layers, model.n_heads
    chosen = heads_by_layer(later, n_layers=n_layers, n_heads=n_heads, of=model.anatomy.attending)
    folded = FoldedWeights.of(model, folded)
    writers = folded.once("writers", lambda: _writers(folded))
    scores = torch.full((n_layers, n_heads, n_layers, n_heads), torch.nan, dtype=torch.float32)
    size = -(-n_layers // _LAYER_GROUPS) if later is None else n_layers
    size = 1 if folded.renormalises else size
    for first in range(0, n_layers, size):
        group = [Head(layer, head) for layer in range(first, first + size) for head in chosen.get(layer, [])]
        if group:
            layers, heads = torch.tensor(group).T
            earlier = writers[: group[-1].layer]
            if folded.renormalises and len(earlier):
                earlier = torch.stack([_arriving(folded, each, i, len(earlier)) for i, each in enumerate(earlier)])
            ratios = _ratios(earlier.flatten(0, 1), _readers(folded, kind, group))
            scores[:, :, layers, heads] = 0.0
            scores[: len(earlier), :, layers, heads] = ratios.unflatten(0, (-1, n_heads)).cpu().float()
    attending = model.anatomy.attending
    if subtract_baseline:
        for layer in attending[1:]:
            for earlier in range(layer):
                if earlier in attending:
                    scores[earlier, :, layer] -= pair_baseline(model, kind, earlier, layer)[0]
    can_read = torch.arange(n_layers)[:, None] < torch.arange(n_layers)
    scores = torch.where(can_read[:, None, :, None] | scores.isnan(), scores, 0.0)
    absent = sorted(set(range(n_layers)) - set(attending))
    scores[absent] = torch.nan
    return scores


def pair_composition(folded: FoldedWeights, kind: Kind, pairs: Sequence[tuple[Head, Head]]) -> Float[Tensor, " pair"]:
    """`composition_scores` of a few pairs of an earlier and a later head, their factors multiplied out."""
    model = folded.model
    writers = folded.once("writers", lambda: _writers(folded))
    later = list(dict.fromkeys(second for _, second in pairs))
    readers = dict(zip(later, _readers(folded, kind, later), strict=True))
    arriving = [_arriving(folded, writers[first], first.layer, second.layer) for first, second in pairs]
    products = [writer @ readers[second].mT for writer, (_, second) in zip(arriving, pairs, strict=True)]
    baselines = [pair_baseline(model, kind, first.layer, second.layer)[0] for first, second in pairs]
    return torch.stack([product.norm() for product in products]).cpu() - torch.tensor(baselines)


def pair_baseline(model: HookedModel, kind: str, earlier: int, later: int) -> tuple[float, float]:
    """`composition_baseline` of heads as wide as those of an earlier and a later layer are."""
    keys, values = model.anatomy.head_widths(later)
    read = values if kind == "V" else keys
    return composition_baseline(model.d_model, model.anatomy.head_widths(earlier)[1], read)


@cache
def composition_baseline(
    d_model: int, d_head: int, d_later: int | None = None, *, n_samples: int = 64, seed: int = 0
) -> tuple[float, float]:
    """What Gaussian matrices of these shapes score in composition, and the standard error of that mean.

    About `1 / sqrt(d_model)`; the same for Q, K and V where their products have the same shapes.

    Args:
        d_model: Of the stream.
        d_head: Of what the earlier head writes.
        d_later: Of what the later head reads, `d_head` by default: widths differ in multi-head latent attention.
        n_samples: How many.
        seed: Of the matrices.
    """
    generator = torch.Generator().manual_seed(seed)

    def factors(d_head: int) -> tuple[Tensor, Tensor]:
        left, right = torch.randn(2, d_model, d_head, generator=generator, dtype=torch.float32, device="cpu")
        return torch.linalg.qr(left, mode="r").R, right

    ratios = []
    for _ in range(n_samples):
        (R_V, W_O), (R_Q, W_K) = factors(d_head), factors(d_later or d_head)
        written, read = R_V @ W_O.T, W_K @ R_Q.T
        ratios.append((written @ read).norm() / written.norm() / read.norm())
    drawn = torch.stack(ratios)
    return float(drawn.mean()), float(drawn.std() / n_samples**0.5)


def _writers(folded: FoldedWeights) -> Float[Tensor, "layer head d_head d_model"]:
    """What heads write, of norm 1 and d_head wide, because `|W_V X| = |R_V X|` where `W_V = Q_V R_V`."""
    model = folded.model
    writers = _no_factors(model, model.n_layers, model.n_heads)
    for layer in model.anatomy.attending:
        _, _, W_V, W_O = folded.layer(layer)
        writers[layer] = to_query_heads(_narrow(W_V), model.n_heads, dim=0) @ W_O
    return _of_norm_one(writers)


def _arriving(
    folded: FoldedWeights, writers: Float[Tensor, "*head d_head d_model"], layer: int, end: int
) -> Float[Tensor, "*head d_head d_model"]:
    """What heads of a layer write, as a later layer finds it: as it is, but for norms that stand in the stream."""
    if end == layer + 1 or not folded.renormalises:
        return writers
    return _of_norm_one(folded.carried(writers, layer + 1, end))


def _readers(folded: FoldedWeights, kind: str, heads: Sequence[Head]) -> Float[Tensor, "head d_head d_model"]:
    """What these heads read, narrowed likewise and transposed, so that the stream is last as in writers."""
    model = folded.model
    readers = _no_factors(model, len(heads))
    for layer in {head.layer for head in heads}:
        places = [place for place, head in enumerate(heads) if head.layer == layer]
        query = torch.tensor([heads[place].head for place in places], device=model.device)
        W_Q, W_K, W_V, W_O = folded.layer(layer)
        key = key_head(query, model.n_heads, len(W_K))
        if kind == "V":
            inner, other = _narrow(W_O[query].mT), W_V[key]
        else:
            inner, other = (_narrow(W_K)[key], W_Q[query]) if kind == "Q" else (_narrow(W_Q[query]), W_K[key])
        readers[places] = inner @ other.mT
    return _of_norm_one(readers)


def _no_factors(model: HookedModel, *size: int) -> Float[Tensor, "*size d_head d_model"]:
    return torch.zeros(*size, model.anatomy.head_width, model.d_model, dtype=model.wide, device=model.device)


def _of_norm_one(factors: Float[Tensor, "*size d_head d_model"]) -> Float[Tensor, "*size d_head d_model"]:
    norms = torch.linalg.matrix_norm(factors)[..., None, None]
    return factors.div_(torch.where(norms > 0, norms, 1.0))


def _narrow(weights: Float[Tensor, "head d_model d_head"]) -> Float[Tensor, "head d_head d_head"]:
    R = torch.linalg.qr(weights, mode="r").R
    return torch.nn.functional.pad(R, (0, 0, 0, R.shape[-1] - R.shape[-2]))  # heads wider than the stream


def _ratios(
    writers: Float[Tensor, "head_1 d_head d_model"], readers: Float[Tensor, "head_2 d_head d_model"]
) -> Float[Tensor, "head_1 head_2"]:
    """`|W R^T|` of every pair, as the inner product of `W^T W` and `R^T R`."""
    d_model = writers.shape[-1]
    squares = writers.new_zeros(len(writers), len(readers))
    step = max(8, _BLOCK_BYTES // (max(len(writers), len(readers)) * d_model * writers.element_size()))
    for start in range(0, d_model, step):
        written, read = (x[..., start : start + step].mT @ x[..., start:] for x in (writers, readers))
        written[..., step:] *= 2  # entries right of the diagonal block stand for those below it too
        squares += written.flatten(1) @ read.flatten(1).T
    return squares.clamp(min=0).sqrt()
