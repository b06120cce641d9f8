"""Which module adds position vectors to the embedding of tokens, and what both go through before the first block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from induction_lab.attention.scopes import Scope, outside
from induction_lab.models.wiring.watching import evaluating


class _Seen(Exception):
    """The first block was reached."""


def position_module(
    network: nn.Module, embedding: nn.Module, block: nn.Module, run: Callable[[], Any]
) -> nn.Module | None:
    """The module that makes position vectors, or None where none are added.

    Args:
        network: Whose.
        embedding: The module that embeds tokens.
        block: The first block.
        run: Runs it on a prompt of one token, repeated.

    Raises:
        ValueError: If positions are added, but by no module.
    """
    made: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            made[module] = output

    inside = set(block.modules()) | {embedding}
    others = [module for module in network.modules() if module not in inside]
    before, after = _entering(network, block, run, {module: keep for module in others})
    if _alike(before, after):
        return None
    for module, output in made.items():  # it finishes before what reads it, such as a projection of the sum (ELECTRA)
        if output.ndim >= 2 and output.shape[-2] == 2 and not _alike(*output.unbind(-2)):
            if _alike(*_entering(network, block, run, {module: lambda *args: torch.zeros_like(args[-1])})):
                return module
    raise ValueError(
        f"{type(network).__name__} adds positions to its embeddings by no module of its own, so a token's embedding "
        "cannot be had without them."
    )


def behind_positions(
    network: nn.Module, module: nn.Module | None, block: nn.Module, run: Callable[[], Any]
) -> list[nn.Module]:
    """What the sum of embedding and positions goes through before the first block: a norm (BERT), a projection.

    Args:
        network: Whose.
        module: The one that makes position vectors; without one there is nothing to follow.
        block: The first block.
        run: Runs the network on one prompt of a token that is repeated once.

    Raises:
        ValueError: If the vectors are not added to the embedding as they are, or what follows is not known.
    """
    if module is None:
        return []
    passed: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel() >= 2:
            read = next((x for x in args if isinstance(x, Tensor) and x.is_floating_point()), output)
            passed[module] = read.flatten(0, -2), output.flatten(0, -2)

    inside = set(block.modules())
    leaves = [m for m in network.modules() if m not in inside and (m is module or next(m.children(), None) is None)]
    stream = torch.cat([x.flatten(0, -2) for x in _entering(network, block, run, {m: keep for m in leaves})])
    _, made = passed.pop(module)
    found: list[nn.Module] = []
    while True:
        makers = [m for m, (read, gave) in passed.items() if torch.equal(gave, stream) and not torch.equal(read, gave)]
        if not makers:
            break
        found, stream = [makers[0], *found], passed.pop(makers[0])[0]
    if stream.shape != made.shape or not _alike(stream[1] - stream[0], made[1] - made[0]):
        raise ValueError(f"{type(network).__name__} does not add its position vectors to embeddings as they are.")
    return found


def _entering(
    network: nn.Module, block: nn.Module, run: Callable[[], Any], hooks: dict[nn.Module, Callable[..., Any]]
) -> tuple[Tensor, Tensor]:
    """What enters the first block at the two positions."""
    entered: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entered.append(args[0] if args else kwargs["hidden_states"])
        raise _Seen

    with outside(), Scope() as scope, torch.inference_mode(), evaluating(network):
        for module, hook in hooks.items():
            scope.after(module, hook)
        scope.before(block, stop, with_kwargs=True, prepend=True)  # before its weights are fetched
        try:
            run()
        except _Seen:
            pass
    return entered[0][..., 0, :], entered[0][..., 1, :]


def _alike(one: Tensor, other: Tensor) -> bool:
    return bool(torch.allclose(one, other, rtol=1e-3, atol=1e-5 * float(one.abs().max())))
