"""How far rotary positions turn a query against a key that lies some tokens before it, exactly as the model does it.

Rotary attention scores `(q R_t) (k R_s)^T = q R_(t-s) k^T` depend on the offset alone. What `R` is differs: its base,
how many dimensions turn, which of them are pairs, scaling for long contexts, layers that do not turn at all. So it is
not derived from a configuration but seen: a token that stands alone has the same queries and keys in every layer
wherever it is said to stand, up to the rotation. Source: Su et al. (2021), https://arxiv.org/abs/2104.09864.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from induction_lab.attention import Attention, AttentionReading, reading
from induction_lab.attention_only import AttentionOnlyTransformer
from induction_lab.layers import rotate
from induction_lab.models import HookedModel, evaluating
from induction_lab.reading import goes_through_interface, on_engine

_PROBES = 8  # tokens
_FAR = 0.618  # of the context: an offset at which even slow dimensions have turned


def is_rotary(model: HookedModel) -> bool:
    """Whether queries and keys are turned by their position."""
    if isinstance(model.network, AttentionOnlyTransformer):
        return model.network.cfg.positions == "rotary"
    config = model.network.config.get_text_config(decoder=True)
    return bool(getattr(config, "rope_parameters", None) or getattr(config, "rotary_dim", None))


def relative_rotations(model: HookedModel, offsets: Sequence[int]) -> Float[Tensor, "layer offset d_head d_head"]:
    """`R` of every layer with `q R k^T` the score of query and key (rows, before rotation) at each offset.

    The identity at offset 0, and at every offset for models without rotary positions. An overall factor that some
    long-context variants multiply into their rotation is left out.

    Args:
        model: Any supported model.
        offsets: Query position less key position, from 0 to the context's length less one.

    Raises:
        ValueError: If an offset lies outside the context, or the rotation cannot be seen (GPT-J).
    """
    offsets = list(offsets)
    if not offsets or min(offsets) < 0 or (model.n_ctx is not None and max(offsets) >= model.n_ctx):
        raise ValueError(f"Offsets must lie in 0 … {(model.n_ctx or 0) - 1} (query less key position), got {offsets}.")
    eye = torch.eye(model.d_head, dtype=model.wide, device=model.device)
    if not is_rotary(model):
        return eye.expand(model.n_layers, len(offsets), -1, -1)
    if isinstance(model.network, AttentionOnlyTransformer):
        rows = eye[:, None, None].expand(-1, max(offsets) + 1, 1, -1)
        turned = rotate(rows)[:, offsets, 0].transpose(0, 1)  # [offset, d_head, d_head]
        return turned.expand(model.n_layers, -1, -1, -1)
    if not goes_through_interface(model):
        raise ValueError(
            f"{type(model.network).__name__} rotates outside the attention interface of transformers; its rotation "
            "cannot be read."
        )
    return torch.stack([_rotation(samples) for samples in _turned_samples(model, offsets)])


def _turned_samples(model: HookedModel, offsets: list[int]) -> list[Float[Tensor, "sample pos d_head"]]:
    """Each layer's queries and keys at positions 0, a far one, and the offsets, all alike before they were turned."""
    far = int(_FAR * ((model.n_ctx or 4096) - 1))
    positions = torch.tensor([0, far, *offsets], device=model.device)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.d_vocab, (_PROBES, 1), generator=generator).to(model.device)
    tokens, positions = tokens.repeat_interleave(len(positions), 0), positions.repeat(_PROBES)[:, None]
    seen: dict[int, Tensor] = {}

    def read(attention: AttentionReading) -> None:
        assert isinstance(attention, Attention)
        both = torch.cat([attention.q, attention.k], 1)[:, :, 0].unflatten(0, (_PROBES, -1))
        seen[attention.layer] = both.transpose(1, 2).flatten(0, 1).to(model.wide)

    with torch.inference_mode(), evaluating(model.network), reading(read), on_engine(model):
        model.network.base_model(tokens, position_ids=positions, use_cache=False)
    if len(seen) != model.n_layers:
        raise ValueError(f"Only {len(seen)} of {model.n_layers} layers of {model.name} showed their queries and keys.")
    return [seen[layer] for layer in range(model.n_layers)]


def _rotation(samples: Float[Tensor, "sample pos d_head"]) -> Float[Tensor, "offset d_head d_head"]:
    """Pairs of dimensions and their turns, from vectors at positions 0, a far one, and the offsets."""
    d_head = samples.shape[-1]
    start, moved = samples[:, 0], samples[:, 1] - samples[:, 0]
    turning = (moved.square().mean(0) > 1e-6 * start.square().mean()).nonzero()[:, 0]
    rotation = torch.eye(d_head, dtype=samples.dtype, device=samples.device).repeat(samples.shape[1] - 2, 1, 1)
    if not len(turning):
        return rotation
    if len(turning) % 2 == 0:
        half = len(turning) // 2
        for first, second in ((turning[:half], turning[half:]), (turning[::2], turning[1::2])):
            turns, error = _turns(samples, first, second)
            if error < 1e-3:
                cos, sin = turns[2:].real, turns[2:].imag
                rotation[:, first, first] = rotation[:, second, second] = cos
                rotation[:, first, second], rotation[:, second, first] = sin, -sin
                return rotation
    raise ValueError("Queries and keys are not turned in pairs of dimensions, so there is no rotation to read.")


def _turns(
    samples: Float[Tensor, "sample pos d_head"], first: Int[Tensor, " pair"], second: Int[Tensor, " pair"]
) -> tuple[Complex[Tensor, "pos pair"], float]:
    """The turn of each pair from position 0 to each other, by least squares, and what that leaves unexplained."""
    pairs = torch.complex(samples[..., first], samples[..., second])
    start = pairs[:, :1]
    turns = (start.conj() * pairs).sum(0) / start.abs().square().sum(0)
    turns = turns / turns.abs()
    return turns, float((pairs - start * turns).abs().square().sum() / pairs.abs().square().sum()) ** 0.5
