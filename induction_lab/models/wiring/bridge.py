"""The TransformerLens bridge of a network: the same parameters, hooked, and shown on two tokens to do as it does."""

from __future__ import annotations

import copy
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from induction_lab.attention.scopes import alone, outside
from induction_lab.models.on_disk.network import fit_bridge
from induction_lab.models.store import quiet_libraries
from induction_lab.models.wiring.named_hooks import NamedHooks
from induction_lab.models.wiring.watching import evaluating

_LEAST = 1e-4  # by how much rounding may let them differ


def bridge_of(network: Any, name: str, tokenizer: Any | None, tokens: Int[Tensor, "1 2"]) -> nn.Module:
    """Build it.

    Args:
        network: A causal language model of transformers.
        name: How to call it.
        tokenizer: Its tokenizer, if there is one.
        tokens: On which the two are compared.

    Raises:
        ValueError: If TransformerLens has none for this architecture, or it would compute something else.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    twin = _twin(network)  # the bridge takes modules apart in place
    kind = type(network).__name__
    try:
        with quiet_libraries(), torch.random.fork_rng():
            bridge = build_bridge_from_module(
                twin, kind, hf_config=network.config, tokenizer=_as_loaded(tokenizer), model_name=name
            )
            fit_bridge(network, bridge)
            _compare(network, bridge, tokens)
            bridge.__class__ = _with_named_hooks(type(bridge))
            return bridge
    except Exception as error:  # whatever its adapter trips over, the user needs to know the same
        raise ValueError(
            f"TransformerLens cannot hook {kind}: {error}. What needs its hooks cannot be had of this model."
        ) from error


@cache
def _with_named_hooks(kind: type) -> type:
    return type(kind.__name__, (NamedHooks, kind), {})


def _compare(network: Any, bridge: Any, tokens: Int[Tensor, "1 2"]) -> None:
    """Not every adapter heeds every choice of a configuration (GPT-2's `scale_attn_weights`).

    Logits are always compared; patterns, which a difference far below may leave the logits as they are, where the
    network gives those of as many layers as the bridge shows.
    """
    with outside(), torch.inference_mode(), evaluating(network):
        logits, seen = bridge.run_with_cache(tokens, names_filter=lambda name: name.endswith("attn.hook_pattern"))
        own = network(tokens, use_cache=False).logits
        patterns = _own_patterns(network, tokens)
    tolerance = max(_LEAST, 8 * torch.finfo(own.dtype).eps)
    if not torch.allclose(logits.to(own), own, rtol=0, atol=tolerance * float(own.abs().max()), equal_nan=True):
        raise ValueError(f"its logits would differ by {float((logits - own).abs().max()):.2g}")
    given = [pattern for pattern in patterns if pattern is not None]
    if len(given) != len(seen):
        return
    for (name, theirs), pattern in zip(seen.items(), given, strict=True):
        rows = [x / x.sum(-1, keepdim=True) for x in (theirs.to(pattern), pattern)]  # some leave out attention sinks
        if not torch.allclose(*rows, rtol=0, atol=tolerance, equal_nan=True):
            layer = name.split(".")[1]
            raise ValueError(
                f"its pattern in layer {layer} would differ by {float((rows[0] - rows[1]).abs().max()):.2g}"
            )


def _twin(network: Any) -> Any:
    """Modules of their own, which share every parameter and buffer."""
    tensors = [*network.parameters(), *network.buffers()]
    with alone(network):
        return copy.deepcopy(network, memo={id(tensor): tensor for tensor in tensors}).eval()


def _own_patterns(network: Any, tokens: Int[Tensor, "1 2"]) -> tuple[Any, ...]:
    """Of the layers that give theirs; by a twin, as transformers leaves hooks in modules that were asked for them."""
    twin = _twin(network)
    with suppress(ValueError):  # not every one can multiply its matrices out
        twin.set_attn_implementation("eager")
    return twin(tokens, use_cache=False, output_attentions=True).attentions or ()


def _as_loaded(tokenizer: Any) -> Any:
    """A tokenizer as one that was loaded: TransformerLens loads those that it is given anew, by their names.

    One that was built in memory has no name; it is given as a copy that says it puts BOS in front, which makes
    TransformerLens take it as it is.
    """
    known = getattr(tokenizer, "init_kwargs", None)
    if known is None or known.get("name_or_path"):
        return tokenizer
    tokenizer = copy.copy(tokenizer)
    tokenizer.init_kwargs = {**known, "name_or_path": "", "add_bos_token": True}
    return tokenizer
