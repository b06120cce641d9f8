"""The parts of the small model that are not attention: embeddings, rotation, unembedding, norms, MLP.

Weights and hook points carry TransformerLens' names and shapes; `x @ W` throughout. Source of the equations: Elhage et
al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.hook_points import HookPoint


class Embed(nn.Module):
    """`W_E[token]`."""

    def __init__(self, d_vocab: int, d_model: int) -> None:
        """Gaussian rows of length about 1."""
        super().__init__()
        self.W_E = nn.Parameter(torch.randn(d_vocab, d_model, dtype=torch.float32) * d_model**-0.5)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Rows of `W_E`."""
        return nn.functional.embedding(tokens, self.W_E)  # its gradient, unlike that of indexing, is reproducible


class PosEmbed(nn.Module):
    """`W_pos[position]`."""

    def __init__(self, n_ctx: int, d_model: int) -> None:
        """Gaussian rows of length about 1."""
        super().__init__()
        self.W_pos = nn.Parameter(torch.randn(n_ctx, d_model, dtype=torch.float32) * d_model**-0.5)

    def forward(self, n_positions: int) -> Float[Tensor, "pos d_model"]:
        """The first `n_positions` rows of `W_pos`."""
        return self.W_pos[:n_positions]


class Unembed(nn.Module):
    """`logits = x W_U`, and `+ b_U` if asked for."""

    def __init__(self, d_model: int, d_vocab: int, *, bias: bool = False) -> None:
        """Gaussian columns of length about 1."""
        super().__init__()
        self.W_U = nn.Parameter(torch.randn(d_model, d_vocab, dtype=torch.float32) * d_model**-0.5)
        self.b_U = nn.Parameter(torch.zeros(d_vocab, dtype=torch.float32)) if bias else None

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits of the next token."""
        return x @ self.W_U if self.b_U is None else x @ self.W_U + self.b_U


class LayerNorm(nn.Module):
    """`w * (x - mean) / sqrt(variance + eps) + b`."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        """Starts as pure normalisation."""
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model, dtype=torch.float32))
        self.b = nn.Parameter(torch.zeros(d_model, dtype=torch.float32))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise over the last axis."""
        if not (self.hook_scale.has_hooks() or self.hook_normalized.has_hooks()):  # one kernel, where nobody looks
            if not torch.compiler.is_compiling() and x.is_inference() and not torch.is_inference_mode_enabled():
                x = x.clone()  # what comes out of inference mode cannot be kept for a gradient
            return nn.functional.layer_norm(x, (x.shape[-1],), self.w, self.b, self.eps)
        x = x - x.mean(-1, keepdim=True)
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale * self.w + self.b)


class RMSNorm(nn.Module):
    """`w * x / sqrt(mean of x^2 + eps)`."""

    def __init__(self, d_model: int, eps: float = 1e-5) -> None:
        """Starts as pure normalisation."""
        super().__init__()
        self.eps = eps
        self.w = nn.Parameter(torch.ones(d_model, dtype=torch.float32))
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Normalise over the last axis."""
        scale = self.hook_scale((x.square().mean(-1, keepdim=True) + self.eps).sqrt())
        return self.hook_normalized(x / scale * self.w)


def make_norm(config: AttentionOnlyConfig, width: int | None = None, *, final: bool = False) -> nn.Module:
    """The normalisation that a configuration asks for: of the stream, or of vectors of another width."""
    if not config.layer_norm:
        return nn.Identity()
    kind = RMSNorm if config.norm_kind == "rms" or (final and config.norm_kind == "final_rms") else LayerNorm
    return kind(width or config.d_model, config.norm_eps)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": nn.functional.relu,
    "gelu": nn.functional.gelu,
    "gelu_new": partial(nn.functional.gelu, approximate="tanh"),
    "silu": nn.functional.silu,
    "solu": lambda x: x * x.softmax(-1),
    "solu_ln": lambda x: x * x.softmax(-1),  # and the MLP's own norm behind it
}


class MLP(nn.Module):
    """`activation(x W_in + b_in) W_out + b_out`; with `solu_ln` a norm stands before `W_out`."""

    def __init__(self, config: AttentionOnlyConfig) -> None:
        """Gaussian weights, zero biases."""
        super().__init__()
        assert config.d_mlp is not None
        d_model, d_mlp = config.d_model, config.d_mlp
        self.act = ACTIVATIONS[config.activation]
        self.W_in = nn.Parameter(torch.randn(d_model, d_mlp, dtype=torch.float32) * d_model**-0.5)
        self.b_in = nn.Parameter(torch.zeros(d_mlp, dtype=torch.float32))
        self.W_out = nn.Parameter(torch.randn(d_mlp, d_model, dtype=torch.float32) * d_mlp**-0.5)
        self.b_out = nn.Parameter(torch.zeros(d_model, dtype=torch.float32))
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()
        self.ln = None
        if config.activation == "solu_ln":
            self.ln = make_norm(config, d_mlp)
            self.hook_mid = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the MLP adds to the stream."""
        post = self.act(self.hook_pre(x @ self.W_in + self.b_in))
        post = post if self.ln is None else self.ln(self.hook_mid(post))
        return self.hook_post(post) @ self.W_out + self.b_out


def rotate(
    x: Float[Tensor, "batch pos head d_head"], *, base: float = 10_000.0
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotate pairs (i, i + d_head/2) by `position * base^(-2i/d_head)`, so that q.k depends on the offset alone.

    Source: Su et al. (2021), https://arxiv.org/abs/2104.09864.
    """
    turns = _turns.__wrapped__ if torch.compiler.is_compiling() else _turns  # a compiler keeps them itself
    cos, sin = turns(tuple(x.shape[1:]), base, x.device, x.dtype)
    return _Rotation.apply(x, cos, sin)  # type: ignore[return-value]


class _Rotation(torch.autograd.Function):
    """Its gradient is the rotation back: nothing but the angles need be kept."""

    @staticmethod
    def forward(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate."""
        return _rotated(x, cos, sin)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        """Keep the angles."""
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Rotate back."""
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(gradients[0], cos, -sin), None, None  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, int]:
        """Axes before the positions are rotated alike."""
        return _Rotation.apply(x.movedim(in_dims[0] or 0, 0), cos, sin), 0  # type: ignore[return-value]


_Rotation.forward.__signature__ = signature(_Rotation.forward)  # which `apply` would work out anew at every call


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)


@lru_cache(maxsize=16)
def _turns(
    shape: tuple[int, ...], base: float, device: torch.device, dtype: torch.dtype
) -> tuple[Float[Tensor, "pos head d_head"], Float[Tensor, "pos head d_head"]]:
    """Cosines and signed sines, written out for every head: rows that need no broadcasting are read much faster."""
    n_pos, n_heads, d_head = shape
    half = d_head // 2
    with torch.inference_mode(False):  # what is kept from inference could not be trained with later
        frequency = base ** (-torch.arange(half, dtype=torch.float32, device=device) / half)
        angle = torch.outer(torch.arange(n_pos, dtype=torch.float32, device=device), frequency)[:, None]
        cos, sin = angle.cos().repeat(1, n_heads, 2), torch.cat([-angle.sin(), angle.sin()], -1).repeat(1, n_heads, 1)
        return cos.to(dtype), sin.to(dtype)
