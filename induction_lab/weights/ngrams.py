"""Zero- and one-layer readings: what follows a token, and what follows it if another came before.

    bigrams        the direct path, token to logits: all that a model without layers can say
    skip-trigrams  `source … destination → out`: a head that looks from destination back to source and raises out

Source: Elhage et al. (2021), "Zero-layer transformers" and "Interpretation as skip-trigrams".
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.grouped import key_head
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.models.frozen_norms import final_norm, refuse_changed_outputs, unembedding_readers
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import HeadLike, parse_head
from induction_lab.results.token_labels import token_labels
from induction_lab.weights.ov_qk import Offset, qk_circuit
from induction_lab.weights.stream_sources import stream_rows

_BLOCK = 256  # rows of a circuit at a time
_MOST_TOKENS = 8192


@takes_names
def bigram_logits(model: HookedModel, tokens: Int[Tensor, " row"] | None = None) -> Float[Tensor, "row d_vocab"]:
    """What the direct path says of the token after each: `norm(W_E) W_U`, the final norm as the model applies it.

    Those of a model without layers exactly; where norms stand in the stream itself (GPT-1, BERT), through all of them.
    By default for every token, `[d_vocab, d_vocab]`, so give `tokens` where
    the vocabulary is large.

    Raises:
        ValueError: If a whole table is asked for of a vocabulary of more than 8,192 tokens.
    """
    if tokens is None and model.d_vocab > _MOST_TOKENS:
        raise ValueError(f"A table of {model.d_vocab} x {model.d_vocab} logits is too large: give `tokens`, the rows.")
    rows = stream_rows(model)
    rows = rows if tokens is None else rows[tokens.to(rows.device)]
    with torch.no_grad():
        stream = rows[None].to(model.dtype)
        for layer in range(model.n_layers) if model.anatomy.renormalises else ():
            for norm in model.anatomy.stream_norms(layer):
                stream = norm(stream)
        return model.unembed(model.final_norm(stream)).to(model.wide)[0]


def bigram_counts(tokens: Int[Tensor, " pos"], d_vocab: int) -> Float[Tensor, "d_vocab d_vocab"]:
    """How often each token follows each in a text.

    Raises:
        ValueError: If a token lies outside the vocabulary.
    """
    if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < d_vocab:
        raise ValueError(f"Tokens must lie in [0, {d_vocab}), got {int(tokens.min())} … {int(tokens.max())}.")
    pairs = tokens[:-1] * d_vocab + tokens[1:]
    return torch.bincount(pairs, minlength=d_vocab**2).view(d_vocab, d_vocab).float()


def bigram_divergence(
    counts: Float[Tensor, "d_vocab d_vocab"], logits: Float[Tensor, "d_vocab d_vocab"]
) -> tuple[float, float]:
    """How far a table is from a text's bigrams: KL(text | table) in nats a token, and the same for the best unigrams.

    0: the text's own table. The second number is what ignoring the token before costs: their mutual information.
    """
    joint = counts / counts.sum()
    given = joint / joint.sum(1, keepdim=True).clamp(min=1e-30)
    cross = -(joint * logits.log_softmax(-1))[joint > 0].sum()
    entropy = -(joint * given.clamp(min=1e-30).log()).sum()
    followers = joint.sum(0)
    unigram = -(followers * followers.clamp(min=1e-30).log()).sum()
    return float(cross - entropy), float(unigram - entropy)


@takes_names
def skip_trigrams(
    model: HookedModel,
    head: HeadLike,
    *,
    n: int = 20,
    offset: Offset = 0,
    context: int = 64,
    per_source: int = 3,
    among: Int[Tensor, " some"] | None = None,
) -> pd.DataFrame:
    """The strongest skip-trigrams `source … destination → out` of a first-layer head.

    `strength` is the logit, less its mean over tokens, that the source adds to `out` at the destination: attention to
    one source among `context` average tokens, times what the head writes about it. The attention is the model's own
    score; what it writes is read at the scale of the destination's own embedding (exact without LayerNorm).

    Args:
        model: Any whose queries and keys can be had; the reading is of its embeddings, so of a first-layer head.
        head: Which.
        n: How many.
        offset: Destination less source position, for rotary models; a range stands for the mean rotation.
        context: Tokens that share the attention.
        per_source: Destinations, and outs, considered for each source: lists stay varied.
        among: Tokens to consider in all three places; by default all. What a model says of tokens that it hardly ever
            saw is strong and means nothing, so give the common ones.

    Returns:
        Columns source, destination, out (token numbers), attention, logit, strength; strongest first. With a
        tokenizer also `text`, the three as people read them.

    Raises:
        ValueError: If the head is not in the first layer, the vocabulary exceeds 8,192 tokens, or heads' outputs do not
            reach the stream unchanged.
    """
    layer, index = parse_head(head, n_layers=model.n_layers, n_heads=model.n_heads)
    if layer != 0:
        raise ValueError(f"Only heads of the first layer read tokens alone, got L{layer}H{index}.")
    if model.d_vocab > _MOST_TOKENS:
        raise ValueError(f"Skip-trigrams are listed up to {_MOST_TOKENS} tokens; {model.name} has {model.d_vocab}.")
    refuse_changed_outputs(model, "a skip-trigram")
    tokens = torch.arange(n_real_tokens(model)) if among is None else among.cpu()
    if n < 1 or per_source < 1 or not len(tokens) or not 0 <= int(tokens.min()) <= int(tokens.max()) < model.d_vocab:
        raise ValueError(f"`n` and `per_source` must be at least 1, `among` some tokens in [0, {model.d_vocab}).")
    per_source = min(per_source, len(tokens))
    attention, destination = _best_destinations(model, index, tokens, offset, context, per_source)
    logit, out = _best_outs(model, index, tokens, per_source)
    strength = attention[:, :, None] * logit[:, None] / _stream_scale(model)[tokens][destination][:, :, None]
    best = strength.flatten().topk(min(n, strength.numel()))
    source, to, follows = np.unravel_index(best.indices.numpy(), strength.shape)  # that of torch loads sympy
    table = pd.DataFrame(
        {
            "source": tokens[source].numpy(),
            "destination": tokens[destination[source, to]].numpy(),
            "out": tokens[out[source, follows]].numpy(),
            "attention": attention[source, to].numpy(),
            "logit": (best.values / attention[source, to]).numpy(),
            "strength": best.values.numpy(),
        }
    )
    if model.tokenizer is not None:
        table["text"] = [_shown(model, *row) for row in table[["source", "destination", "out"]].itertuples(index=False)]
    return table


def _best_destinations(
    model: HookedModel, head: int, tokens: Tensor, offset: Offset, context: int, k: int
) -> tuple[Float[Tensor, "source k"], Int[Tensor, "source k"]]:
    """For every source the destinations that would attend to it most, among `context` average keys."""
    circuit, n_all = qk_circuit(model, (0, head), offset=offset, exact=True), n_real_tokens(model)
    shares = []
    for queries in circuit.A[tokens.to(circuit.A.device)].split(_BLOCK):
        scores = queries @ circuit.B
        rest = scores[:, :n_all].logsumexp(1, keepdim=True) - math.log(n_all) + math.log(context)
        shares.append(torch.sigmoid(scores - rest))
    best = torch.cat(shares).mT[tokens.to(circuit.A.device)].topk(k)
    return best.values.cpu(), best.indices.cpu()


def _best_outs(
    model: HookedModel, head: int, tokens: Tensor, k: int
) -> tuple[Float[Tensor, "source k"], Int[Tensor, "source k"]]:
    """For every source the tokens that attending to it raises most, in logits at scale 1."""
    weights = head_weights(model, 0)
    tokens = tokens.to(model.device)
    rows = stream_rows(model)[tokens]
    with torch.no_grad():
        read = model.anatomy.norm_before(0)(rows[None].to(model.dtype))[0].to(model.wide)
        kv_head = key_head(head, model.n_heads, model.n_kv_heads)
        written = read @ weights.W_V[kv_head].to(model.wide) @ weights.W_O[head].to(model.wide)
        readers = unembedding_readers(model)
        logits = written @ (readers[tokens] - readers[: n_real_tokens(model)].mean(0)).mT
    best = logits.topk(k)
    return best.values.cpu(), best.indices.cpu()


def _stream_scale(model: HookedModel) -> Float[Tensor, " row"]:
    """By what the final norm divides each token's embedding; 1 without a norm, infinite where that is all zeros."""
    rows = stream_rows(model)
    with torch.no_grad():
        normalised = model.final_norm(rows[None].to(model.dtype))[0].to(model.wide)
        return final_norm(model).scale(rows, normalised).nan_to_num(nan=torch.inf).cpu()


def _shown(model: HookedModel, source: int, destination: int, out: int) -> str:
    (a,), (b, c) = token_labels(model.tokenizer, [source]), token_labels(model.tokenizer, [destination, out])
    return f"{a} … {b} → {c}"
