"""A network's blocks, their parts and its final norm, found by what flows through its modules on a few tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from induction_lab.models.wiring.projections import LayerParts, layer_parts, same
from induction_lab.models.wiring.watching import Watched, watch


class NoAttention(ValueError):
    """No module in a list of blocks attends."""


class Wiring:
    """Where a transformers network keeps what its heads read and write through.

    Args:
        network: Whose.
        run: Runs it on a batch of single tokens, up to the unembedding.
        configs: Configurations in which its modules look up how to attend; none where they attend by themselves.
        n_kv_heads: Key-value heads of a layer.
        factor: What a layer's output is multiplied by before it enters the stream.

    Attributes:
        blocks: Its blocks, one a layer.
        attending: The module that attends, of every layer that does.
        layers: The parts of those layers.
        final_norm: The normalisation before the unembedding; `nn.Identity` where there is none.
        width: Of what the unembedding reads.

    Raises:
        NoAttention: If there is no list of blocks in which modules attend.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Callable[[], Tensor],
        configs: list[Any],
        *,
        n_kv_heads: int,
        factor: float,
    ) -> None:
        """Run and look."""
        watched = watch(network, run, configs)
        self.blocks, places = _blocks(network, list(watched.calls))
        self.attending = dict(places)
        self._hooks = [_n_hooks(module) for module in self.attending.values()]
        self.layers: dict[int, LayerParts] = {}
        for layer, module in places:
            self.layers[layer] = layer_parts(watched, self.blocks[layer], module, n_kv_heads=n_kv_heads, factor=factor)
        self.final_norm = _final_norm(watched, network, self.blocks)
        self.width = watched.end.shape[1]
        found = {m for parts in self.layers.values() for m in _modules(parts)}
        self._slots = [
            (parent, name, child)
            for parent in network.modules()
            for name, child in parent.named_children()
            if child in found
        ]

    def stands(self) -> bool:
        """Whether no module was put in the place of one that was found, as adapters are, and no hook on attention."""
        for parent, name, child in self._slots:
            if parent._modules.get(name) is not child:
                return False
        return self._hooks == [_n_hooks(module) for module in self.attending.values()]


def _n_hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _modules(parts: LayerParts) -> list[nn.Module]:
    projections = [made.module for made in parts.projections.values() if not isinstance(made, ValueError)]
    norms = [parts.norm_before, parts.norm_after, *parts.head_norms.values(), *parts.stream_norms]
    return [*projections, *(norm for norm in norms if isinstance(norm, nn.Module))]


def _blocks(network: nn.Module, attending: list[nn.Module]) -> tuple[list[nn.Module], list[tuple[int, nn.Module]]]:
    """The outermost list of modules in which modules attend, and at which place of it each does."""
    names = {module: name for name, module in network.named_modules()}
    for module in attending:
        path = names[module].split(".")
        for depth in range(1, len(path)):
            above = network.get_submodule(".".join(path[:depth]))
            if isinstance(above, nn.ModuleList):
                blocks, start = list(above), ".".join(path[:depth]) + "."
                inside = [other for other in attending if names[other].startswith(start)]
                return blocks, [(int(names[other][len(start) :].split(".")[0]), other) for other in inside]
    raise NoAttention(f"{type(network).__name__} keeps its layers in no list in which modules attend.")


def _final_norm(watched: Watched, network: nn.Module, blocks: list[nn.Module]) -> nn.Module:
    """What reads the last block's output and keeps its shape."""
    inside = {part for block in blocks for part in block.modules()}
    if blocks[-1] not in watched.passed:
        return nn.Identity()
    end = watched.passed[blocks[-1]][-1].gave
    for module in network.modules():
        for passed in watched.passed.get(module, ()) if module not in inside else ():
            keeps = passed.gave.shape == end.shape and all(each.ndim < 2 for each in module.parameters())
            if keeps and same(passed.read, end) and not same(passed.gave, end):
                return module
    return nn.Identity()
