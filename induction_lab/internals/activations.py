"""`capture`: the insides of a model on given tokens: queries, keys, values, patterns, the residual stream.

Only what is asked for is kept: the chosen layers, heads and positions, copied out as they pass; nothing runs
above the last chosen layer unless logits are wanted. Hook names underneath are TransformerLens'. What a model's
TransformerLens bridge does not show (rotated queries of GPT-NeoX, say) comes from the engine; the numbers are the same.
Without a bridge, queries, keys, streams and logits come from the network's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.grouped import key_head
from induction_lab.attention.hooks import Enough
from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.internals.bridge_hooks import bridge_run
from induction_lab.internals.module_hooks import MODULE_NAMES, read_modules
from induction_lab.internals.reading import heads_of, read_attention
from induction_lab.models.head_weights import output_weight
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike
from induction_lab.runtime.nearest import UnknownNameError, did_you_mean

HEAD_NAMES = ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result")
STREAM_NAMES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
GLOBAL_NAMES = ("embed", "pos_embed", "logits")
NAMES = (*HEAD_NAMES, *STREAM_NAMES, *GLOBAL_NAMES)
DEFAULT_NAMES = ("q", "k", "v", "pattern", "resid_pre")
_BY_ENGINE = ("rot_q", "rot_k", "v", "z", "attn_scores", "pattern")
_HEAD_AXIS = {"attn_scores": 1, "pattern": 1}  # [batch, head, query, key]; else [batch, pos, head, …]

Key = str | tuple[str, int]


class Activations(Mapping[Key, Tensor]):
    """What was captured: `acts["pattern", 3]` of layer 3, `acts["embed"]` of the whole model.

    Shapes: `q`, `k`, `v`, `z`, `rot_q`, `rot_k` `[batch, pos, head, d_head]`; `attn_scores`, `pattern`
    `[batch, head, query, key]`; `result` `[batch, pos, head, d_model]`; streams `[batch, pos, d_model]`; `logits`
    `[batch, pos, d_vocab]`. Where heads were chosen, `heads[layer]` says which, in order; keys and values of
    grouped-query models are then those that each chosen head reads.
    """

    def __init__(self, tensors: dict[Key, Tensor], heads: dict[int, list[Head]] | None = None) -> None:
        """Hold captured tensors."""
        self._tensors = tensors
        self.heads = heads or {}

    def __getitem__(self, key: Key) -> Tensor:
        """One tensor; a name alone serves where a single layer was captured.

        Raises:
            KeyError: If it was not captured; the message lists what was.
        """
        if key in self._tensors:
            return self._tensors[key]
        layers = [k for k in self._tensors if isinstance(k, tuple) and k[0] == key]
        if len(layers) == 1:
            return self._tensors[layers[0]]
        names = list(dict.fromkeys(_name(each) for each in self._tensors))
        there = sorted({each[1] for each in self._tensors if isinstance(each, tuple)})
        of_layers = f" of layer{'s' * (len(there) > 1)} {', '.join(map(str, there))}" if there else ""
        near = did_you_mean(_name(key), names) if _name(key) not in names else f" Say which layer: acts[{key!r}, 0]."
        near = "" if isinstance(key, tuple) and key[0] in names else near
        raise UnknownNameError(f"{key!r} was not captured; there is {', '.join(names)}{of_layers}.{near}")

    def __iter__(self) -> Iterator[Key]:
        """Keys in the order of capture."""
        return iter(self._tensors)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._tensors)

    def __repr__(self) -> str:
        """Keys and shapes."""
        lines = (f"  {key}: {tuple(tensor.shape)}" for key, tensor in self._tensors.items())
        return "Activations(\n" + "\n".join(lines) + "\n)"

    def _repr_html_(self) -> str:
        """Names, layers, shapes and bytes, for notebooks; layers of one shape in one row."""
        alike: dict[tuple[str, tuple[int, ...]], list[Key]] = {}
        for key, tensor in self._tensors.items():
            alike.setdefault((_name(key), tuple(tensor.shape)), []).append(key)
        rows = []
        for (name, shape), keys in alike.items():
            layers = ", ".join(str(key[1]) for key in keys if isinstance(key, tuple))
            n_bytes = sum(self._tensors[key].nbytes for key in keys)
            rows.append((name, layers or "–", " × ".join(map(str, shape)), n_bytes))
        facts = f"{len(self)} tensors, {sum(row[-1] for row in rows):,} bytes"
        chosen = ", ".join(str(head) for heads in self.heads.values() for head in heads)
        return html_card(
            "Activations", facts + f", of {chosen}" * bool(chosen), ("name", "layers", "shape", "bytes"), rows
        )


@takes_names
def capture(
    model: HookedModel,
    tokens: PromptsLike,
    names: str | Sequence[str] = DEFAULT_NAMES,
    *,
    layers: int | Iterable[int] | None = None,
    heads: HeadLike | Iterable[HeadLike] | None = None,
    positions: int | Sequence[int] | slice | None = None,
) -> Activations:
    """Run the model once and keep what was asked for.

    >>> acts = capture(load_model(), repeated_tokens(load_model(), n_prompts=2), "pattern", layers=1)  # doctest: +SKIP
    >>> acts["pattern", 1].shape                                                                   # doctest: +SKIP
    torch.Size([2, 4, 101, 101])

    Args:
        model: Any supported model.
        tokens: `Prompts`, tokens `[batch, pos]`, or text.
        names: From `NAMES`: `q`, `k`, `v` (`rot_q`, `rot_k` after rotation), `attn_scores` (before the softmax),
            `pattern`, `z`, `result` (each head's output), `resid_pre`, `resid_mid`, `resid_post`, `attn_out`,
            `mlp_out`, `embed`, `pos_embed`, `logits`.
        layers: All by default.
        heads: Keep these only; they choose the layers too.
        positions: Keep these only; queries in `attn_scores` and `pattern`, whose keys stay whole.

    Raises:
        ValueError: If a name, layer, head or position is not there, or this architecture has no such activation.
    """
    prompts = as_prompts(model, tokens)
    asked = _known_names(names)
    chosen = heads_of(model, heads) if heads is not None else []
    wanted_layers = _layers(model, layers, chosen)
    by_layer = {layer: [head for head in chosen if head.layer == layer] for layer in wanted_layers if chosen}
    cut = _Cut(model, by_layer, _positions(positions, prompts.tokens.shape[1]))
    keys: list[Key] = [name for name in asked if name in GLOBAL_NAMES]
    keys += [(name, layer) for layer in wanted_layers for name in asked if name not in GLOBAL_NAMES]

    engine = (model.anatomy.goes_through_interface or model.bridge is None) and not model.anatomy.calls_engine
    # What the engine is given or makes in a network of ours needs no hooks, and so not the library that brings them.
    own = model.anatomy.calls_engine and all(_name(key) in ("v", "pattern") for key in keys)
    found: dict[Key, Tensor] = {}
    if engine and not all(_name(key) in _BY_ENGINE for key in keys):
        # A bridge that leaves attention to transformers (OPT) shows the pattern as hook_attn_scores, and all bridges
        # what the output projection reads, be it normalised or gated, as hook_z: neither is asked.
        changed = any(_changes_outputs(model, layer) for layer in wanted_layers)
        beside = {"attn_scores", "z"} if changed else {"attn_scores"}
        run = _by_modules if model.bridge is None else _by_hooks
        found = run(model, prompts.tokens, [key for key in keys if _name(key) not in beside], cut)
    elif not engine and not own:
        found = _by_hooks(model, prompts.tokens, keys, cut)
    missing = [key for key in keys if key not in found]
    if missing and (engine or own):
        found |= _by_engine(model, prompts.tokens, missing, cut)
    absent = sorted({_name(key) for key in keys if key not in found})
    if absent:
        if engine and model.bridge is None:
            _ = model.hooked  # which says why there is none
        raise ValueError(
            f"{model.name} ({type(model.network).__name__}) has no {', '.join(absent)}: rot_q and rot_k need rotary "
            "positions, resid_mid needs attention and MLP one after the other, and some bridges show less "
            "(no attn_scores where transformers attends by itself)."
        )
    return Activations({key: found[key] for key in keys}, by_layer)


def _changes_outputs(model: HookedModel, layer: int) -> bool:
    """Whether a layer's output projection reads something else than what its heads put out."""
    with suppress(ValueError):  # a layer without heads of its own
        return model.anatomy.is_gated(layer) or model.anatomy.head_norm(layer, "z") is not None
    return False


class _Cut:
    """Copies the chosen heads and positions out of an activation."""

    def __init__(self, model: HookedModel, heads: dict[int, list[Head]], positions: Tensor | None) -> None:
        self.model, self.heads, self.positions = model, heads, positions

    def __call__(self, key: Key, tensor: Tensor) -> Tensor:
        name = _name(key)
        if self.positions is not None and name != "pos_embed":
            at = self.positions.to(tensor.device)
            tensor = tensor.index_select(2 if name in _HEAD_AXIS else 1, at)
        heads = self.rows(key[1], tensor.device)["heads"] if isinstance(key, tuple) and name in HEAD_NAMES else None
        if heads is not None:
            axis = _HEAD_AXIS.get(name, 2)
            tensor = tensor.index_select(axis, key_head(heads, self.model.n_heads, tensor.shape[axis]))
        return tensor.detach().clone()

    def rows(self, layer: int, device: torch.device) -> dict[str, Tensor | None]:
        """The same choice in the form that the engine takes, so that it makes no row that would be cut away."""
        chosen = torch.tensor([head.head for head in self.heads[layer]], device=device) if self.heads else None
        return {"heads": chosen, "queries": None if self.positions is None else self.positions.to(device)}


def _by_hooks(model: HookedModel, tokens: Tensor, keys: list[Key], cut: _Cut) -> dict[Key, Tensor]:
    hooked = model.hooked
    found: dict[Key, Tensor] = {}
    hooks = []
    for key in keys:
        hook_name = _hook_name(key)
        if hook_name in hooked.hook_dict:
            hooks.append((hook_name, _keeper(model, key, cut, found)))

    def stop(tensor: Tensor, hook: Any) -> None:
        raise Enough

    if "logits" not in keys:
        last = max([key[1] for key in keys if isinstance(key, tuple)], default=0)
        end = f"blocks.{last}.hook_resid_post"
        hooks += [(end, stop)] * (end in hooked.hook_dict)
    with bridge_run(model):
        found["logits"] = cut("logits", hooked.run_with_hooks(tokens.to(model.device), fwd_hooks=hooks))
    return found


def _by_modules(model: HookedModel, tokens: Tensor, keys: list[Key], cut: _Cut) -> dict[Key, Tensor]:
    found: dict[Key, Tensor] = {}

    def keep(key: tuple[str, int], tensor: Tensor) -> None:
        found[key] = cut(key, tensor)

    wanted = [key for key in keys if isinstance(key, tuple) and key[0] in MODULE_NAMES]
    logits = read_modules(model, tokens, wanted, keep, logits="logits" in keys)
    return found if logits is None else found | {"logits": cut("logits", logits)}


def _keeper(model: HookedModel, key: Key, cut: _Cut, found: dict[Key, Tensor]) -> Callable[[Tensor, Any], None]:
    def keep(tensor: Tensor, hook: Any) -> None:
        if _name(key) != "attn_scores" or not _is_pattern(tensor):
            found[key] = cut(key, tensor)

    def keep_result(z: Tensor, hook: Any) -> None:
        assert isinstance(key, tuple)
        kept = cut(("z", key[1]), z)
        W_O = output_weight(model, key[1])
        W_O = W_O[[head.head for head in cut.heads[key[1]]]] if cut.heads else W_O
        found[key] = torch.einsum("bpnh,nhd->bpnd", kept, W_O)

    return keep_result if _name(key) == "result" else keep


def _is_pattern(scores: Tensor) -> bool:
    """Whether a bridge shows probabilities as scores (GPT-J, GPT-Neo): it sees what transformers returns, no more."""
    sums = scores.float().sum(-1)
    return bool((scores >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-2)


def _by_engine(model: HookedModel, tokens: Tensor, keys: list[Key], cut: _Cut) -> dict[Key, Tensor]:
    found: dict[Key, Tensor] = {}

    def read(attention: AttentionReading) -> None:
        vectors, matrices = {"v": attention.v, "z": attention.z}, {"pattern": attention.pattern}
        if isinstance(attention, Attention):
            vectors |= {"rot_q": attention.q, "rot_k": attention.k}
            matrices["attn_scores"] = attention.scores
        for key in keys:
            if isinstance(key, tuple) and key[1] == attention.layer:
                if key[0] in vectors:
                    found[key] = cut(key, vectors[key[0]].transpose(1, 2))
                elif key[0] in matrices:
                    found[key] = matrices[key[0]](**cut.rows(key[1], attention.z.device))
        if attention.layer == last:
            raise Enough

    rotary = model.anatomy.is_rotary
    keys = [key for key in keys if rotary or _name(key) not in ("rot_q", "rot_k")]
    last = max((key[1] for key in keys if isinstance(key, tuple) and key[0] in _BY_ENGINE), default=None)
    if last is not None:
        read_attention(model, tokens, read)
    return found


def _hook_name(key: Key) -> str:
    name = _name(key)
    if not isinstance(key, tuple):
        return f"hook_{name}"
    if name == "result":  # made from z, so that it need not exist for every head and position
        name = "z"
    return f"blocks.{key[1]}.{'attn.' if name in HEAD_NAMES else ''}hook_{name}"


def _name(key: Key) -> str:
    return key[0] if isinstance(key, tuple) else key


def _known_names(names: str | Sequence[str]) -> list[str]:
    asked = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unknown = [name for name in asked if name not in NAMES]
    if unknown or not asked:
        raise ValueError(f"Unknown activations {unknown}; there are {', '.join(NAMES)}.{did_you_mean(unknown, NAMES)}")
    return asked


def _layers(model: HookedModel, layers: int | Iterable[int] | None, heads: list[Head]) -> list[int]:
    if layers is None:
        return sorted({head.layer for head in heads}) if heads else list(range(model.n_layers))
    if heads:
        raise ValueError("Give `layers` or `heads`, not both: the heads say which layers.")
    asked = [layers] if isinstance(layers, int) else list(layers)
    wrong = [layer for layer in asked if not -model.n_layers <= layer < model.n_layers]
    if wrong or not asked:
        raise ValueError(f"Layers must lie in 0 … {model.n_layers - 1}, got {asked}.")
    return [layer % model.n_layers for layer in asked]


def _positions(positions: int | Sequence[int] | slice | None, n_pos: int) -> Tensor | None:
    if positions is None:
        return None
    if isinstance(positions, slice):
        return torch.arange(n_pos)[positions]
    positions = [positions] if isinstance(positions, int) else positions
    wrong = [position for position in positions if not -n_pos <= position < n_pos]
    if wrong or not len(positions):
        raise ValueError(f"Positions must lie in 0 … {n_pos - 1}, got {list(positions)}.")
    return torch.tensor([position % n_pos for position in positions])
