"""Let modules of transformers attend with another function, in one thread or task only.

They look up in their configuration by which function to attend. It is not written to: what it answers is decided anew
each time that it is asked, so that others who run the network meanwhile attend as it says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Lock
from typing import Any

import torch

from induction_lab.attention.scopes import Scope, said

_guard = Lock()
_n_asking, _own = 0, None


@contextmanager
def attending(
    configs: Iterable[Any], name: str, function: Callable[..., Any], mask: Callable[..., Any]
) -> Iterator[None]:
    """Inside, modules with these configurations attend by `function`.

    Args:
        configs: Of transformers.
        name: Under which the function is registered.
        function: In the form that transformers calls.
        mask: Makes the masks that it is given, in the form that transformers calls.
    """
    configs = list(configs)
    if configs:
        from transformers import AttentionInterface, AttentionMaskInterface

        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, mask)
    with _asking_scopes() if configs else nullcontext():
        with Scope({("attends by", id(config)): name for config in configs}):
            yield


def refuse_own_attention(configs: Iterable[Any], name: str) -> None:
    """Refuse a network, called `name`, that attends by somebody's own function, which nothing here can look into.

    Raises:
        ValueError: If one is registered under what a configuration says.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    for config in configs:
        function = ALL_ATTENTION_FUNCTIONS.get(config._attn_implementation)
        function = getattr(function, "func", function)  # kernels are registered as partial functions
        if function is not None and function.__module__.split(".")[0] not in ("transformers", "induction_lab"):
            raise ValueError(
                f"{name} attends by {config._attn_implementation!r}, a function of {function.__module__} that was "
                "registered with transformers: what its heads do cannot be read. If it is a softmax over the usual "
                "scores, measure with network.set_attn_implementation('sdpa')."
            )


@contextmanager
def _asking_scopes() -> Iterator[None]:
    """Inside, configurations say what the open scopes say, and what stands in them where these say nothing.

    `_attn_implementation` is a property of transformers' class of all configurations, so that no single one could have
    its own without being of another class. The property is laid over while something attends by another function, and
    taken off with the last; who reads it outside of a scope, in any thread, reads what he would read without.
    """
    from transformers import PreTrainedConfig

    global _n_asking, _own
    with _guard:
        if _n_asking == 0:
            _own = vars(PreTrainedConfig)["_attn_implementation"]
            PreTrainedConfig._attn_implementation = _over(_own)  # type: ignore[assignment]
        _n_asking += 1
    try:
        yield
    finally:
        with _guard:
            _n_asking -= 1
            if _n_asking == 0:
                PreTrainedConfig._attn_implementation = _own  # type: ignore[assignment]


def _over(own: Any) -> property:
    """Of transformers' property, one that asks the scopes first."""

    def implementation(config: Any) -> str | None:
        if torch.compiler.is_compiling():
            return own.fget(config)
        return (said(("attends by", id(config))) or [own.fget(config)])[-1]

    return property(implementation, own.fset)
