"""One number a head from its QK and OV circuits: eigenvalues, copying, matching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from induction_lab.attention.grouped import key_head, to_query_heads
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.models.frozen_norms import final_norm, refuse_projected
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.on_disk.offloading import offloading_of
from induction_lab.results.heads import Heads, heads_by_layer
from induction_lab.runtime.progress import progress_bar
from induction_lab.weights.folded import FoldedWeights, Offset
from induction_lab.weights.ov_qk import Side, side_rows, standing
from induction_lab.weights.stream_sources import Source, token_rows

_TOKENS_A_TIME = 2**13  # of the vocabulary, whose entries are compared
_NUMBERS_A_TIME = 2**25  # of the vocabulary's rows, in float64


@takes_names
def ov_eigenvalues(
    model: HookedModel, *, source: Side = "embedding", heads: Heads = None, folded: FoldedWeights | None = None
) -> Complex[Tensor, "layer head d_head"]:
    """The non-zero eigenvalues of every head's output circuit `rows W_V W_O W_U` (vocabulary to vocabulary).

    They equal those of the d_head x d_head matrix `W_O (W_U rows) W_V`, so no vocabulary-sized matrix is built.
    Computed in float64.

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        source: One row a token: `embedding`, `effective`, or vectors.
        heads: Only of these; the others are NaN.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If rows or weights are not to be had, or a head is not there.
    """
    folded = FoldedWeights.of(model, folded)
    if heads is None:
        return _kept(folded, "OV eigenvalues", source, lambda: _ov_eigenvalues(folded, source, None))
    return _ov_eigenvalues(folded, source, heads)


def _ov_eigenvalues(folded: FoldedWeights, source: Side, heads: Heads) -> Complex[Tensor, "layer head d_head"]:
    model = folded.model
    through = _kept(folded, "written to embedding", source, lambda: _from_written_to_embedding(folded, source))
    chosen = heads_by_layer(heads, n_layers=model.n_layers, n_heads=model.n_heads, of=model.anatomy.attending)

    def circuits() -> Iterator[tuple[int, Tensor]]:
        for layer in chosen:
            _, _, W_V, W_O = folded.layer(layer, start=standing(folded, source), end=model.n_layers)
            yield layer, W_O.double() @ through @ to_query_heads(W_V.double(), model.n_heads, dim=0)

    return _eigenvalues(model, circuits(), chosen)


@takes_names
def ov_copying(
    model: HookedModel, *, source: Side = "embedding", heads: Heads = None, folded: FoldedWeights | None = None
) -> Float[Tensor, "layer head"]:
    """How far tokens on the whole raise themselves through a head: `Re(sum of eigenvalues) / sum of their moduli`.

    1: copies, -1: suppresses what it attends to, about 0: random weights. A head that writes nothing scores 0.
    Not specific to induction heads. Source: Elhage et al. (2021), "Summarizing OV/QK matrices". Arguments as in
    `ov_eigenvalues`.
    """
    return positive_share(ov_eigenvalues(model, source=source, heads=heads, folded=folded))


@takes_names
def qk_eigenvalues(
    model: HookedModel,
    previous_token: Float[Tensor, "layer head"],
    *,
    offset: Offset = 0,
    source: Side = "embedding",
    heads: Heads = None,
    folded: FoldedWeights | None = None,
) -> Complex[Tensor, "layer head d_head"]:
    """The non-zero eigenvalues of every head's query circuit against keys that say which token came before.

    `rows W_Q R W_K^T (rows sum_h w_h W_V^h W_O^h)^T`, the sum running over the heads of earlier layers, weighted by
    `previous_token`: what they write at a position is about the token before it. Zero where no layer is earlier.
    Arguments as in `qk_matching`.
    """
    folded = FoldedWeights.of(model, folded)
    gram = _gram(folded, source)
    R = folded.rotations(offset).double()
    chosen = heads_by_layer(heads, n_layers=model.n_layers, n_heads=model.n_heads, of=model.anatomy.attending)

    def circuits() -> Iterator[tuple[int, Tensor]]:
        for layer, W_Q, W_K, written in _query_sides(folded, previous_token, source):
            if layer > max(chosen, default=-1):
                break
            if layer in chosen:
                keys = to_query_heads(written.double() @ W_K.double(), model.n_heads, dim=0)  # [head, d_model, d_head]
                yield layer, keys.mT @ gram @ W_Q.double() @ R[layer]

    return _eigenvalues(model, circuits(), chosen)


@takes_names
def qk_matching(
    model: HookedModel,
    previous_token: Float[Tensor, "layer head"],
    *,
    offset: Offset = 0,
    source: Side = "embedding",
    heads: Heads = None,
    folded: FoldedWeights | None = None,
) -> Float[Tensor, "layer head"]:
    """How far a head's queries look for keys whose *previous* token is their own: the share of `qk_eigenvalues`.

    1: prefix matching, -1: avoids it, about 0: random weights. For rotary models at one offset, or over a range.

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        previous_token: Weight of each head as a previous-token head: `score_heads(…)["previous_token"]`.
        offset: Query less key position; a range stands for the mean rotation over it.
        source: `embedding`, `effective`, or a row for each token.
        heads: Only of these; the others are NaN.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If `previous_token` has another shape, or rows, offset, weights or a head are not to be had.
    """
    found = qk_eigenvalues(model, previous_token, offset=offset, source=source, heads=heads, folded=folded)
    return positive_share(found)


def positive_share(eigenvalues: Complex[Tensor, "*heads d_head"]) -> Float[Tensor, "*heads"]:
    """`Re(sum of eigenvalues) / sum of their moduli`, in [-1, 1]; 0 where there are none."""
    total = eigenvalues.abs().sum(-1)
    share = eigenvalues.real.sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total <= 1e-12, 0.0, share).float()


@takes_names
def ov_self_copying(
    model: HookedModel,
    *,
    k: int = 1,
    source: Side = "embedding",
    n_tokens: int = 256,
    seed: int = 0,
    progress: bool = False,
    folded: FoldedWeights | None = None,
) -> Float[Tensor, "layer head"]:
    """Share of tokens that are among the `k` tokens they raise most themselves, through each head's output circuit.

    In [0, 1]; chance is `k / d_vocab`. Over `n_tokens` random tokens (all, if the vocabulary is no larger) against the
    whole vocabulary, so with a standard error of at most `1 / (2 sqrt(n_tokens))`.
    """
    folded = FoldedWeights.of(model, folded)
    readers, tokens = folded.readers[: n_real_tokens(model)], _sample(model, k, n_tokens, seed)
    asked = _token_rows(folded, source)[tokens]
    result = torch.full((model.n_layers, model.n_heads), torch.nan)
    with progress_bar(model.n_layers, "output circuits", shown=progress) as tick:
        for layer in model.anatomy.attending:
            _, _, W_V, W_O = folded.layer(layer, start=standing(folded, source), end=model.n_layers)
            for head in range(model.n_heads):
                written = asked @ W_V[key_head(head, model.n_heads, len(W_V))] @ W_O[head]
                result[layer, head] = among_first(written, readers, tokens, k)
            tick(1)
    return result


@takes_names
def qk_diagonal(
    model: HookedModel,
    previous_token: Float[Tensor, "layer head"] | None = None,
    *,
    k: int = 1,
    offset: Offset = 0,
    source: Side = "embedding",
    n_tokens: int = 256,
    seed: int = 0,
    progress: bool = False,
    folded: FoldedWeights | None = None,
) -> Float[Tensor, "layer head"]:
    """Share of tokens whose own key is among the `k` best for their query, over all tokens' keys.

    With `previous_token` weights the keys are those that say which token came before (`qk_matching`): induction.
    Without, those of the tokens themselves: heads that look for their own token. In [0, 1]; chance is `k / d_vocab`;
    sampled as in `ov_self_copying`. 0 where keys have no earlier layer to read.
    """
    folded = FoldedWeights.of(model, folded)
    rows, R = _token_rows(folded, source), folded.rotations(offset)
    tokens = _sample(model, k, n_tokens, seed)
    result = torch.full((model.n_layers, model.n_heads), torch.nan)
    with progress_bar(model.n_layers, "query circuits", shown=progress) as tick:
        for layer, W_Q, W_K, written in _query_sides(folded, previous_token, source):
            to_keys = (W_K if previous_token is None else written @ W_K).mT
            for head in range(model.n_heads):
                looked_for = rows[tokens] @ W_Q[head] @ R[layer] @ to_keys[key_head(head, model.n_heads, len(to_keys))]
                result[layer, head] = among_first(looked_for, rows, tokens, k)
            tick(1)
    return result


def _eigenvalues(
    model: HookedModel, circuits: Iterable[tuple[int, Tensor]], chosen: dict[int, list[int]]
) -> Complex[Tensor, "layer head d_head"]:
    """Those of the chosen heads, given each layer's `[head, d_head, d_head]` matrices; NaN for the other heads.

    NaN too for matrices that are not finite, at which LAPACK may crash: those of models that diverged.
    """
    found = torch.full((model.n_layers, model.n_heads, model.anatomy.head_width), torch.nan, dtype=torch.complex128)
    for layer, of_layer in circuits:
        matrices = of_layer[chosen[layer]]
        finite = matrices.isfinite().all(-1).all(-1)
        values = torch.linalg.eigvals(matrices.where(finite[:, None, None], 0.0)).cpu()
        found[layer, chosen[layer]] = values.where(finite.cpu()[:, None], torch.nan)
    return found


def _query_sides(
    folded: FoldedWeights, previous_token: Tensor | None, source: Side
) -> Iterator[
    tuple[int, Float[Tensor, "head d_model d_head"], Float[Tensor, "kv d_model d_head"], Float[Tensor, "wide wide"]]
]:
    """Each layer that attends, its W_Q and W_K, and the weighted sum of what the heads of all earlier layers write.

    Queries read the rows of the source, and so do keys where no sum is asked for; else they read that. Where norms
    stand in the stream, all layers' shares of the sum have gone through as many, whose scales are taken to be alike.
    """
    model, start = folded.model, standing(folded, source)
    shape = (model.n_layers, model.n_heads)
    if previous_token is not None and tuple(previous_token.shape) != shape:
        raise ValueError(f"`previous_token` must be [layer, head] = {shape}, got {tuple(previous_token.shape)}.")
    written = torch.zeros(model.d_model, model.d_model, dtype=model.wide, device=model.device)
    for layer in model.anatomy.attending:
        W_Q, W_K, W_V, W_O = folded.layer(layer, start=start)
        yield layer, W_Q, W_K if previous_token is None else folded.layer(layer).W_K, written
        if previous_token is not None:
            weights = previous_token[layer].to(written)[:, None, None]
            W_V = to_query_heads(W_V, model.n_heads, dim=0)
            written = folded.carried(written, layer, layer + 1) + torch.einsum("hdn,hne->de", W_V, weights * W_O)


def among_first(
    asked: Float[Tensor, "token d_model"], rows: Float[Tensor, "d_vocab d_model"], tokens: Tensor, k: int
) -> float:
    """Share of rows of `asked @ rows^T` in which the entry of the row's own token is among the k largest; ties lose.

    Some of the vocabulary at a time, and only for the tokens that have not lost yet: most have early on. NaN where
    entries are.
    """
    own = (asked @ rows[tokens].mT).diagonal()
    if not bool(own.isfinite().all()):
        return float("nan")
    no_lower = torch.zeros_like(tokens)  # other tokens whose entry is no lower
    for start in range(0, len(rows), _TOKENS_A_TIME):
        left = (no_lower < k).nonzero()[:, 0]
        entries = asked[left] @ rows[start : start + _TOKENS_A_TIME].mT
        here = tokens[left, None] == torch.arange(start, start + entries.shape[1], device=tokens.device)
        no_lower[left] += ((entries >= own[left, None]) & ~here).sum(1)
    return float((no_lower < k).float().mean())


def _gram(folded: FoldedWeights, source: Side) -> Float[Tensor, "d_model d_model"]:
    """`rows^T rows` in float64."""

    def make() -> Tensor:
        rows = _token_rows(folded, source)
        return _product(rows, rows)

    return _kept(folded, "gram", source, make)


def _kept(folded: FoldedWeights, what: str, source: Side, make: Callable[[], Tensor]) -> Tensor:
    """What is made of rows that go by a name is kept; vectors of a user's own have none."""
    return folded.once((what, source), make) if isinstance(source, str) else make()


def _from_written_to_embedding(folded: FoldedWeights, source: Side) -> Float[Tensor, "d_model d_model"]:
    """`W_U rows` in float64, norm and logit scale folded in: what a head writes, as the embedding of what it raises."""
    model = folded.model
    refuse_projected(model)
    if offloading_of(model.network) is not None and isinstance(source, str) and source in get_args(Source):
        norm, n_real = final_norm(model), n_real_tokens(model)
        parts = (
            norm.fold(model.anatomy.unembedding[real].to(model.dtype).to(model.wide)).mT.double()
            @ rows[: len(real)].double()
            for tokens, rows in token_rows(model, source)  # type: ignore[arg-type]
            if len(real := tokens[tokens < n_real])
        )  # some tokens at a time
        return reduce(torch.add, parts) * model.logit_scale
    rows = _token_rows(folded, source)
    unembedding = model.unembedding[: len(rows)]
    if rows.shape == unembedding.shape and torch.equal(rows, unembedding.to(rows)):  # tied embeddings
        return final_norm(model).fold(_gram(folded, source)).mT * model.logit_scale
    return _product(folded.readers[: len(rows)], rows)


def _product(
    left: Float[Tensor, "token d_model"], right: Float[Tensor, "token d_model"]
) -> Float[Tensor, "d_model d_model"]:
    """`left^T right` in float64, some tokens at a time: a large vocabulary takes gigabytes in float64."""
    total = right.new_zeros(left.shape[1], right.shape[1], dtype=torch.float64)
    step = max(1, _NUMBERS_A_TIME // right.shape[1])
    for start in range(0, len(right), step):
        some = right[start : start + step].double()
        total += (some if left is right else left[start : start + step].double()).mT @ some
    return total


def _token_rows(folded: FoldedWeights, source: Side) -> Float[Tensor, "token d_model"]:
    """Those of the tokens that there are; rows which only pad the vocabulary are left out."""
    rows = side_rows(folded, source)
    if len(rows) != folded.model.d_vocab:
        raise ValueError(f"One row for each of the {folded.model.d_vocab} tokens is wanted, got {len(rows)} rows.")
    return rows[: n_real_tokens(folded.model)]


def _sample(model: HookedModel, k: int, n_tokens: int, seed: int) -> Tensor:
    n_all = n_real_tokens(model)
    if not 1 <= k < n_all or n_tokens < 1:
        raise ValueError(f"`k` must lie in 1 … {n_all - 1} and `n_tokens` be positive, got {k} and {n_tokens}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(n_all, generator=generator)[:n_tokens].to(model.device)
