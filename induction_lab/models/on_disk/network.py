"""A network of transformers as one whose weights stay on disk, and copies of it that fetch them as it does."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from induction_lab.models.on_disk.offloading import Offloading, offloading_of, register_copy
from induction_lab.runtime.optional import library


def offloaded(loaded: Any, dtype: torch.dtype) -> Any:
    """The same network as one that computes in `dtype`, its weights left in the files that they were loaded from.

    Args:
        loaded: A network of transformers, loaded on the CPU in the number format of its files, which maps them.
        dtype: What to compute in.

    Raises:
        ValueError: If Accelerate is not installed, or the weights are quantised or not in files that can be mapped.
    """
    if not loaded._can_set_attn_implementation():
        raise ValueError(
            f"{type(loaded).__name__} is read through TransformerLens' hooks, whose runs cannot go side by side: its "
            "weights cannot stay on disk. Load it without offload."
        )
    accelerate = library("accelerate", extra="offload")
    if getattr(loaded.config, "quantization_config", None) is not None:
        raise ValueError("Quantised weights cannot stay on disk: they are unpacked by kernels of their own.")
    with accelerate.init_empty_weights(include_buffers=False):
        network = type(loaded)._from_config(loaded.config, dtype=dtype)
    for name, parameter in loaded.named_parameters(remove_duplicate=False):
        _put(network, name, parameter.requires_grad_(False))
    kept = dict(network.named_buffers())
    for name, buffer in loaded.named_buffers():
        if name in loaded.state_dict():
            kept[name].data = buffer.to(kept[name].dtype)
    offloading = Offloading(network, dtype)
    if not offloading.bytes:
        raise ValueError(
            "Weights can stay on disk where .safetensors or .bin files are mapped, on Linux, and in the form that the "
            "network has them; these are not. Load the model without offload once and save it anew: "
            "model.network.save_pretrained(folder)."
        )
    return network.eval()


def fit_copy(network: nn.Module, copied: nn.Module) -> None:
    """Let a copy without hooks, of the same parameters as a network on disk, fetch them as the network does."""
    if (offloading := offloading_of(network)) is not None:
        offloading.attach(copied)


def with_one_block(network: nn.Module, blocks: nn.ModuleList, layer: int, embedding: nn.Module) -> nn.Module:
    """A copy of a network on disk, of the same parameters and configurations, in which one block is the only one.

    The block is the network's own; the modules around it are copies that nobody has hooked. `embedding` embeds tokens.
    """
    memo: dict[int, Any] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    inside = {*blocks.modules()}
    for module in network.modules():
        config = getattr(module, "config", None)
        memo[id(config)] = config
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            if module not in inside:
                memo[id(hooks)] = type(hooks)({i: hook for i, hook in hooks.items() if hasattr(hook, "unit")})
    memo[id(network.get_input_embeddings())] = embedding  # type: ignore[operator]
    memo[id(blocks)] = nn.ModuleList([blocks[layer]])
    copied = copy.deepcopy(network, memo)
    register_copy(network, copied)
    return copied


def fit_bridge(network: nn.Module, bridge: nn.Module) -> None:
    """Let a TransformerLens bridge of a network on disk find weights in the number format that blocks compute in.

    Its components look at the format of a part before that runs, and have copies of what is fused in the network.
    """
    if (offloading := offloading_of(network)) is None:
        return
    narrow = {stored.dtype for stored in offloading.stored.values()}
    for component in bridge.modules():
        for own in (*component._parameters.values(), *component._buffers.values(), *vars(component).values()):
            if isinstance(own, Tensor) and own not in offloading.stored and own.dtype in narrow:
                own.data = own.data.to(offloading.dtype)
        original = getattr(component, "original_component", None)
        if original is not None and (unit := offloading.unit_of(original)) is not None:
            component.register_forward_pre_hook(partial(_fetch, offloading, unit))


def _fetch(offloading: Offloading, unit: Any, *_: Any) -> None:
    offloading.fetch(unit, whole=True)


def _put(network: nn.Module, name: str, parameter: nn.Parameter) -> None:
    place, _, last = name.rpartition(".")
    setattr(network.get_submodule(place), last, parameter)
