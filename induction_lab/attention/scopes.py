"""Changes to a network that hold in one thread or task only, and one run of it at a time.

Servers, thread pools and asyncio tasks may share a network. Whatever changes it for a while (hooks, edits, another way
to attend) does so in a `Scope`, and acts on calls that are made from inside it only: in the same thread or task, or one
that was started with a copy of its context (`asyncio.create_task`, `asyncio.to_thread`). Others see the network as it
is, also while a scope is open.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

_open: ContextVar[tuple[Scope, ...]] = ContextVar("induction_lab_scopes", default=())
_held: ContextVar[tuple[int, ...]] = ContextVar("induction_lab_held", default=())
_PARTS = -1  # no id
_guard = Lock()
_locks: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_stances: list[Any] = []  # one for each open `uncompiled`; the first says what to go back to


class Scope(ExitStack):
    """An `ExitStack` whose hooks, and what it says of modules and other things, hold inside it only.

    Args:
        said: What it says, by the thing that it is said of: see `said`.
    """

    def __init__(self, said: Mapping[Any, Any] | None = None) -> None:
        """Take note of what is said; nothing holds yet."""
        super().__init__()
        self.said = said or {}
        self._is_open = False

    def __enter__(self) -> Scope:
        """From here on it holds in this thread or task."""
        self._is_open = True
        _open.set((*_open.get(), self))
        return super().__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        """It holds nowhere any more: a generator may be closed in another task than it was started in."""
        self._is_open = False
        _open.set(tuple(other for other in _open.get() if other is not self))
        return super().__exit__(*error)

    @property
    def holds(self) -> bool:
        """Whether it is open, and this is its thread or task."""
        return self._is_open and any(other is self for other in _open.get())

    def before(self, module: nn.Module, hook: Callable[..., Any], **how: Any) -> None:
        """Put a hook in front of a module."""
        self.callback(module.register_forward_pre_hook(self._here(hook), **how).remove)

    def after(self, module: nn.Module, hook: Callable[..., Any], **how: Any) -> None:
        """Put a hook behind a module."""
        self.callback(module.register_forward_hook(self._here(hook), **how).remove)

    def _here(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: hook(*args) if self.holds else None


@contextmanager
def outside() -> Iterator[None]:
    """Inside, no scope that is open holds: for runs that find out what a network is built of, whoever edits it."""
    token = _open.set(())
    try:
        yield
    finally:
        _open.reset(token)


def said(of: Any) -> list[Any]:
    """What the scopes that are open in this thread or task say of something, the outermost first."""
    return [scope.said[of] for scope in _open.get() if scope._is_open and of in scope.said]


@contextmanager
def alone(network: nn.Module, *, with_parts: bool = False) -> Iterator[None]:
    """Others who want to be alone with this network wait until the context ends.

    The same thread or task does not, nor do threads that were started with a copy of its context.

    Args:
        network: Or a part of one.
        with_parts: Whether such threads need not wait for its parts either: they take turns by themselves.
    """
    if {id(network), _PARTS} & {*_held.get()}:
        yield
        return
    with _guard:
        lock = _locks.setdefault(network, RLock())
    with lock:
        before = _held.get()
        _held.set((*before, id(network), *[_PARTS] * with_parts))
        try:
            yield
        finally:
            _held.set(before)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Networks and modules that are compiled run their own code inside, which can be read and edited."""
    if "torch._dynamo" not in sys.modules:  # which takes seconds to import, and without which nothing is compiled
        yield
        return
    with _guard:
        _stances.append(None if _stances else torch.compiler.set_stance("force_eager"))
    try:
        yield
    finally:
        with _guard:
            first = _stances.pop() if len(_stances) == 1 else _stances.pop(1)
            if first is not None:
                first.__exit__(None, None, None)
