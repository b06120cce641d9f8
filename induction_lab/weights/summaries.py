"""One number a head from its QK and OV circuits: eigenvalues, copying, matching."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.norms import folded_weights, unembedding_readers
from induction_lab.runtime.progress import progress_bar
from induction_lab.weights.ov_qk import Offset, Side, rotation, side_rows


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
