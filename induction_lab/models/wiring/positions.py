"""Which module adds position vectors to the embedding of tokens: the one without which all positions are alike."""

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
    for module, output in made.items():
        if output.shape[-1] == before.shape[-1] and output.shape[-2] == 2 and not _alike(*output.unbind(-2)):
            if _alike(*_entering(network, block, run, {module: lambda *args: torch.zeros_like(args[-1])})):
                return module
    raise ValueError(
        f"{type(network).__name__} adds positions to its embeddings by no module of its own, so a token's embedding "
        "cannot be had without them."
    )


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
