"""Models larger than memory: weights stay mapped in their files, and each block's are in memory while it runs.

A file that is mapped looks like memory and takes none: the system reads a page when it is first touched. What a block
multiplies with is converted to the number format that was asked for when the block begins, and let go of when the next
one does. Several runs through the network can go side by side, so that each weight is read once for all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from induction_lab.models.on_disk.mapping import DONT_NEED, WILL_NEED, advise, lies_in, mapped_files

Result = TypeVar("Result")
_PIECE = 2**26  # bytes that are converted at a time
_known: WeakKeyDictionary[nn.Module, Offloading] = WeakKeyDictionary()


class _Cancelled(BaseException):
    """Another of the jobs that run side by side has failed."""


class _Unit:
    """Modules whose weights come and go together: a block, or the embedding, or the unembedding."""

    def __init__(self, name: str, module: nn.Module, weights: list[nn.Parameter]) -> None:
        self.name, self.weights = name, weights
        self.rows_only = type(module) is nn.Embedding  # looks up rows, which are converted after
        self.is_block = name.rpartition(".")[2].isdigit()
        self.running = 0


class _Worker:
    """A job in a thread of its own, which runs only when it is told to."""

    def __init__(self, job: Callable[[], Any]) -> None:
        self.job, self.go = job, threading.Semaphore(0)
        self.wants: _Unit | None = None
        self.began = False
        self.ended, self.result = False, None
        self.error: BaseException | None = None


class Offloading:
    """The weights of a network of transformers that stay in its files.

    Attributes:
        dtype: What blocks compute in.
        bytes: How much one run through the network reads.
        bytes_read: How much has been read for blocks that ran.
        stored: The network's weights that stay on disk, and where they are mapped.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        """Let each block fetch its weights when it begins."""
        self.dtype, self.bytes_read = dtype, 0
        files = mapped_files()
        self.stored: dict[Tensor, Tensor] = {}
        for parameter in network.parameters():
            if parameter.ndim >= 2 and lies_in(files, parameter):
                self.stored[parameter] = parameter.data
            else:
                parameter.data = parameter.data.to(dtype)
        self._units = [
            _Unit(name, module, weights)
            for name, module in _parts(network)
            if (weights := [each for each in dict.fromkeys(module.parameters()) if each in self.stored])
        ]
        held = {weight for unit in self._units for weight in unit.weights}
        for parameter in set(self.stored) - held:  # beside the modules that run
            parameter.data = self.stored.pop(parameter).to(dtype)
        self.bytes = sum(weight.nbytes for unit in self._units if not unit.rows_only for weight in unit.weights)
        self._loaded: list[_Unit] = []
        self._workers: dict[int, _Worker] = {}
        self._baton, self._cancelled = threading.Semaphore(0), False
        self.attach(network)

    def attach(self, network: nn.Module) -> None:
        """Let each block of the network, or of one that has the same parameters, fetch its weights when it begins."""
        for unit in self._units:
            part = network.get_submodule(unit.name)
            part.register_forward_pre_hook(self._before(unit))
            part.register_forward_hook(self._after(unit), always_call=True)
        _known[network] = self

    def unit_of(self, module: nn.Module) -> _Unit | None:
        """The unit that a part of the network, or of a copy of it, fetches."""
        units = (getattr(hook, "unit", None) for hook in module._forward_pre_hooks.values())
        return next((unit for unit in units if unit is not None), None)

    def in_memory(self, weights: Tensor) -> Tensor:
        """A part's weights, fetched and converted if they are on disk; they stay until another part's are fetched."""
        for unit in self._units:
            for weight in unit.weights:
                if self.stored[weight].data_ptr() == weights.data_ptr():
                    self.fetch(unit, whole=True)
                    return weight.data
        return weights

    def side_by_side(self, jobs: Sequence[Callable[[], Result]]) -> list[Result]:
        """Do jobs that run through the network in step: whoever needs the weights that are in memory goes first.

        One job runs at a time; all go through a block before the next one's weights are read.
        """
        workers = [_Worker(job) for job in jobs]
        threads = [
            threading.Thread(target=copy_context().run, args=(self._work, each), daemon=True) for each in workers
        ]
        for thread in threads:
            thread.start()
        waiting = list(workers)
        while waiting:
            at_hand = (each for each in waiting if each.wants is None or each.wants in self._loaded)
            chosen = next(at_hand, None) or min(waiting, key=self._turn)
            if chosen.wants is not None:
                chosen.began |= chosen.wants.is_block
                self.fetch(chosen.wants)
            chosen.go.release()
            self._baton.acquire()
            if chosen.ended:
                waiting.remove(chosen)
            self._cancelled = self._cancelled or chosen.error is not None
        for thread in threads:
            thread.join()
        self._cancelled = False
        for worker in workers:
            if worker.error is not None and not isinstance(worker.error, _Cancelled):
                raise worker.error
        return [worker.result for worker in workers]  # type: ignore[misc]

    def _turn(self, worker: _Worker) -> int:
        """Who is furthest behind goes first; before all, who wants something else before it goes through blocks."""
        assert worker.wants is not None
        ahead = not worker.began and not worker.wants.is_block
        return -1 if ahead else self._units.index(worker.wants)

    def release(self) -> None:
        """Let go of all weights that are in memory, but of those that a block is running with.

        Not when a job of several asks for it: the others may want the same ones.
        """
        if threading.get_ident() in self._workers:
            return
        self._release(())

    def _release(self, kept: Sequence[nn.Parameter]) -> None:
        needed = {*kept, *(weight for unit in self._units if unit.running for weight in unit.weights)}
        for weight, stored in self.stored.items():
            if weight not in needed:
                weight.data = stored
                advise(stored, DONT_NEED)
        self._loaded = [unit for unit in self._loaded if unit.running]

    def fetch(self, unit: _Unit, *, whole: bool = False) -> None:
        """Bring a unit's weights into memory in place of others; of an embedding only where it is wanted whole.

        A job that runs beside others waits until it is its turn.
        """
        if unit not in self._loaded and (worker := self._workers.get(threading.get_ident())) is not None:
            worker.wants = unit
            self._baton.release()
            worker.go.acquire()
            if self._cancelled:
                raise _Cancelled
        if unit in self._loaded and not (whole and unit.rows_only):
            return
        if unit not in self._loaded:
            self._release(unit.weights)  # but for those which another part has too
            self._loaded.append(unit)
        for weight in unit.weights if whole or not unit.rows_only else ():
            if weight.data_ptr() == self.stored[weight].data_ptr():
                self.bytes_read += weight.nbytes
                weight.data = self._converted(weight.data)
        following = self._units.index(unit) + 1
        for weight in self._units[following].weights if following < len(self._units) else ():
            advise(self.stored[weight], WILL_NEED)

    def _converted(self, stored: Tensor) -> Tensor:
        """A few rows at a time, so that few pages of the file are in memory beside what is made of them."""
        if stored.dtype == self.dtype:
            return stored
        made = torch.empty(stored.shape, dtype=self.dtype)
        for piece, into in zip(stored.split(_rows(stored)), made.split(_rows(stored)), strict=True):
            into.copy_(piece)
            advise(piece, DONT_NEED)
        return made

    def _before(self, unit: _Unit) -> Callable[..., None]:
        def fetch(module: nn.Module, args: Any) -> None:
            if not unit.rows_only:
                self.fetch(unit)
            unit.running += 1

        fetch.unit = unit  # type: ignore[attr-defined]
        return fetch

    def _after(self, unit: _Unit) -> Callable[..., Any]:
        def done(module: nn.Module, args: Any, output: Any) -> Any:
            unit.running -= 1
            return output.to(self.dtype) if unit.rows_only and isinstance(output, Tensor) else output

        done.unit = unit  # type: ignore[attr-defined]
        return done

    def _work(self, worker: _Worker) -> None:
        worker.go.acquire()
        self._workers[threading.get_ident()] = worker
        try:
            if not self._cancelled:
                worker.result = worker.job()
        except BaseException as error:
            worker.error = error
        finally:
            del self._workers[threading.get_ident()]
            worker.ended = True
            self._baton.release()


def offloading_of(network: nn.Module) -> Offloading | None:
    """How a network's weights are kept on disk; None where they are in memory."""
    return _known.get(network)


def register_copy(network: nn.Module, copied: nn.Module) -> None:
    """Take note that a copy fetches its weights as the network does."""
    if (offloading := offloading_of(network)) is not None:
        _known[copied] = offloading


def compute_dtype(network: nn.Module) -> torch.dtype | None:
    """What a network on disk computes in; None where weights are in memory, in that very format."""
    offloading = offloading_of(network)
    return None if offloading is None else offloading.dtype


def in_memory(network: nn.Module, part: nn.Module) -> None:
    """Fetch the weights of a block, where they are on disk, for whoever looks at them while it does not run."""
    offloading = offloading_of(network)
    if offloading is not None and (unit := offloading.unit_of(part)) is not None:
        offloading.fetch(unit, whole=True)


def let_go(network: nn.Module, weight: Tensor | None = None) -> None:
    """Let go of what was read of a network's weights, or of one of them, where they are on disk."""
    if (offloading := offloading_of(network)) is None:
        return
    if weight is None:
        offloading.release()
    elif weight in offloading.stored:
        advise(offloading.stored[weight], DONT_NEED)


def _parts(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """A network's outermost parts in order: each member of a list of blocks, and each module of one kind of weights."""
    for name, module in network.named_children():
        if isinstance(module, nn.ModuleList):
            yield from ((f"{name}.{i}", part) for i, part in enumerate(module))
        elif next(module.children(), None) is None:
            yield name, module
        else:
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(module))


def _rows(weights: Tensor) -> int:
    return max(1, _PIECE // max(1, weights[0].nbytes))
