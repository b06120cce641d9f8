"""Where a network keeps its parts: blocks, norms, projections, and what kind of attention it has."""

from __future__ import annotations

from torch import nn

from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.hooked_model import HookedModel


def block_modules(model: HookedModel) -> list[nn.Module]:
    """The network's own blocks, one a layer.

    Raises:
        ValueError: If TransformerLens cannot say where they are.
    """
    if isinstance(model.network, AttentionOnlyTransformer):
        return list(model.network.blocks)
    return [model.network.get_submodule(block.name) for block in model.hooked.blocks]


def output_projection(model: HookedModel, layer: int) -> nn.Module:
    """The module of a transformers network that reads a layer's heads, side by side."""
    block = model.hooked.blocks[layer]
    return model.network.get_submodule(".".join((block.name, block.attn.name, block.attn.o.name)))


def goes_through_interface(model: HookedModel) -> bool:
    """Whether the engine can serve this model; if not, its layers' matrices are read through hooks."""
    if isinstance(model.network, AttentionOnlyTransformer):
        return True
    return bool(model.network._can_set_attn_implementation())


def is_rotary(model: HookedModel) -> bool:
    """Whether queries and keys are turned by their position."""
    if isinstance(model.network, AttentionOnlyTransformer):
        return model.network.cfg.positions == "rotary"
    config = model.network.config.get_text_config(decoder=True)
    return bool(getattr(config, "rope_parameters", None) or getattr(config, "rotary_dim", None))


def has_mlps(model: HookedModel) -> bool:
    """Whether MLPs write into the residual stream beside the heads."""
    return "blocks.0.hook_mlp_out" in model.hooked.hook_dict


_BLOCK_NORMS = ("ln1", "ln1_post")


def norms_of(model: HookedModel) -> list[nn.Module]:
    """The network's own normalisations that heads read or write through, and the final one."""
    network = model.network
    if isinstance(network, AttentionOnlyTransformer):
        found = [getattr(block, name, None) for block in network.blocks for name in _BLOCK_NORMS]
    else:
        paths = [
            f"{block.name}.{norm.name}"
            for block in model.hooked.blocks
            for name in _BLOCK_NORMS
            if (norm := getattr(block, name, None)) is not None and getattr(norm, "name", None)
        ]
        found = [network.get_submodule(path) for path in dict.fromkeys(paths)]
    return [norm for norm in (*found, model.final_norm) if norm is not None and not isinstance(norm, nn.Identity)]
