"""Names of hooks that are none are refused with those there are, on whatever shows TransformerLens' hooks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformer_lens import ActivationCache
from transformer_lens.utilities.components_utils import get_act_name

from induction_lab.runtime.nearest import UnknownNameError, did_you_mean


class NamedHooks:
    """Before the class of a hooked model: what it raises where a hook is not there names the nearest one."""

    hook_dict: Any

    @contextmanager
    def hooks(
        self, fwd_hooks: Sequence[Any] = (), bwd_hooks: Sequence[Any] = (), *args: Any, **kwargs: Any
    ) -> Iterator[Any]:
        """As TransformerLens has it.

        Raises:
            ValueError: If there is no such hook.
        """
        self._check_hooks(name for name, _ in (*fwd_hooks, *bwd_hooks))
        with super().hooks(list(fwd_hooks), list(bwd_hooks), *args, **kwargs) as hooked:  # type: ignore[misc]
            yield hooked

    def run_with_hooks(
        self, *args: Any, fwd_hooks: Sequence[Any] = (), bwd_hooks: Sequence[Any] = (), **kwargs: Any
    ) -> Any:
        """As TransformerLens has it.

        Raises:
            ValueError: If there is no such hook.
        """
        self._check_hooks(name for name, _ in (*fwd_hooks, *bwd_hooks))
        run = super().run_with_hooks  # type: ignore[misc]
        return run(*args, fwd_hooks=list(fwd_hooks), bwd_hooks=list(bwd_hooks), **kwargs)

    def add_hook(self, name: Any, *args: Any, **kwargs: Any) -> None:
        """As TransformerLens has it.

        Raises:
            ValueError: If there is no such hook.
        """
        try:
            super().add_hook(name, *args, **kwargs)  # type: ignore[misc]
        except (KeyError, AttributeError):
            self._check_hooks([name])
            raise

    def run_with_cache(self, *args: Any, names_filter: Any = None, **kwargs: Any) -> tuple[Any, Any]:
        """As TransformerLens has it; the cache names the nearest activation too.

        Raises:
            ValueError: If none of the names is a hook's.
        """
        asked = [names_filter] if isinstance(names_filter, str) else names_filter
        if isinstance(asked, list) and self._names.isdisjoint(asked):
            self._check_hooks(asked)
        run = super().run_with_cache  # type: ignore[misc]
        found, cache = run(*args, names_filter=names_filter, **kwargs)
        if isinstance(cache, ActivationCache):
            cache.__class__ = NamedCache
        return found, cache

    @property
    def _names(self) -> set[str]:
        """Hooks by all of their names."""
        return {*self.hook_dict, *(hook.name for hook in self.hook_dict.values())}

    def _check_hooks(self, names: Iterable[Any]) -> None:
        given = [name for name in names if isinstance(name, str)]
        known = self._names if given else set()
        if wrong := [name for name in given if name not in known]:
            raise no_such("hook", wrong[0], self.hook_dict)


class NamedCache(ActivationCache):
    """An `ActivationCache` that says what it holds when it is asked for something else."""

    def __getitem__(self, key: Any) -> Tensor:
        """As TransformerLens has it.

        Raises:
            KeyError: If that is not in the cache; the message names what is.
        """
        try:
            return super().__getitem__(key)
        except KeyError:
            known = list(self.cache_dict)
        name = get_act_name(*key) if isinstance(key, tuple) else key
        raise no_such("activation", str(name), known)


def no_such(what: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """The error that there is no such hook or activation: the nearest, and all there are, by the part they are of."""
    names = list(known)
    parts: dict[str, dict[str, None]] = {}
    for each in names:
        part, _, hook = re.sub(r"^blocks\.\d+", "blocks.LAYER", each).rpartition(".")
        parts.setdefault(part, {})[hook] = None
    there = "; ".join(f"{part or 'of the model'}: {', '.join(hooks)}" for part, hooks in parts.items())
    return UnknownNameError(f"There is no {what} {name!r} here.{did_you_mean(name, names)} There are, {there}.")
