"""TransformerLens' old format: state dicts of a `HookedTransformer`, made into an `AttentionOnlyTransformer`.

Widths are read off the weights; the rest (positions, norms, activation) off the `cfg` or `config.json` beside them, or
said by whoever loads them. What would change a number and is not known here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.names_in_files import misfits, plain_names

_ACTIVATIONS = {"gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new"}  # one function, written in several ways
_POSITIONS = {"standard": "learned", "shortformer": "shortformer", "rotary": "rotary"}
_NEUTRAL: dict[str, tuple[Any, ...]] = {  # entries that change what a model computes, and what they must say
    "attention_dir": ("causal",),
    "attn_scores_soft_cap": (-1.0, 0.0, None),
    "gated_mlp": (False,),
    "num_experts": (None,),
    "output_logits_soft_cap": (-1.0, 0.0, None),
    "parallel_attn_mlp": (False,),
    "post_embedding_ln": (False,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "use_attn_scale": (True,),
    "use_local_attn": (False,),
    "use_NTK_by_parts_rope": (False,),
    "use_normalization_before_and_after": (False,),
    "use_qk_norm": (False,),
}


def read_state_dict(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The weights in a file, and the `cfg` beside them (empty where there is none). No code in it is ever run.

    Raises:
        ValueError: If it is damaged, holds no state dict, or holds a whole pickled object.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(
            f"{path} holds no readable weights, or a whole object, which is never opened: it could run code. "
            "Whoever made it can save the weights alone: torch.save(model.state_dict(), path). "
            f"What was said: {' '.join(str(error).split())[:200]}"
        ) from error
    parts = [found, *found.values()] if isinstance(found, Mapping) else []
    parts = [part for part in parts if isinstance(part, Mapping) and part]
    weights = next((part for part in parts if all(isinstance(each, Tensor) for each in part.values())), None)
    if weights is None:
        raise ValueError(f"{path} holds no state dict: names and tensors.")
    return plain_names(weights), next((part for part in parts if "d_model" in part), {})


def build(weights: Mapping[str, Tensor], cfg: Mapping[str, Any], said: Mapping[str, Any]) -> AttentionOnlyTransformer:
    """The network of a state dict.

    Args:
        weights: By TransformerLens' names.
        cfg: TransformerLens' configuration, as far as it is known.
        said: Entries of `AttentionOnlyConfig` that hold whatever else is said.

    Raises:
        ValueError: If they do not fit each other, or something that must be known is not.
    """
    weights = _in_order(weights)
    shape = _widths(weights)
    unknown = set(said) - {field.name for field in fields(AttentionOnlyConfig)}
    if unknown:
        raise ValueError(f"AttentionOnlyConfig has no {', '.join(sorted(unknown))}.")
    entries = {**shape, **_from_cfg(cfg, shape), **_from_weights(weights), **said}
    _ask_for_unknown(entries)
    if entries["positions"] == "shortformer" and entries["layer_norm"]:
        entries["positions"] = "shortformer_after_norm"  # as TransformerLens does it
    if not entries["layer_norm"]:
        entries.pop("norm_kind", None)
    biases = {name: tensor for name, tensor in weights.items() if name.rsplit(".", 1)[-1] in _BIASES}
    entries["biases"] = any(bool(tensor.any()) for tensor in biases.values())
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**entries))
    if entries["positions"] == "rotary" and cfg.get("rotary_adjacent_pairs"):
        weights = {name: _halved(tensor) if _turns(name) else tensor for name, tensor in weights.items()}
    folded = said.get("layer_norm") is True or str(_norm_of(cfg)).endswith("Pre")
    return _filled(network, {n: t for n, t in weights.items() if n not in biases or entries["biases"]}, folded)


_BIASES = ("b_Q", "b_K", "b_V", "b_O", "b_U")


def _in_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names and orders of today; the oldest say `norm` for `ln`, and are turned: W_pos up to 8 layers, all up to 6."""
    weights = {name: tensor for name, tensor in weights.items() if not name.endswith(("rotary_sin", "rotary_cos"))}
    if not any("norm" in name for name in weights):
        return weights
    renamed = {name.replace("norm", "ln"): tensor for name, tensor in weights.items()}
    renamed = {f"ln_final.{n[3:]}" if n.startswith("ln.") else n: tensor for n, tensor in renamed.items()}
    n_layers = _count_layers(renamed)
    for name, tensor in renamed.items():
        kind = name.rsplit(".", 1)[-1]
        if kind.startswith("W_") and n_layers <= (8 if kind == "W_pos" else 6):
            renamed[name] = tensor.transpose(-2, -1)
    return renamed


def _count_layers(weights: Mapping[str, Tensor]) -> int:
    return 1 + max((int(n.split(".")[1]) for n in weights if n.startswith("blocks.")), default=-1)


def _widths(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    needed = ("embed.W_E", "unembed.W_U", "blocks.0.attn.W_Q")
    if absent := [name for name in needed if name not in weights]:
        raise ValueError(f"This is no state dict of a HookedTransformer: it has no {', '.join(absent)}.")
    (d_vocab, d_model), (n_heads, _, d_head) = weights["embed.W_E"].shape, weights["blocks.0.attn.W_Q"].shape
    shape = dict(n_layers=_count_layers(weights), n_heads=n_heads, d_model=d_model, d_head=d_head, d_vocab=d_vocab)
    if "blocks.0.mlp.W_in" in weights:
        shape["d_mlp"] = weights["blocks.0.mlp.W_in"].shape[1]
    if "pos_embed.W_pos" in weights:
        shape["n_ctx"] = len(weights["pos_embed.W_pos"])
    return shape


def _from_weights(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the names of weights settle: norms that have weights."""
    found: dict[str, Any] = {}
    if "blocks.0.ln1.w" in weights:
        final = "layer" if "ln_final.b" in weights else "final_rms"
        found = {"layer_norm": True, "norm_kind": final if "blocks.0.ln1.b" in weights else "rms"}
    if "blocks.0.mlp.ln.w" in weights:
        found["activation"] = "solu_ln"
    return found


def _from_cfg(cfg: Mapping[str, Any], shape: Mapping[str, Any]) -> dict[str, Any]:
    if not cfg:
        return {}
    wrong = {name: cfg[name] for name, allowed in _NEUTRAL.items() if name in cfg and cfg[name] not in allowed}
    same = {**{name: shape[name] for name in shape if name != "d_mlp"}, "n_key_value_heads": shape["n_heads"]}
    same["d_vocab_out"] = shape["d_vocab"]
    wrong |= {name: cfg[name] for name, value in same.items() if cfg.get(name, -1) not in (value, -1, None)}
    scale = cfg.get("attn_scale", -1)
    if scale not in (-1, None) and abs(scale - shape["d_head"] ** 0.5) > 1e-4:
        wrong["attn_scale"] = scale
    norm = _norm_of(cfg)
    kinds = {"LN": "layer", "LNPre": "layer", "RMS": "rms", "RMSPre": "rms", None: None}
    positions = "shortformer" if cfg.get("shortformer_pos") else cfg.get("positional_embedding_type", "standard")
    rotary = dict(rotary_base=10_000, rotary_dim=shape["d_head"])
    if positions == "rotary":
        wrong |= {name: cfg[name] for name, value in rotary.items() if cfg.get(name) not in (value, None)}
    wrong |= {} if norm in kinds else {"normalization_type": norm}
    wrong |= {} if positions in _POSITIONS else {"positional_embedding_type": positions}
    if wrong:
        said = ", ".join(f"{name} = {value!r}" for name, value in wrong.items())
        raise ValueError(f"Its configuration asks for what is not known here, or what its weights are not: {said}.")
    entries: dict[str, Any] = {"positions": _POSITIONS[positions], "layer_norm": norm is not None}
    if norm is not None:
        kind = "final_rms" if cfg.get("final_rms") and kinds[norm] == "layer" else kinds[norm]
        entries |= {"norm_kind": kind, "norm_eps": float(cfg.get("eps", cfg.get("ln_eps", 1e-5)))}
    if "d_mlp" in shape and cfg.get("act_fn"):
        entries["activation"] = _ACTIVATIONS.get(cfg["act_fn"], cfg["act_fn"])
    return entries | ({"n_ctx": cfg["n_ctx"]} if "n_ctx" in cfg else {})


def _turns(name: str) -> bool:
    return name.rsplit(".", 1)[-1] in ("W_Q", "W_K", "b_Q", "b_K")


def _halved(weight: Tensor) -> Tensor:
    """Dimensions that are rotated with their neighbours, put where this network rotates them: half a head apart.

    Queries and keys alike, so that their products, and with them the scores, stay what they are.
    """
    return weight.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)


def _norm_of(cfg: Mapping[str, Any]) -> str | None:
    return cfg.get("normalization_type", cfg.get("normalization", "LN"))


def _ask_for_unknown(entries: Mapping[str, Any]) -> None:
    """What neither weights nor configuration say is asked for, not guessed."""
    questions = {
        "positions": "positions='learned' (added to the stream), 'shortformer' (to what queries and keys read), …",
        "layer_norm": "layer_norm=False where it has no norms, True where their weights were folded into others",
        "n_ctx": "n_ctx=…, its longest prompt",
    } | ({"activation": "activation='gelu', 'relu', …"} if "d_mlp" in entries else {})
    if asked := [question for name, question in questions.items() if name not in entries]:
        raise ValueError(
            f"Its weights do not tell everything, and no configuration lies beside them. Say load_hooked_transformer("
            f"path, …) with {'; '.join(asked)}."
        )


def _filled(network: AttentionOnlyTransformer, weights: dict[str, Tensor], folded: bool) -> AttentionOnlyTransformer:
    """Load the weights: biases that are not there are zeros; norms that were folded have none, and only normalise."""
    own = network.state_dict()
    optional = [name for name in own if name.rsplit(".", 1)[-1].startswith("b_")]
    if folded and not any(_is_norm(name) for name in weights):
        optional += [name for name in own if _is_norm(name)]
    full = {name: own[name] for name in optional} | weights
    if reason := misfits(own.keys() - full, full.keys() - own):
        raise ValueError(f"It cannot be loaded: {reason}.")
    try:
        network.load_state_dict(full)
    except RuntimeError as error:
        raise ValueError(f"Its weights do not fit each other: {' '.join(str(error).split())[:300]}") from error
    return network.eval()


def _is_norm(name: str) -> bool:
    return any(part in ("ln", "ln1", "ln2", "ln_final") for part in name.split("."))
