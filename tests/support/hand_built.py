"""Networks of attention heads whose weights are written by hand, part by part of the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor

from induction_lab import HookedModel
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionLayer, AttentionOnlyTransformer

SHARP, CONFIDENCE = 40.0, 20.0  # as in `by_hand`


class HandBuilt:
    """A network whose stream has the parts token, position, output and those named, each read and written by name."""

    def __init__(self, *, n_layers: int, n_heads: int, d_vocab: int, n_ctx: int, **sizes: int) -> None:
        self.parts, start = {}, 0
        for name, size in {"token": d_vocab, "position": n_ctx, "output": d_vocab, **sizes}.items():
            self.parts[name] = slice(start, start + size)
            start += size
        shape = {"n_layers": n_layers, "n_heads": n_heads, "d_vocab": d_vocab, "n_ctx": n_ctx, "d_model": start}
        self.network = AttentionOnlyTransformer(
            AttentionOnlyConfig(**shape, d_head=d_vocab + n_ctx + 3, positions="learned", layer_norm=False)
        )
        for parameter in self.network.parameters():
            parameter.requires_grad_(False).zero_()
        self.network.embed.W_E[:, self.parts["token"]] = torch.eye(d_vocab)
        self.network.pos_embed.W_pos[:, self.parts["position"]] = torch.eye(n_ctx)
        self.network.unembed.W_U[self.parts["output"]] = torch.eye(d_vocab) * CONFIDENCE
        self.layers = [module for module in self.network.modules() if isinstance(module, AttentionLayer)]

    def asks(self, head: tuple[int, int], query: str, key: str, matrix: Tensor, *, at: int = 0) -> None:
        """Adds `query @ matrix @ key` times `SHARP` to the head's scores, in its dimensions from `at` on."""
        layer, width = self.layers[head[0]], slice(at, at + matrix.shape[1])
        layer.W_Q[head[1], self.parts[query], width] += matrix * SHARP * layer.config.d_head**0.5
        layer.W_K[head[1], self.parts[key], width] += torch.eye(matrix.shape[1])

    def rests(self, head: tuple[int, int], score: float) -> None:
        """Gives BOS, token 0, this score times `SHARP`, in the head's last dimension."""
        layer = self.layers[head[0]]
        layer.W_Q[head[1], self.parts["position"], -1] = score * SHARP * layer.config.d_head**0.5
        layer.W_K[head[1], self.parts["token"].start, -1] = 1.0

    def writes(self, head: tuple[int, int], source: str, target: str, matrix: Tensor) -> None:
        """Copies `source` of where the head looks, times `matrix`, into `target`."""
        layer, size = self.layers[head[0]], matrix.shape[0]
        layer.W_V[head[1], self.parts[source], :size] = torch.eye(size)
        layer.W_O[head[1], :size, self.parts[target]] = matrix

    def model(self, tokenizer=None) -> HookedModel:
        return HookedModel(self.network.eval(), tokenizer, name="by hand")


def back(size: int, by: int) -> Tensor:
    """Position p asks for p - by."""
    return torch.diag(torch.ones(size - by), -by)


def but_first(size: int) -> Tensor:
    """Identity, in which BOS, token 0, is left out."""
    matrix = torch.eye(size)
    matrix[0, 0] = 0.0
    return matrix
