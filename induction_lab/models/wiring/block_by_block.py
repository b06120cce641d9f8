"""A network's parts, found and proven block by block, for networks whose weights memory cannot hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from induction_lab.models.on_disk.network import with_one_block
from induction_lab.models.on_disk.offloading import offloading_of
from induction_lab.models.wiring.network import NoAttention, Wiring
from induction_lab.models.wiring.projections import LayerParts

Part = TypeVar("Part", LayerParts, nn.Module)


class BlockByBlock:
    """What `Wiring` says of a network, each block being run, without the others, when its parts are first asked for.

    One block of each kind (the same modules and sizes) is run at once: it says which layers attend, and what the final
    norm is.

    Args:
        blocks: The network's blocks, one a layer.
        wire: Runs the network with one of them alone, and gives its wiring.
        name: How to call the network.

    Attributes:
        blocks, attending, layers, final_norm, width: As those of `Wiring`.
        kinds: The first layer of each kind.

    Raises:
        NoAttention: If modules attend in none of them.
    """

    def __init__(self, blocks: nn.ModuleList, wire: Callable[[int], Wiring], name: str) -> None:
        """Run a block of each kind."""
        self.blocks, self._list, self._wire, self._name = list(blocks), blocks, wire, name
        alike: dict[object, list[int]] = {}
        for layer, block in enumerate(self.blocks):
            alike.setdefault(_kind(block), []).append(layer)
        self.kinds = [layers[0] for layers in alike.values()]
        self._wired: dict[int, Wiring] = {}
        attending: list[int] = []
        reason = None
        for layers in alike.values():
            try:
                self._wired[layers[0]] = wire(layers[0])
                attending += layers
            except NoAttention as error:
                reason = error
        if reason is not None and not attending:
            raise reason
        self.layers = _Each(sorted(attending), lambda layer: self._of(layer).layers[0])
        self.attending = _Each(sorted(attending), lambda layer: self._of(layer).attending[0])
        first = next(iter(self._wired.values()))
        self.final_norm, self.width = first.final_norm, first.width

    def stands(self) -> bool:
        """Whether no module was put in the place of one that was found, and no hook on attention."""
        return list(self._list) == self.blocks and all(wiring.stands() for wiring in self._wired.values())

    def _of(self, layer: int) -> Wiring:
        if layer not in self._wired:
            try:
                found = self._wire(layer)
            except Exception as error:
                why = "does not attend" if isinstance(error, NoAttention) else f"cannot be run alone ({error})"
                raise ValueError(
                    f"Layer {layer} of {self._name} has the same modules as others that attend, and {why}: load the "
                    "model without offload."
                ) from error
            norms = found.final_norm, self.final_norm
            if norms[0] is not norms[1] and not all(type(norm) is nn.Identity for norm in norms):
                raise ValueError(f"What layer {layer} of {self._name} gives is not what its final norm reads.")
            self._wired[layer] = found
        return self._wired[layer]


class _Each(Mapping[int, Part]):
    """Something of every layer, found when it is asked for."""

    def __init__(self, layers: list[int], find: Callable[[int], Part]) -> None:
        self._layers, self._find = layers, find

    def __getitem__(self, layer: int) -> Part:
        if layer not in self._layers:
            raise KeyError(layer)
        return self._find(layer)

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


class _Remembered(nn.Module):
    """An embedding, which some networks read whole, of tokens that were asked for before."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding, self._known = (embedding,), dict[tuple[int, ...], Tensor]()

    def forward(self, tokens: Tensor) -> Tensor:
        asked = tuple(tokens.flatten().tolist())
        if asked not in self._known:
            self._known[asked] = self.embedding[0](tokens)
        return self._known[asked].clone()


def _kind(block: nn.Module) -> object:
    """The same for blocks of the same modules and sizes."""
    modules = tuple((name, type(module)) for name, module in block.named_modules())
    return modules, tuple((name, weight.shape) for name, weight in block.named_parameters())


def block_by_block(
    network: nn.Module, wired: Callable[[nn.Module], Wiring], *, n_layers: int, name: str
) -> BlockByBlock | None:
    """Of a network on disk; None where it is none, or does not run with one block alone.

    Args:
        network: Whose.
        wired: Finds the parts of a copy of the network that has one block.
        n_layers: Of the network.
        name: How to call it.
    """
    if offloading_of(network) is None:
        return None
    embedding = _Remembered(network.get_input_embeddings())  # type: ignore[operator]

    def wire(blocks: nn.ModuleList, layer: int) -> Wiring:
        one = with_one_block(network, blocks, layer, embedding)
        found = wired(one)
        if found.blocks != [blocks[layer]]:
            raise NoAttention(f"Modules of {name} attend elsewhere.")
        names = {module: place for place, module in one.named_modules()}
        if found.final_norm in names:
            found.final_norm = network.get_submodule(names[found.final_norm])
        return found

    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == n_layers:
            with suppress(Exception):
                return BlockByBlock(module, partial(wire, module), name)
    return None
