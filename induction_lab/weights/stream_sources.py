"""What enters the residual stream: a vector for every token, or for every position.

    embedding   what a token puts into the stream before the first layer, as the architecture scales or normalises it
    effective   that plus what the first layer's MLP makes of it, `W_E + MLP0(W_E)`, attention left out: what later
                layers see of a token (many models tie `W_E` to `W_U`, and make a better embedding of it first)
    positions   learned position vectors

All are read off the model as it runs on single tokens, so its own norms, scales and parallel blocks are in them.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.internals.reading import Enough
from induction_lab.models.hooked_model import HookedModel, evaluating

Source = Literal["embedding", "effective", "positions"]
_TOKENS_A_RUN = 8192


def stream_rows(model: HookedModel, source: Source = "embedding") -> Float[Tensor, "row d_model"]:
    """One row for every token of the vocabulary, or for every position.

    Raises:
        ValueError: If the model has no such thing: `positions` without learned ones, `effective` without an MLP.
    """
    if source not in get_args(Source):
        raise ValueError(f"`source` must be one of {', '.join(get_args(Source))}, got {source!r}.")
    if source == "positions":
        return _positions(model)
    if source == "effective" and not model.anatomy.has_mlps:
        raise ValueError(f"{model.name} has no MLP in its first layer, so no effective embedding; use 'embedding'.")
    vocabulary = torch.arange(model.d_vocab, device=model.device)
    return torch.cat([_run(model, some, source) for some in vocabulary.split(_TOKENS_A_RUN)])


def _run(model: HookedModel, tokens: Int[Tensor, " row"], source: Source) -> Float[Tensor, "row d_model"]:
    """Each token alone, positions and the first layer's attention taken out."""
    kept: dict[str, Tensor] = {}

    def remove(tensor: Any, hook: Any) -> Any:
        is_vector = isinstance(tensor, Tensor) and tensor.shape[-1] == model.d_model
        return torch.zeros_like(tensor) if is_vector else tensor  # rotary models show their angles here

    def keep(tensor: Tensor, hook: Any) -> None:
        kept["stream"] = tensor[:, 0].to(model.wide)
        raise Enough

    end = "blocks.0.hook_resid_pre" if source == "embedding" else "blocks.0.hook_resid_post"
    hooks: list[tuple[str, Any]] = [("blocks.0.hook_attn_out", remove), ("hook_pos_embed", remove)]
    hooks = [(name, hook) for name, hook in hooks if name in model.hooked.hook_dict]
    hooks.append((end if model.n_layers else "hook_embed", keep))
    _run_hooked(model, tokens[:, None], hooks)
    return kept["stream"]


def _positions(model: HookedModel) -> Float[Tensor, "row d_model"]:
    kept: dict[str, Tensor] = {}

    def keep(tensor: Any, hook: Any) -> None:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.shape[-1] == model.d_model:
            kept["positions"] = tensor.reshape(-1, model.d_model).to(model.wide)
        raise Enough

    if "hook_pos_embed" in model.hooked.hook_dict and model.n_ctx is not None:
        tokens = torch.full((1, model.n_ctx), model.bos_token_id, device=model.device)
        _run_hooked(model, tokens, [("hook_pos_embed", keep)])
    if "positions" not in kept:
        raise ValueError(
            f"{model.name} has no position vectors. For rotary models ask for an offset instead: "
            "qk_circuit(…, offset=1), positional_preference(model, offsets)."
        )
    return kept["positions"]


def _run_hooked(model: HookedModel, tokens: Int[Tensor, "batch pos"], hooks: list[tuple[str, Any]]) -> None:
    try:
        with torch.inference_mode(), evaluating(model.network):
            model.hooked.run_with_hooks(tokens, fwd_hooks=hooks)
    except Enough:
        pass
    finally:
        model.release()
