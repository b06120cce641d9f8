"""A small model as data of a page, which runs it itself: `assets/js/live/small_model.js` answers as `LiveModel` does.

The page reads numbers, also of a model that has a tokenizer, whose tokens it shows as text. What the page cannot find
out by itself is found here: means that heads are replaced by, and which heads are of which kind.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.editing import unhooked
from induction_lab.models.frozen_norms import attention_norm, final_norm
from induction_lab.models.hooked_model import HookedModel
from induction_lab.pages.live.answers import LIKELIEST, MODES, LiveModel
from induction_lab.pages.live.page import tours
from induction_lab.pages.live.scene import MOST_CHARACTERS, MOST_FACTOR, MOST_TOKENS, NAMED_METHODS
from induction_lab.pages.live.values import LARGEST_PARTS, MOST_GROUPS
from induction_lab.results.token_labels import token_labels

MOST_BYTES = 2_000_000  # of weights and means, as they stand in the page


def fits_in_page(model: HookedModel) -> str | None:
    """Why a page cannot run this model; None if it can.

    A page runs an `AttentionOnlyTransformer` without MLPs, smeared keys and `shortformer` positions, up to 2 MB of it.
    """
    anatomy = model.anatomy
    if not anatomy.calls_engine:
        return f"A page runs an AttentionOnlyTransformer alone, {model.name} is a {type(model.network).__name__}."
    found = [
        ("no layers", model.n_layers == 0),
        ("MLPs", anatomy.has_mlps),
        ("smeared keys", anatomy.smeared_keys),
        ("positions beside the stream (shortformer)", anatomy.positions_beside_stream),
        ("clamped heads", bool(getattr(model.network, "clamps", None))),
        (f"numbers in {str(model.dtype)[6:]}", model.dtype not in (torch.float32, torch.float64)),
        ("numbers that are not finite", not model.is_finite),
    ]
    several = [what for what, there in found if there]
    if several:
        return f"{model.name} has {' and '.join(several)}, which a page cannot run."
    tokens = torch.arange(min(model.d_vocab, _most(model)))[None]
    if not torch.equal(model.logits(tokens), unhooked(model).logits(tokens)):
        return f"{model.name} is ablated or hooked now, which a page would not know of: leave that first."
    try:
        n_floats = sum(array.numel() for array in _arrays(model).values())
    except ValueError as error:  # of a norm that cannot be held at its scale
        return str(error)
    n_floats += model.n_layers * _most(model) * model.n_heads * model.d_head
    n_bytes = 4 * ((4 * n_floats + 2) // 3)
    if n_bytes > MOST_BYTES:
        return (
            f"{model.name} would take {n_bytes / 1e6:.1f} MB of a page, which holds {MOST_BYTES / 1e6:.0f} MB of a "
            "model: take a smaller one, or `induction-lab explore`, where the model is not in the page."
        )
    return None


def packed_model(live: LiveModel) -> dict[str, Any]:
    """What `SmallModel` of the page is made of: JSON, weights in base64 as float32.

    Returns:
        `facts` as `LiveModel.facts` gives them; `config`, the model's shape; `rules`, the lists and limits that answers
        keep to; `weights`, means among them; `kinds`, or why they are not known; `texts` of all tokens, or None.

    Raises:
        ValueError: If the page could not run this model, with the reason.
    """
    model = live.model
    if reason := fits_in_page(model):
        raise ValueError(reason)
    means = live.means(_most(model)).heads
    arrays = _arrays(model) | {
        f"{layer} means": z[0].transpose(0, 1)
        for layer, z in means.items()  # [pos, head, d_head]
    }
    return {
        "facts": live.facts() | {"reads_text": False},
        "config": _config(model),
        "rules": {
            "asked": list(live.asked),
            "modes": MODES,
            "methods": NAMED_METHODS,
            "most_factor": MOST_FACTOR,
            "most_characters": MOST_CHARACTERS,
            "likeliest": LIKELIEST,
            "parts": LARGEST_PARTS,
            "most_groups": MOST_GROUPS,
        },
        "weights": _packed(arrays),
        "kinds": _kinds(live),
        "texts": _texts(model),
    }


def live_data(models: Mapping[str, HookedModel]) -> dict[str, Any] | None:
    """What a page knows at the start that runs some of these models itself; None where it can run none.

    Args:
        models: By the names that the page shows.
    """
    small = {name: each for name, each in models.items() if fits_in_page(each) is None}
    packed = {name: packed_model(LiveModel(each, load=f"load_model({each.name!r})")) for name, each in small.items()}
    if not packed:
        return None
    start = {"models": list(packed), "first": next(iter(packed)), "reads_text": [], "checkpoints": {}, "scene": {}}
    return start | {"packed": packed, "tours": tours(), "follows_address": False, "can_report": False}


def _most(model: HookedModel) -> int:
    return min(MOST_TOKENS, model.n_ctx or MOST_TOKENS)


def _config(model: HookedModel) -> dict[str, Any]:
    norms = [model.anatomy.norm_before(layer) for layer in range(model.n_layers)] + [model.final_norm]
    frozen = [attention_norm(model, layer) for layer in range(model.n_layers)] + [final_norm(model)]
    return {
        "n_layers": model.n_layers,
        "n_heads": model.n_heads,
        "d_model": model.d_model,
        "d_head": model.d_head,
        "d_vocab": model.d_vocab,
        "n_tokens": n_real_tokens(model),
        "rotary": model.anatomy.is_rotary,
        "norms": [
            None if isinstance(norm, torch.nn.Identity) else {"centred": held.centred, "eps": norm.eps}
            for norm, held in zip(norms, frozen, strict=True)
        ],
    }


def _arrays(model: HookedModel) -> dict[str, Tensor]:
    """Weights by the names that the page knows them by; a layer's heads side by side."""
    positions = model.anatomy.position_module()
    found: dict[str, Any] = {
        "W_E": model.anatomy.embedding.W_E,
        "W_U": model.unembedding.T,
        "b_U": model.anatomy.unembedding_bias,
    }
    found |= {"W_pos": None if positions is None else positions(_most(model))}
    for layer in range(model.n_layers):
        for which in ("q", "k", "v", "o"):
            W, b = model.anatomy.projection(layer, which)
            found[f"{layer} W_{which}"] = W if which == "o" else W.transpose(0, 1)
            found[f"{layer} b_{which}"] = b
        found |= _norm(layer, attention_norm(model, layer))
    found |= _norm(model.n_layers, final_norm(model))
    return {name: array.detach() for name, array in found.items() if array is not None}


def _norm(layer: int, norm: Any) -> Mapping[str, Tensor]:
    return {f"{layer} gain": norm.gain, f"{layer} bias": norm.bias}


def _packed(arrays: Mapping[str, Tensor]) -> dict[str, Any]:
    whole = torch.cat([array.float().cpu().flatten() for array in arrays.values()])
    data = base64.b64encode(whole.numpy().astype("<f4").tobytes()).decode()
    return {"sizes": [(name, array.numel()) for name, array in arrays.items()], "data": data}


def _texts(model: HookedModel) -> list[str] | None:
    """Every token as it reads by itself; None where tokens are numbers."""
    if model.tokenizer is None:
        return None
    return [token_labels(model.tokenizer, [token])[0] for token in range(model.d_vocab)]


def _kinds(live: LiveModel) -> dict[str, Any]:
    """As answered; of a model on which they cannot be found, the reason, for the page to say when it is asked."""
    try:
        return live.answer("kinds", {})
    except ValueError as error:
        return {"refused": str(error)}
