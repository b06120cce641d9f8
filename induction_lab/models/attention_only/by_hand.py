"""Attention heads written by hand into the weights: what the scores must say is known beforehand.

The residual stream is cut into parts that do not overlap, so that every head can be read off its weights:

    token      the token here, one-hot                      written by the embedding
    position   the position here, one-hot                   written by the position embedding
    previous   the token before, one-hot                    written by the previous-token head
    found      where the token stood earlier, one-hot       written by the duplicate-token head (gallery only)
    output     what to say next, one-hot; `W_U` reads this  written by the induction head

**The induction circuit** (Elhage et al. 2021). Head L0H0 asks for the position before its own and copies the token it
finds there into `previous`. Head L1H0 asks with the current token and its *keys read `previous`* (K-composition), so it
finds the position after an earlier occurrence; it copies the token there into `output`. Without one it rests on BOS.

Attention scores are `SHARP` where a head wants to look and 0 elsewhere; `REST` on BOS is between the two, so a head
rests where it finds nothing. Both are large enough that a softmax over a few hundred keys is one-hot to 1e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionLayer, AttentionOnlyTransformer
from induction_lab.results.heads import Head

SHARP, REST = 40.0, 20.0
CONFIDENCE = 20.0  # logit of the copied token

PREVIOUS_TOKEN, UNIFORM = Head(0, 0), Head(0, 1)
INDUCTION, RESTING = Head(1, 0), Head(1, 1)
DUPLICATE_TOKEN, CURRENT_TOKEN = Head(0, 2), Head(0, 3)
ANTI_INDUCTION, SUPPRESSOR = Head(1, 2), Head(1, 3)


@dataclass(frozen=True)
class _Parts:
    """Where in the residual stream each part begins."""

    d_vocab: int
    n_ctx: int

    @property
    def token(self) -> slice:
        return slice(0, self.d_vocab)

    @property
    def previous(self) -> slice:
        return slice(self.d_vocab, 2 * self.d_vocab)

    @property
    def output(self) -> slice:
        return slice(2 * self.d_vocab, 3 * self.d_vocab)

    @property
    def position(self) -> slice:
        return slice(3 * self.d_vocab, 3 * self.d_vocab + self.n_ctx)

    @property
    def found(self) -> slice:
        return slice(3 * self.d_vocab + self.n_ctx, 3 * self.d_vocab + 2 * self.n_ctx)


def induction_circuit(*, d_vocab: int = 128, n_ctx: int = 128) -> AttentionOnlyTransformer:
    """Two layers, two heads each: `PREVIOUS_TOKEN` feeds `INDUCTION`; `UNIFORM` and `RESTING` do nothing.

    To measure it, wrap it: `HookedModel(induction_circuit())`.

    On a repeated block its logits are flat over the first copy (loss ln d_vocab) and certain of the next token from the
    second copy on (loss below 1e-6).
    """
    return _build(d_vocab, n_ctx, n_heads=2)


def head_gallery(*, d_vocab: int = 128, n_ctx: int = 128) -> AttentionOnlyTransformer:
    """The circuit and one ideal head for every other score, four heads a layer.

    `ANTI_INDUCTION` shows Q-composition: it asks for the position before the one that `DUPLICATE_TOKEN` has found.
    `SUPPRESSOR` looks where `INDUCTION` looks and writes a quarter of it with the opposite sign.
    """
    model = _build(d_vocab, n_ctx, n_heads=4)
    parts = _Parts(d_vocab, n_ctx)
    with torch.no_grad():
        layer0, layer1 = _attention_layers(model)
        # Earlier occurrences, not itself: the token matches and the position does not.
        _asks(layer0, DUPLICATE_TOKEN, parts.token, parts.token, torch.eye(d_vocab) * SHARP)
        _asks(layer0, DUPLICATE_TOKEN, parts.position, parts.position, -torch.eye(n_ctx) * SHARP, at=d_vocab)
        _rests(layer0, DUPLICATE_TOKEN, parts)
        _writes(layer0, DUPLICATE_TOKEN, parts.position, parts.found, _without_first(n_ctx))
        _asks(layer0, CURRENT_TOKEN, parts.position, parts.position, torch.eye(n_ctx) * SHARP)
        _asks(layer1, ANTI_INDUCTION, parts.found, parts.position, _shift(n_ctx) * 4 * SHARP)
        _rests(layer1, ANTI_INDUCTION, parts)
        _asks(layer1, SUPPRESSOR, parts.token, parts.previous, torch.eye(d_vocab) * SHARP)
        _rests(layer1, SUPPRESSOR, parts)
        _writes(layer1, SUPPRESSOR, parts.token, parts.output, -_without_first(d_vocab) / 4)
    return model


def _build(d_vocab: int, n_ctx: int, *, n_heads: int) -> AttentionOnlyTransformer:
    if d_vocab < 2 or n_ctx < 2:
        raise ValueError(f"`d_vocab` and `n_ctx` must be at least 2, got {d_vocab} and {n_ctx}.")
    parts = _Parts(d_vocab, n_ctx)
    config = AttentionOnlyConfig(
        n_layers=2,
        n_heads=n_heads,
        d_model=3 * d_vocab + 2 * n_ctx,
        d_head=d_vocab + n_ctx + 1,  # room for a token, a position, and the wish to rest
        d_vocab=d_vocab,
        n_ctx=n_ctx,
        positions="learned",
        layer_norm=False,
    )
    model = AttentionOnlyTransformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.embed.W_E[:, parts.token] = torch.eye(d_vocab)
        model.pos_embed.W_pos[:, parts.position] = torch.eye(n_ctx)
        model.unembed.W_U[parts.output] = torch.eye(d_vocab) * CONFIDENCE
        layer0, layer1 = _attention_layers(model)
        _asks(layer0, PREVIOUS_TOKEN, parts.position, parts.position, _shift(n_ctx) * SHARP)
        _writes(layer0, PREVIOUS_TOKEN, parts.token, parts.previous, torch.eye(d_vocab))
        _asks(layer1, INDUCTION, parts.token, parts.previous, torch.eye(d_vocab) * SHARP)
        _rests(layer1, INDUCTION, parts)
        _writes(layer1, INDUCTION, parts.token, parts.output, _without_first(d_vocab))
        _rests(layer1, RESTING, parts)
    return model.eval()


def _attention_layers(model: AttentionOnlyTransformer) -> list[AttentionLayer]:
    return [module for module in model.modules() if isinstance(module, AttentionLayer)]


def _asks(
    layer: AttentionLayer,
    head: Head,
    query_part: slice,
    key_part: slice,
    matrix: Float[Tensor, "query_size key_size"],
    *,
    at: int = 0,
) -> None:
    """Give the head the scores `query[query_part] @ matrix @ key[key_part]`, in its dimensions from `at` on."""
    width = slice(at, at + matrix.shape[1])
    layer.W_Q[head.head, query_part, width] = matrix * layer.config.d_head**0.5
    layer.W_K[head.head, key_part, width] = torch.eye(matrix.shape[1])


def _rests(layer: AttentionLayer, head: Head, parts: _Parts) -> None:
    """Give every query a score of `REST` on BOS, which is token 0, in the head's last dimension."""
    layer.W_Q[head.head, parts.position, -1] = REST * layer.config.d_head**0.5
    layer.W_K[head.head, parts.token.start, -1] = 1.0


def _writes(
    layer: AttentionLayer, head: Head, source: slice, target: slice, matrix: Float[Tensor, "size size"]
) -> None:
    """Let the head copy `source` of where it looks, times `matrix`, into `target`."""
    size = matrix.shape[0]
    layer.W_V[head.head, source, :size] = torch.eye(size)
    layer.W_O[head.head, :size, target] = matrix


def _shift(size: int) -> Float[Tensor, "size size"]:
    """Position p asks for p - 1."""
    return torch.diag(torch.ones(size - 1), -1)


def _without_first(size: int) -> Float[Tensor, "size size"]:
    """Identity, but BOS (token 0, position 0) is not copied: resting writes nothing."""
    matrix = torch.eye(size)
    matrix[0, 0] = 0.0
    return matrix
