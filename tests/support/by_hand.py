"""The slow and obvious routes that interventions are checked against: TransformerLens hooks written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from families import FAMILIES, random_network
from torch import Tensor

from induction_lab import HookedModel, induction_circuit, load_model, repeated_tokens
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer

OWN = ("bundled", "circuit", "small")
EVERY = (*FAMILIES, *OWN)


@cache
def model_of(name: str) -> HookedModel:
    """One model a name, kept: whoever changes it has to leave it as it was."""
    if name == "bundled":
        return load_model()
    if name == "circuit":
        return HookedModel(induction_circuit(d_vocab=40, n_ctx=40), name=name)
    if name == "small":
        return own_model()
    model = HookedModel(random_network(name), name=name)
    z_of(model, tokens_of(model))  # bridges hook their norms when they are first run
    return model


def own_model(*, seed: int = 3, **shape: Any) -> HookedModel:
    """Random weights, larger than at initialisation, so that patterns are far from uniform."""
    shape = {"d_vocab": 60, "n_heads": 3, "d_model": 24, "d_head": 8, "n_ctx": 40} | shape
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**shape), seed=seed).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "attn.W_" in name or ".mlp." in name:
                parameter.mul_(2.0)
    return HookedModel(network, name="own")


def tokens_of(model: HookedModel, *, n_prompts: int = 3, period: int = 9, seed: int = 0) -> Tensor:
    return repeated_tokens(model, n_prompts=n_prompts, period=period, seed=seed).tokens


def by_head(x: Tensor, n_heads: int) -> Tensor:
    """`[prompt, pos, head, d_head]`, where bridges may show heads side by side."""
    return x.flatten(2).unflatten(2, (n_heads, -1))


def z_of(model: HookedModel, tokens: Tensor) -> dict[int, Tensor]:
    """Each layer's head outputs, `[prompt, pos, head, d_head]`."""
    found: dict[int, Tensor] = {}

    def look(layer: int, z: Tensor, v: Tensor) -> Tensor:
        found[layer] = z.clone()
        return z

    hooked_logits(model, tokens, look)
    return found


def hooked_logits(model: HookedModel, tokens: Tensor, change: Callable[[int, Tensor, Tensor], Tensor]) -> Tensor:
    """Logits of a run in which `change(layer, z, v)` says what each layer's heads put out; `v` one for each head."""
    values: dict[int, Tensor] = {}

    def keep(v: Tensor, hook: Any) -> None:
        v = by_head(v, model.n_kv_heads)
        values[hook.layer()] = v.repeat_interleave(model.n_heads // v.shape[2], 2)

    def put(z: Tensor, hook: Any) -> Tensor:
        layer = hook.layer()
        own = by_head(z, model.n_heads)
        return change(layer, own.clone(), values.get(layer, own)).reshape(z.shape)

    hooks = [(f"blocks.{layer}.attn.hook_v", keep) for layer in range(model.n_layers)]
    hooks += [(f"blocks.{layer}.attn.hook_z", put) for layer in range(model.n_layers)]
    logits = model.hooked.run_with_hooks(tokens, fwd_hooks=hooks)
    model.release()
    return logits


def with_z(model: HookedModel, tokens: Tensor, instead: dict[tuple[int, int], Tensor | float]) -> Tensor:
    """Logits where heads put out `[prompt or 1, pos, d_head]` instead of their own."""

    def change(layer: int, z: Tensor, v: Tensor) -> Tensor:
        for (at, head), other in instead.items():
            if at == layer:
                z[:, :, head] = other
        return z

    with torch.inference_mode():
        return hooked_logits(model, tokens, change)


def passed(network: Any, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By the name of each module of a transformers network, what it read first and what it gave."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: found.update({name: (args[0], output)} if args else {})

    handles = [module.register_forward_hook(keep(name)) for name, module in network.named_modules()]
    with torch.inference_mode():
        network(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def changes_at_held_norms(model: HookedModel, tokens: Tensor, others: Tensor, layer: int = 0) -> dict[str, Tensor]:
    """How the stream changes when one sender of a layer writes what it writes on other prompts.

    For networks with an RMSNorm of what the heads write together. It is replaced by division by a number: the root mean
    square that it sees on `tokens`.
    """
    own, other = (passed(model.network, x) for x in (tokens, others))
    block = f"model.layers.{layer}"
    attention, norm = f"{block}.self_attn.o_proj", f"{block}.post_attention_layernorm"
    o_proj, module = (model.network.get_submodule(name) for name in (attention, norm))
    eps = getattr(module, "variance_epsilon", None) or module.eps
    gain = 1 + module.weight if "Gemma" in type(module).__name__ else module.weight
    with torch.inference_mode():
        rms = own[attention][1].square().mean(-1, keepdim=True).add(eps).sqrt()
        torch.testing.assert_close(own[attention][1] / rms * gain, own[norm][1], atol=1e-4, rtol=1e-4)
        changes = {"embed": other["model.layers.0"][0] - own["model.layers.0"][0]} if layer == 0 else {}
        for head in range(model.n_heads):
            z = own[attention][0].unflatten(-1, (model.n_heads, -1)).clone()
            z[:, :, head] = other[attention][0].unflatten(-1, (model.n_heads, -1))[:, :, head]
            changes[f"L{layer}H{head}"] = (o_proj(z.flatten(-2)) - own[attention][1]) / rms * gain
        after = f"{block}.post_feedforward_layernorm"
        changes[f"MLP{layer}"] = other[after][1] - own[after][1]
    return changes


def others_mean(z: Tensor) -> Tensor:
    """For each prompt the mean over all others."""
    return torch.stack([torch.cat([z[:i], z[i + 1 :]]).mean(0) for i in range(len(z))])


def patterns_of(model: HookedModel, tokens: Tensor) -> list[Tensor]:
    """What transformers (or an own model's hook) says that every head attends to."""
    with torch.inference_mode():
        if not isinstance(model.network, AttentionOnlyTransformer):
            return list(model.network(tokens, output_attentions=True, use_cache=False).attentions)
        found: list[Tensor] = []
        names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.n_layers)]
        model.hooked.run_with_hooks(tokens, fwd_hooks=[(name, lambda x, hook: found.append(x)) for name in names])
        return found


def hooks_of(model: HookedModel) -> dict[str, int]:
    """How many hooks there are on each module of the network and of its TransformerLens surface."""
    modules = {
        **dict(model.network.named_modules(prefix="network")),
        **dict(model.hooked.named_modules(prefix="hooked")),
    }
    counts = {name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in modules.items()}
    return {name: count for name, count in counts.items() if count}


def losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """`[prompt, pos - 1]`, in nats."""
    flat = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return flat.unflatten(0, tokens[:, 1:].shape)


def ideal_by_hand(tokens, kind):
    """Row by row: the token before, or all that followed the token earlier; on BOS where there is nothing."""
    pattern = torch.zeros(*tokens.shape, tokens.shape[1])
    for prompt, row in enumerate(tokens.tolist()):
        for t in range(len(row)):
            earlier = [s + 1 for s in range(1, t) if row[s] == row[t]] if t else []
            keys = earlier if kind == "induction" else [max(t - 1, 0)]
            for key in keys or [0]:
                pattern[prompt, t, key] += 1 / len(keys or [0])
    return pattern
