"""What a head would do, from the weights alone. Row convention throughout: a vector `x` is a row, maps act as `x @ W`.

`W_OV = W_V W_O` says what a head writes where it attends. Normalisations are folded in at frozen scale: their gain, and
for LayerNorm the removal of the mean; biases are left out. Nothing here sees a prompt: a head that would copy need
never attend. Source: Elhage et al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from induction_lab.models import HookedModel

_PRODUCT_BYTES = 2**26  # of the products of two layers that are held at a time


class FrozenNorm(NamedTuple):
    """A normalisation at frozen scale: `x -> gain * (x - mean(x) if centred else x) / scale + bias`."""

    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    centred: bool

    def fold(self, readers: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_model"]:
        """Directions `r'` with `x @ r' = (norm(x) * scale) @ r`, bias left out."""
        folded = readers * self.gain
        return folded - folded.mean(-1, keepdim=True) if self.centred else folded

    def scale(
        self, x: Float[Tensor, "*batch d_model"], normalised: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch"]:
        """By what each row of `x` was divided to give `normalised`; 1 for a norm that does nothing."""
        inner = (x - x.mean(-1, keepdim=True) if self.centred else x) * self.gain
        return inner.square().sum(-1) / (inner * (normalised - self.bias)).sum(-1)


def frozen_norm(norm: nn.Module | None, d_model: int, *, like: Tensor) -> FrozenNorm:
    """Find a normalisation's gain, bias and centring by what it does to a few vectors, whatever it is called.

    An alternating vector of +1 and -1 has mean 0 and root mean square 1, so a norm only multiplies it by its gain;
    LayerNorm sends a constant vector to its bias.

    Raises:
        ValueError: If it does neither what LayerNorm nor what RMSNorm does.
    """
    zeros = torch.zeros(d_model, device=like.device, dtype=like.dtype)
    if norm is None or isinstance(norm, nn.Identity):
        zeros = zeros.to(torch.promote_types(like.dtype, torch.float32))
        return FrozenNorm(zeros + 1, zeros, False)
    signs = (1 - 2 * (torch.arange(d_model, device=like.device) % 2)).to(like.dtype)
    signs = signs - signs.mean() if d_model % 2 else signs
    large = 1e3  # so that epsilon vanishes
    with torch.inference_mode():
        bias = norm(zeros)
        gain = (norm(large * signs) - norm(-large * signs)) / 2 / signs * signs.square().mean().sqrt()
        constant = norm(large * (zeros + 1)) - bias
    tolerance = 1e-2 * float(gain.abs().max())
    centred = bool(constant.abs().max() < tolerance)
    if not centred and not torch.allclose(constant, gain, atol=tolerance):
        raise ValueError(f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm, so it cannot be folded.")
    wide = torch.promote_types(like.dtype, torch.float32)
    return FrozenNorm(gain.clone().to(wide), bias.clone().to(wide), centred)


def attention_norm(model: HookedModel, layer: int) -> FrozenNorm:
    """The normalisation before a layer's queries, keys and values; without one, the identity."""
    block = model.hooked.blocks[layer]
    norm = getattr(block, "ln1", None)
    norm = getattr(norm, "original_component", norm)  # what a TransformerLens bridge wraps
    return frozen_norm(norm, model.d_model, like=model.unembedding)


def final_norm(model: HookedModel) -> FrozenNorm:
    """The normalisation before the unembedding; without one, the identity."""
    return frozen_norm(model.final_norm, model.d_model, like=model.unembedding)


def ov_eigenvalues(model: HookedModel) -> Complex[Tensor, "layer head d_head"]:
    """The non-zero eigenvalues of every head's full output circuit `W_E W_V W_O W_U` (vocabulary to vocabulary).

    They equal those of the d_head x d_head matrix `W_O (W_U W_E) W_V`, so no vocabulary-sized matrix is built. Computed
    in float64.

    Raises:
        ValueError: If TransformerLens cannot give the model's weights by head, or embedding and stream differ in width.
    """
    W_V, W_O, W_E = (getattr(model.hooked, name).detach() for name in ("W_V", "W_O", "W_E"))
    if W_E.shape[1] != model.d_model or model.unembedding.shape[1] != model.d_model:
        raise ValueError(f"{model.name} projects its embedding, so its output circuits are not W_E W_OV W_U.")
    readers = final_norm(model).fold(model.unembedding.to(model.wide))
    through = readers.T.double() @ W_E.double()  # W_U W_E: from what is written to what the embedding of it reads
    group = model.n_heads // W_V.shape[1]
    found = []
    for layer in range(model.n_layers):
        norm = attention_norm(model, layer)
        inputs = norm.fold(W_V[layer].to(model.wide).mT).mT.double().repeat_interleave(group, 0)
        found.append(torch.linalg.eigvals(W_O[layer].double() @ through @ inputs))
    return torch.stack(found)


def ov_copying(model: HookedModel) -> Float[Tensor, "layer head"]:
    """How far tokens on the whole raise themselves through a head: `Re(sum of eigenvalues) / sum of their moduli`.

    1: copies, -1: suppresses what it attends to, about 0: random weights. A head that writes nothing scores 0.
    Not specific to induction heads. Source: Elhage et al. (2021), "Summarizing OV/QK matrices".
    """
    eigenvalues = ov_eigenvalues(model)
    total = eigenvalues.abs().sum(-1)
    share = eigenvalues.real.sum(-1) / total.clamp(min=torch.finfo(total.dtype).tiny)
    return torch.where(total > 1e-12, share, 0.0).float()


def composition_scores(
    model: HookedModel, kind: str = "K", *, subtract_baseline: bool = True
) -> Float[Tensor, "layer_1 head_1 layer_2 head_2"]:
    """How much of what one head writes a later head reads, against random matrices; for all pairs of heads.

    In row convention, with `OV = W_V W_O` of the earlier and `QK = W_Q W_K^T` of the later head, over the product of
    the two factors' Frobenius norms:

        K: |OV QK^T|      Q: |OV QK|      V: |OV OV'|

    less what Gaussian matrices of the same shapes give (`composition_baseline`), sign kept: many lie below it.
    0 where the second head is in no later layer, so that it cannot read. Gains and centring of each head's own norm are
    folded in; rotary positions are taken at offset 0. Weights only: a high score is no proof that it matters.
    Source: Elhage et al. (2021), "Three kinds of composition".

    Args:
        model: Any model whose weights TransformerLens gives by head.
        kind: Which input of the later head.
        subtract_baseline: False gives the plain ratio, in [0, 1].

    Raises:
        ValueError: If `kind` is none of the three, or the weights are not to be had.
    """
    if kind not in ("Q", "K", "V"):
        raise ValueError(f"`kind` must be Q, K or V, got {kind!r}.")
    writers, readers, strength = _composition_factors(model, kind)
    n_layers, n_heads, d_head = writers.shape[:3]
    baseline = composition_baseline(model.d_model, d_head)[0] if subtract_baseline else 0.0
    scores = torch.zeros(n_layers, n_heads, n_layers, n_heads)
    step = max(1, _PRODUCT_BYTES // (4 * (n_heads * d_head) ** 2))
    for layer in range(n_layers - 1):
        written = writers[layer].flatten(0, 1)  # [head_1 d_head, d_model]
        for first in range(layer + 1, n_layers, step):
            read = readers[first : first + step]  # [layer_2, d_model, head_2 d_head]
            products = (written @ read).unflatten(-1, (n_heads, d_head)).unflatten(1, (n_heads, d_head))
            norms = products.square().sum((2, 4)).sqrt()  # [layer_2, head_1, head_2]
            scores[layer, :, first : first + step] = norms.transpose(0, 1).cpu()
    own = torch.linalg.matrix_norm(writers).cpu()
    scores /= (own[:, :, None, None] * strength.cpu()).clamp(min=torch.finfo(scores.dtype).tiny)
    later = torch.arange(n_layers)[:, None] < torch.arange(n_layers)
    return torch.where(later[:, None, :, None], scores - baseline, 0.0)


def composition_baseline(d_model: int, d_head: int, *, n_samples: int = 64, seed: int = 0) -> tuple[float, float]:
    """What Gaussian matrices of these shapes score in composition, and the standard error of that mean.

    About `1 / sqrt(d_model)`; the same for Q, K and V, whose products have the same shapes.
    """
    generator = torch.Generator().manual_seed(seed)

    def factors() -> tuple[Tensor, Tensor]:
        left, right = torch.randn(2, d_model, d_head, generator=generator)
        return torch.linalg.qr(left, mode="r").R, right

    ratios = []
    for _ in range(n_samples):
        (R_V, W_O), (R_Q, W_K) = factors(), factors()
        written, read = R_V @ W_O.T, W_K @ R_Q.T
        ratios.append((written @ read).norm() / written.norm() / read.norm())
    drawn = torch.stack(ratios)
    return float(drawn.mean()), float(drawn.std() / n_samples**0.5)


def _composition_factors(
    model: HookedModel, kind: str
) -> tuple[
    Float[Tensor, "layer head d_head d_model"], Float[Tensor, "layer d_model head_d_head"], Float[Tensor, "layer head"]
]:
    """Narrow factors with the norms of the wide products, because `|W_V X| = |R_V X|` where `W_V = Q_V R_V`.

    Returns what each head writes, what each head's input reads (its heads side by side), and that reader's norm.
    """
    hooked = model.hooked
    writers, readers, strength = [], [], []
    for layer in range(model.n_layers):
        norm = attention_norm(model, layer)
        inputs = {}
        for name in ("W_Q", "W_K", "W_V"):
            weights = getattr(hooked, name)[layer].detach().to(model.wide)
            group = model.n_heads // weights.shape[0]
            inputs[name] = norm.fold(weights.mT).mT.repeat_interleave(group, 0)  # grouped-query heads share
        W_O = hooked.W_O[layer].detach().to(model.wide)
        narrow = {name: torch.linalg.qr(weights, mode="r").R for name, weights in inputs.items()}
        narrow["W_O"] = torch.linalg.qr(W_O.mT, mode="r").R
        writers.append(narrow["W_V"] @ W_O)
        reads, other = {"Q": ("W_Q", "W_K"), "K": ("W_K", "W_Q"), "V": ("W_V", "W_O")}[kind]
        readers.append((inputs[reads] @ narrow[other].mT).transpose(0, 1).flatten(1))
        strength.append(torch.linalg.matrix_norm(narrow[reads] @ narrow[other].mT))
    return torch.stack(writers), torch.stack(readers), torch.stack(strength)
