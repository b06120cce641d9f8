"""How far rotary positions turn a query against a key that lies some tokens before it, exactly as the model does it.

Rotary attention scores `(q R_t) (k R_s)^T = q R_(t-s) k^T` depend on the offset alone. What `R` is differs: its base,
how many dimensions turn, which of them are pairs, scaling for long contexts, layers that do not turn at all. So it is
not derived from a configuration but seen: a token that stands alone has the same queries and keys in every layer
wherever it is said to stand, up to the rotation. Source: Su et al. (2021), https://arxiv.org/abs/2104.09864.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.hooks import reading
from induction_lab.attention.scopes import outside
from induction_lab.internals.reading import on_engine
from induction_lab.models.hooked_model import HookedModel, evaluating

_PROBES, _DRAWN = 8, 512  # tokens that are run, of those drawn
_FAR = 0.618  # of the context: an offset at which even slow dimensions have turned


def relative_rotations(model: HookedModel, offsets: Sequence[int]) -> Float[Tensor, "layer offset d_head d_head"]:
    """`R` of every layer with `q R k^T` the score of query and key (rows, before rotation) at each offset.

    The identity at offset 0, and at every offset for models without rotary positions. An overall factor that some
    long-context variants multiply into their rotation is left out.

    Args:
        model: Any supported model.
        offsets: Query position less key position, from 0 to the context's length less one.

    Raises:
        ValueError: If an offset lies outside the context, or the rotation cannot be seen.
    """
    offsets = list(offsets)
    if not offsets or min(offsets) < 0 or (model.n_ctx is not None and max(offsets) >= model.n_ctx):
        raise ValueError(f"Offsets must lie in 0 … {(model.n_ctx or 0) - 1} (query less key position), got {offsets}.")
    far = samples = None
    if model.anatomy.is_rotary and model.anatomy.rotate is None and any(offsets):  # first, for it says what is amiss
        # Variants for long contexts turn by other angles once a far position is in sight: so that is another run.
        far = _turned_samples(model, [int(_FAR * ((model.n_ctx or 4096) - 1))])
        samples = _turned_samples(model, offsets)
    eye = torch.eye(model.anatomy.head_width, dtype=model.wide, device=model.device)
    if not model.anatomy.is_rotary:
        return eye.expand(model.n_layers, len(offsets), -1, -1)
    if model.anatomy.rotate is not None:
        rows = eye[:, None, None].expand(-1, max(offsets) + 1, 1, -1)
        turned = model.anatomy.rotate(rows)[:, offsets, 0].transpose(0, 1)  # [offset, d_head, d_head]
        return turned.expand(model.n_layers, -1, -1, -1)
    if samples is None or far is None:
        return eye.expand(model.n_layers, len(offsets), -1, -1)
    noise = 8 * torch.finfo(model.dtype).eps
    found, pairs = [], None
    for layer in range(model.n_layers):
        if layer not in samples:  # of a hybrid: it does not attend
            found.append(eye.expand(len(offsets), -1, -1))
            continue
        pairs = _pairs(far[layer], noise, first_guess=pairs)
        found.append(_matrix(samples[layer], *pairs)[0])
    for layer, rotation in enumerate(found):  # dimensions that narrower heads lack
        found[layer] = eye.expand(len(offsets), -1, -1).clone()
        found[layer][:, : rotation.shape[1], : rotation.shape[2]] = rotation
    return torch.stack(found)


def _turned_samples(model: HookedModel, offsets: list[int]) -> dict[int, Float[Tensor, "sample pos d_head"]]:
    """Each layer's queries and keys at position 0 and at the offsets, all alike before they were turned."""
    positions = torch.tensor([0, *offsets], device=model.device)
    n_positions = len(positions)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.d_vocab, (_DRAWN, 1), generator=generator).to(model.device)
    with torch.inference_mode():
        tokens = tokens[model.anatomy.embedding(tokens).any(-1)][:_PROBES, None]  # rows of zeros show nothing
    if not len(tokens):
        raise ValueError(f"The embeddings of {model.name} are zero, so no rotation can be seen on them.")
    tokens, positions = tokens.repeat_interleave(n_positions, 0), positions.repeat(len(tokens))[:, None]
    seen: dict[int, Tensor] = {}

    def keep(layer: int, both: Float[Tensor, "run head d_head"]) -> None:
        seen[layer] = both.unflatten(0, (-1, n_positions)).transpose(1, 2).flatten(0, 1).to(model.wide)

    def read(attention: AttentionReading) -> None:
        assert isinstance(attention, Attention)
        keep(attention.layer, torch.cat([attention.q, attention.k], 1)[:, :, 0])

    if model.anatomy.goes_through_interface:
        # a rotation is the network's own, whatever is ablated around this
        with outside(), torch.inference_mode(), evaluating(model.network), reading(read), on_engine(model):
            model.anatomy.body(tokens, position_ids=positions, use_cache=False)
    else:
        for layer, both in model.anatomy.queries_and_keys(tokens, positions).items():
            keep(layer, both)
        if any(offsets) and all(torch.equal(samples[:, 0], samples[:, -1]) for samples in seen.values()):
            raise ValueError(f"{model.name} cannot be told where a token stands, so its rotation cannot be seen.")
    if sorted(seen) != model.anatomy.attending:
        raise ValueError(f"Only layers {sorted(seen)} of {model.name} showed their queries and keys.")
    if not all(samples.isfinite().all() for samples in seen.values()):
        raise ValueError(f"{model.name} has queries or keys that are not finite: has the training diverged?")
    return seen


Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]


def _pairs(
    samples: Float[Tensor, "sample 2 d_head"],
    noise: float,
    *,
    first_guess: tuple[Int[Tensor, " guess"], Int[Tensor, " guess"]] | None,
) -> Pairs:
    """Which dimensions turn together: halves or neighbours, of as many of the first or last as explain the samples."""
    d_head = samples.shape[-1]
    none = torch.arange(0, device=samples.device)
    guesses = [] if first_guess is None else [first_guess]
    guesses.append((none, none))
    for n in range(d_head - d_head % 2, 0, -2):
        turning = torch.arange(n, device=samples.device)
        guesses += [(turning[: n // 2], turning[n // 2 :]), (turning[::2], turning[1::2])]
    for n in range(2, d_head, 2):  # behind what does not turn (DeepSeek)
        turning = torch.arange(d_head - n, d_head, device=samples.device)
        guesses += [(turning[: n // 2], turning[n // 2 :]), (turning[::2], turning[1::2])]
    for guess in guesses:
        if _matrix(samples, *guess)[1] < max(noise, 1e-4):
            return guess
    raise ValueError("Queries and keys are not turned in pairs of dimensions, so there is no rotation to read.")


def _matrix(
    samples: Float[Tensor, "sample pos d_head"], first: Int[Tensor, " pair"], second: Int[Tensor, " pair"]
) -> tuple[Float[Tensor, "offset d_head d_head"], float]:
    """The rotation from position 0 to each other, pair by pair by least squares, and what that leaves unexplained.

    Pairs that are zero in every query and key, as some trained weights leave them, show no angle and need none.
    """
    d_head = samples.shape[-1]
    pairs = torch.complex(samples[..., first], samples[..., second])
    turns = (pairs[:, :1].conj() * pairs[:, 1:]).sum(0)
    turns = torch.where(turns == 0, 1.0, turns / turns.abs())
    rotation = torch.eye(d_head, dtype=samples.dtype, device=samples.device).repeat(len(turns), 1, 1)
    rotation[:, first, first] = rotation[:, second, second] = turns.real
    rotation[:, first, second], rotation[:, second, first] = turns.imag, -turns.imag
    missed = samples[:, 1:] - torch.einsum("si,oij->soj", samples[:, 0], rotation)
    total = float(samples[:, 1:].square().sum())
    return rotation, (float(missed.square().sum()) / total) ** 0.5 if total else 0.0
