"""What a head would do, from the weights alone: its QK and OV circuits, and what they say about tokens.

Row convention throughout: a vector `x` is a row, maps act as `x @ W`.

    OV circuit   rows W_V W_O readers     entry [s, v]: how far attending to s raises v
    QK circuit   rows W_Q R W_K^T rows^T  entry [t, s]: how far a query at t prefers the key s; R turns by their offset

Rows are what stands in the residual stream: the embeddings of all tokens, their effective embeddings, positions, what
another head writes about each token, or any vectors. All norms on the way are folded in at frozen scale, biases left
out, unless `exact` is asked for. No prompt is seen: a head that would copy need never attend. Circuits are
`FactoredMatrix`es of TransformerLens, d_head wide inside; nothing here builds one of vocabulary by vocabulary.
Source: Elhage et al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from operator import index
from typing import SupportsIndex, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from transformer_lens.FactoredMatrix import FactoredMatrix

from induction_lab.exact_scores import queries_and_keys
from induction_lab.heads import Head, HeadLike, parse_head
from induction_lab.models import HookedModel
from induction_lab.norms import folded_weights, unembedding_readers
from induction_lab.progress import progress_bar
from induction_lab.rotary import relative_rotations
from induction_lab.sources import Source, stream_rows

Side = Source | HeadLike | Float[Tensor, "_ d_model"]
Offset = SupportsIndex | range


def ov_circuit(model: HookedModel, head: HeadLike, *, source: Side = "embedding") -> FactoredMatrix:
    """What a head writes into the logits about each row: `rows W_V W_O W_U`, `[row, d_vocab]`.

    >>> circuit = ov_circuit(load_model(), "L1H3")               # doctest: +SKIP
    >>> circuit[7].AB.argmax()  # the token that attending to token 7 raises most  # doctest: +SKIP
    tensor(7)

    Args:
        model: Any model whose weights TransformerLens gives by head.
        head: Which.
        source: `embedding`, `effective` (embedding and first MLP), `positions`, another head (what that writes about
            each token's embedding: a virtual head), or vectors `[row, d_model]`.

    Raises:
        ValueError: If head or source are not to be had, or the stream is projected before the unembedding.
    """
    layer, number = _head(model, head)
    _, _, W_V, W_O = folded_weights(model, layer)
    into = W_V[number // (model.n_heads // model.n_kv_heads)]
    return FactoredMatrix(side_rows(model, source) @ into, W_O[number] @ unembedding_readers(model).mT)


def qk_circuit(
    model: HookedModel,
    head: HeadLike,
    *,
    query: Side = "embedding",
    key: Side = "embedding",
    offset: Offset = 0,
    exact: bool = False,
) -> FactoredMatrix:
    """How far a head's query on each row prefers each key row: `query_rows W_Q R W_K^T key_rows^T`, `[query, key]`.

    >>> looked_for = qk_circuit(load_model(), "L1H3", key="L0H3")  # keys that tell the token before  # doctest: +SKIP
    >>> looked_for.AB[7].argmax()  # a query on token 7 looks for keys after token 7                  # doctest: +SKIP
    tensor(7)

    Args:
        model: Any model whose weights TransformerLens gives by head.
        head: Which.
        query: What stands at the query, as `source` of `ov_circuit`.
        key: What stands at the key.
        offset: Query less key position, for rotary models; a range stands for the mean rotation over it. Models that
            are not rotary give the same at every offset.
        exact: Attention scores as the model computes them before soft cap and mask, had the stream held these rows:
            each row normalised at its own scale, biases in, scaled. Those of layer 0 are the model's own.

    Raises:
        ValueError: If head, rows or offset are not to be had.
    """
    layer, number = _head(model, head)
    R = rotation(model, offset)[layer]
    rows = (side_rows(model, query), side_rows(model, key))
    kv_index = number // (model.n_heads // model.n_kv_heads)
    if exact:
        all_q, all_k = queries_and_keys(model, layer, *rows)
        q, k = all_q[number], all_k[kv_index]
    else:
        W_Q, W_K, _, _ = folded_weights(model, layer)
        q, k = rows[0] @ W_Q[number], rows[1] @ W_K[kv_index]
    return FactoredMatrix(q @ R, k.mT)


def side_rows(model: HookedModel, side: Side) -> Float[Tensor, "row d_model"]:
    """The vectors that a `source`, `query` or `key` stands for."""
    if isinstance(side, Tensor):
        if side.ndim != 2 or side.shape[1] != model.d_model:
            raise ValueError(f"Rows must be [row, d_model = {model.d_model}], got {tuple(side.shape)}.")
        return side.to(model.device, model.wide)
    if isinstance(side, str) and side in get_args(Source):
        return stream_rows(model, side)  # type: ignore[arg-type]
    try:
        layer, number = _head(model, side)
    except ValueError as error:
        raise ValueError(f"Rows are {', '.join(get_args(Source))}, a head, or vectors: {error}") from error
    _, _, W_V, W_O = folded_weights(model, layer)
    return stream_rows(model) @ W_V[number // (model.n_heads // model.n_kv_heads)] @ W_O[number]


def rotation(model: HookedModel, offset: Offset) -> Float[Tensor, "layer d_head d_head"]:
    """`R` of every layer at an offset, or its mean over a range of them."""
    return relative_rotations(model, offset if isinstance(offset, range) else [index(offset)]).mean(1)


def ov_eigenvalues(model: HookedModel, *, source: Side = "embedding") -> Complex[Tensor, "layer head d_head"]:
    """The non-zero eigenvalues of every head's output circuit `rows W_V W_O W_U` (vocabulary to vocabulary).

    They equal those of the d_head x d_head matrix `W_O (W_U rows) W_V`, so no vocabulary-sized matrix is built.
    Computed in float64. `source` gives one row a token: `embedding` or `effective`.
    """
    rows = _token_rows(model, source)
    through = unembedding_readers(model).mT.double() @ rows.double()  # from what is written to what its embedding is
    group = model.n_heads // model.n_kv_heads
    found = []
    for layer in range(model.n_layers):
        _, _, W_V, W_O = folded_weights(model, layer)
        found.append(_eigenvalues(W_O.double() @ through @ W_V.double().repeat_interleave(group, 0)))
    return torch.stack(found)


def ov_copying(model: HookedModel, *, source: Side = "embedding") -> Float[Tensor, "layer head"]:
    """How far tokens on the whole raise themselves through a head: `Re(sum of eigenvalues) / sum of their moduli`.

    1: copies, -1: suppresses what it attends to, about 0: random weights. A head that writes nothing scores 0.
    Not specific to induction heads. Source: Elhage et al. (2021), "Summarizing OV/QK matrices".
    """
    return positive_share(ov_eigenvalues(model, source=source))


def qk_eigenvalues(
    model: HookedModel,
    previous_token: Float[Tensor, "layer head"],
    *,
    offset: Offset = 0,
    source: Side = "embedding",
) -> Complex[Tensor, "layer head d_head"]:
    """The non-zero eigenvalues of every head's query circuit against keys that say which token came before.

    `rows W_Q R W_K^T (rows sum_h w_h W_V^h W_O^h)^T`, the sum running over the heads of earlier layers, weighted by
    `previous_token`: what they write at a position is about the token before it. Zero where no layer is earlier.
    """
    rows = _token_rows(model, source).double()
    gram = rows.mT @ rows
    R, group = rotation(model, offset).double(), model.n_heads // model.n_kv_heads
    found = []
    for layer, (W_Q, W_K, written) in enumerate(_query_sides(model, previous_token)):
        keys = (written.double() @ W_K.double()).repeat_interleave(group, 0)  # [head, d_model, d_head]
        found.append(_eigenvalues(keys.mT @ gram @ W_Q.double() @ R[layer]))
    return torch.stack(found)


def qk_matching(
    model: HookedModel,
    previous_token: Float[Tensor, "layer head"],
    *,
    offset: Offset = 0,
    source: Side = "embedding",
) -> Float[Tensor, "layer head"]:
    """How far a head's queries look for keys whose *previous* token is their own: the share of `qk_eigenvalues`.

    1: prefix matching, -1: avoids it, about 0: random weights. For rotary models at one offset, or over a range.

    Args:
        model: Any model whose weights TransformerLens gives by head.
        previous_token: Weight of each head as a previous-token head: `score_heads(…)["previous_token"]`.
        offset: Query less key position; a range stands for the mean rotation over it.
        source: `embedding`, `effective`, or a row for each token.
    """
    return positive_share(qk_eigenvalues(model, previous_token, offset=offset, source=source))


def positive_share(eigenvalues: Complex[Tensor, "*heads d_head"]) -> Float[Tensor, "*heads"]:
    """`Re(sum of eigenvalues) / sum of their moduli`, in [-1, 1]; 0 where there are none."""
    total = eigenvalues.abs().sum(-1)
    share = eigenvalues.real.sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total <= 1e-12, 0.0, share).float()


def ov_self_copying(
    model: HookedModel,
    *,
    k: int = 1,
    source: Side = "embedding",
    n_tokens: int = 256,
    seed: int = 0,
    progress: bool = False,
) -> Float[Tensor, "layer head"]:
    """Share of tokens that are among the `k` tokens they raise most themselves, through each head's output circuit.

    In [0, 1]; chance is `k / d_vocab`. Over `n_tokens` random tokens (all, if the vocabulary is no larger) against the
    whole vocabulary, so with a standard error of at most `1 / (2 sqrt(n_tokens))`.
    """
    rows, readers = _token_rows(model, source), unembedding_readers(model)
    tokens = _sample(model, k, n_tokens, seed)
    group = model.n_heads // model.n_kv_heads
    result = torch.zeros(model.n_layers, model.n_heads)
    with progress_bar(model.n_layers, "output circuits", shown=progress) as tick:
        for layer in range(model.n_layers):
            _, _, W_V, W_O = folded_weights(model, layer)
            for head in range(model.n_heads):
                result[layer, head] = _among_first(rows[tokens] @ W_V[head // group], W_O[head] @ readers.mT, tokens, k)
            tick(1)
    return result


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
) -> Float[Tensor, "layer head"]:
    """Share of tokens whose own key is among the `k` best for their query, over all tokens' keys.

    With `previous_token` weights the keys are those that say which token came before (`qk_matching`): induction.
    Without, those of the tokens themselves: heads that look for their own token. In [0, 1]; chance is `k / d_vocab`;
    sampled as in `ov_self_copying`. 0 where keys have no earlier layer to read.
    """
    rows = _token_rows(model, source)
    tokens = _sample(model, k, n_tokens, seed)
    R, group = rotation(model, offset), model.n_heads // model.n_kv_heads
    result = torch.zeros(model.n_layers, model.n_heads)
    with progress_bar(model.n_layers, "query circuits", shown=progress) as tick:
        for layer, (W_Q, W_K, written) in enumerate(_query_sides(model, previous_token)):
            keys = rows @ (W_K if previous_token is None else written @ W_K)  # [kv_head, token, d_head]
            for head in range(model.n_heads):
                queries = rows[tokens] @ W_Q[head] @ R[layer]
                result[layer, head] = _among_first(queries, keys[head // group].mT, tokens, k)
            tick(1)
    return result


def _eigenvalues(matrices: Float[Tensor, "head d_head d_head"]) -> Complex[Tensor, "head d_head"]:
    """NaN for matrices that are not finite, at which LAPACK may crash: those of models that diverged."""
    finite = matrices.isfinite().all(-1).all(-1)
    values = torch.linalg.eigvals(matrices.where(finite[:, None, None], 0.0)).cpu()
    return values.where(finite.cpu()[:, None], torch.nan)


def _query_sides(
    model: HookedModel, previous_token: Tensor | None
) -> list[tuple[Float[Tensor, "head d_model d_head"], Float[Tensor, "kv d_model d_head"], Float[Tensor, "wide wide"]]]:
    """Each layer's W_Q and W_K, and the weighted sum of what the heads of all earlier layers write."""
    shape = (model.n_layers, model.n_heads)
    if previous_token is not None and tuple(previous_token.shape) != shape:
        raise ValueError(f"`previous_token` must be [layer, head] = {shape}, got {tuple(previous_token.shape)}.")
    written = torch.zeros(model.d_model, model.d_model, dtype=model.wide, device=model.device)
    sides = []
    for layer in range(model.n_layers):
        W_Q, W_K, W_V, W_O = folded_weights(model, layer)
        sides.append((W_Q, W_K, written))
        if previous_token is not None:
            weights = previous_token[layer].to(written)[:, None, None]
            W_V = W_V.repeat_interleave(model.n_heads // model.n_kv_heads, 0)
            written = written + torch.einsum("hdn,hne->de", W_V, weights * W_O)
    return sides


def _among_first(
    left: Float[Tensor, "token d_head"], right: Float[Tensor, "d_head d_vocab"], tokens: Tensor, k: int
) -> float:
    """Share of rows of `left @ right` in which the entry of the row's own token is among the k largest; ties lose.

    NaN where entries are.
    """
    entries = left @ right
    own = entries.gather(1, tokens[:, None])
    if not bool(own.isfinite().all()):
        return float("nan")
    return float(((entries >= own).sum(1) <= k).float().mean())


def _token_rows(model: HookedModel, source: Side) -> Float[Tensor, "d_vocab d_model"]:
    rows = side_rows(model, source)
    if len(rows) != model.d_vocab:
        raise ValueError(f"One row for each of the {model.d_vocab} tokens is wanted, got {len(rows)} rows.")
    return rows


def _sample(model: HookedModel, k: int, n_tokens: int, seed: int) -> Tensor:
    if not 1 <= k < model.d_vocab or n_tokens < 1:
        raise ValueError(f"`k` must lie in 1 … {model.d_vocab - 1} and `n_tokens` be positive, got {k} and {n_tokens}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(model.d_vocab, generator=generator)[:n_tokens].to(model.device)


def _head(model: HookedModel, head: HeadLike) -> Head:
    return parse_head(head, n_layers=model.n_layers, n_heads=model.n_heads)
