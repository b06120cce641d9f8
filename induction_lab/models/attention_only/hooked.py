"""A network of ours as TransformerLens' `HookedRootModule`: what it becomes when its hooks are first used."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import nn
from transformer_lens import HookedRootModule

from induction_lab.models.attention_only.hook_points import HookPoint, become_transformer_lens
from induction_lab.models.wiring.named_hooks import NamedCache, NamedHooks


class Hooked(NamedHooks, HookedRootModule):
    """Behind a network's own class: the methods of TransformerLens that use hooks."""

    def run_with_cache(self, *args: Any, return_cache_object: bool = True, **kwargs: Any) -> tuple[Any, Any]:
        """Run, and keep what passes the hooks: an `ActivationCache`, `cache["pattern", 1]`.

        Args:
            *args: Tokens, or text where there is a tokenizer.
            return_cache_object: An `ActivationCache`; else a dictionary.
            **kwargs: `names_filter`, `remove_batch_dim`, `return_type` and so on, as TransformerLens takes them.
        """
        found, cache = super().run_with_cache(*args, **kwargs)
        if return_cache_object:
            cache = NamedCache(cache, self, has_batch_dim=not kwargs.get("remove_batch_dim", False))
        return found, cache

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is an object of the network's own class, to be hooked again."""
        return _empty, (type(self).__mro__[1],), vars(self)


def become_hooked(network: nn.Module) -> None:
    """Make a network and its hook points TransformerLens', in their places; nothing where they are."""
    if isinstance(network, Hooked):
        return
    for module in network.modules():
        if isinstance(module, HookPoint):
            become_transformer_lens(module)
    vars(network).update(is_caching=False, context_level=0)
    network.__class__ = _hooked(type(network))
    network.setup()  # type: ignore[operator]


@cache
def _hooked(kind: Any) -> Any:
    return type(kind.__name__, (kind, Hooked), {"__module__": kind.__module__})


def _empty(kind: Any) -> Any:
    """A network to be filled with what was pickled."""
    hooked = _hooked(kind)
    return hooked.__new__(hooked)
