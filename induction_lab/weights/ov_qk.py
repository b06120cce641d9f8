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

from typing import TYPE_CHECKING, get_args

from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import key_head
from induction_lab.models.frozen_norms import as_wide
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, HeadLike, parse_head
from induction_lab.weights.folded import FoldedWeights, Offset
from induction_lab.weights.queries_keys import queries_and_keys
from induction_lab.weights.stream_sources import Source

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix

Side = Source | HeadLike | Float[Tensor, "_ d_model"]


@takes_names
def ov_circuit(
    model: HookedModel, head: HeadLike, *, source: Side = "embedding", folded: FoldedWeights | None = None
) -> FactoredMatrix:
    """What a head writes into the logits about each row: `rows W_V W_O W_U`, `[row, d_vocab]`.

    >>> circuit = ov_circuit(load_model(), "L1H3")               # doctest: +SKIP
    >>> circuit[7].AB.argmax()  # the token that attending to token 7 raises most  # doctest: +SKIP
    tensor(7)

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        head: Which.
        source: `embedding`, `effective` (embedding and first MLP), `positions`, another head (what that writes about
            each token's embedding: a virtual head), or vectors `[row, d_model]`.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If head or source are not to be had, or the stream is projected before the unembedding.
    """
    from transformer_lens import FactoredMatrix

    layer, number = _head(model, head)
    folded = FoldedWeights.of(model, folded)
    _, _, W_V, W_O = folded.layer(layer, start=standing(folded, source), end=model.n_layers)
    into = W_V[key_head(number, model.n_heads, len(W_V))]
    return FactoredMatrix(side_rows(folded, source) @ into, W_O[number] @ folded.readers.mT)


@takes_names
def qk_circuit(
    model: HookedModel,
    head: HeadLike,
    *,
    query: Side = "embedding",
    key: Side = "embedding",
    offset: Offset = 0,
    exact: bool = False,
    folded: FoldedWeights | None = None,
) -> FactoredMatrix:
    """How far a head's query on each row prefers each key row: `query_rows W_Q R W_K^T key_rows^T`, `[query, key]`.

    >>> looked_for = qk_circuit(load_model(), "L1H3", key="L0H3")  # keys that tell the token before  # doctest: +SKIP
    >>> looked_for.AB[7].argmax()  # a query on token 7 looks for keys after token 7                  # doctest: +SKIP
    tensor(7)

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        head: Which.
        query: What stands at the query, as `source` of `ov_circuit`.
        key: What stands at the key.
        offset: Query less key position, for rotary models; a range stands for the mean rotation over it. Models that
            are not rotary give the same at every offset.
        exact: Attention scores as the model computes them before soft cap and mask, had the stream held these rows:
            each row normalised at its own scale, biases in, scaled. Those of layer 0 are the model's own.
        folded: The model's folded weights, where they are at hand.

    Raises:
        ValueError: If head, rows or offset are not to be had.
    """
    from transformer_lens import FactoredMatrix

    layer, number = _head(model, head)
    folded = FoldedWeights.of(model, folded)
    R = folded.rotations(offset)[layer]
    rows = (side_rows(folded, query), side_rows(folded, key))
    starts = (standing(folded, query), standing(folded, key))
    if exact:
        if model.anatomy.renormalises and any(start not in (None, layer) for start in starts):
            raise ValueError(
                f"{model.name} normalises its stream in every layer: at the scale of each row, layer {layer} is asked "
                "about vectors that stand in the stream which enters it. Give these, or exact=False."
            )
        all_q, all_k = queries_and_keys(model, layer, *rows)
        q, k = as_wide(model, all_q[number], all_k[key_head(number, model.n_heads, len(all_k))])
    else:
        W_Q, W_K = folded.layer(layer, start=starts[0]).W_Q, folded.layer(layer, start=starts[1]).W_K
        q, k = rows[0] @ W_Q[number], rows[1] @ W_K[key_head(number, model.n_heads, len(W_K))]
    return FactoredMatrix(q @ R, k.mT)


def side_rows(folded: FoldedWeights, side: Side) -> Float[Tensor, "row d_model"]:
    """The vectors that a `source`, `query` or `key` stands for.

    Raises:
        ValueError: If it is neither a source, nor a head, nor vectors of the stream's width.
    """
    model = folded.model
    if isinstance(side, Tensor):
        if side.ndim != 2 or side.shape[1] != model.d_model:
            raise ValueError(f"Rows must be [row, d_model = {model.d_model}], got {tuple(side.shape)}.")
        return side.to(model.device, model.wide)
    if isinstance(side, str) and side in get_args(Source):
        return folded.rows(side)  # type: ignore[arg-type]
    try:
        layer, number = _head(model, side)
    except ValueError as error:
        raise ValueError(f"Rows are {', '.join(get_args(Source))}, a head, or vectors: {error}") from error
    _, _, W_V, W_O = folded.layer(layer, start=0)
    return folded.rows() @ W_V[key_head(number, model.n_heads, len(W_V))] @ W_O[number]


def standing(folded: FoldedWeights, side: Side) -> int | None:
    """Which layer is entered by the stream that `side_rows` stand in; None for vectors: the one that is asked about.

    Of no account where the stream goes on from layer to layer as it is.
    """
    if isinstance(side, Tensor):
        return None
    if isinstance(side, str) and side in get_args(Source):
        return int(side == "effective")
    return _head(folded.model, side).layer + 1


def _head(model: HookedModel, head: HeadLike) -> Head:
    return parse_head(head, n_layers=model.n_layers, n_heads=model.n_heads)
