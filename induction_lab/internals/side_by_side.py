"""Runs through a model side by side, where its weights are on disk: each is read once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

from induction_lab.attention.scopes import alone
from induction_lab.internals.reading import on_engine
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.on_disk.offloading import offloading_of

Result = TypeVar("Result")


def side_by_side(model: HookedModel, jobs: Sequence[Callable[[], Result]], *, read: bool = False) -> Iterator[Result]:
    """What jobs that run through a model give, in order.

    One after another, each when it is asked for; where the model's weights are on disk all at once, layer by layer
    (`Offloading.side_by_side`), and with them what has to be known of the model itself.

    Args:
        model: Through which.
        jobs: In what order they are given.
        read: Whether they read attention, on the engine.
    """
    offloading = offloading_of(model.network)
    if offloading is None:
        yield from (job() for job in jobs)
        return
    try:
        with (
            alone(model.network, with_parts=True),
            on_engine(model) if read else nullcontext(),
        ):  # entered here, as those of the jobs end at any time
            done: list[Any] = offloading.side_by_side([*jobs, *model.probes()])
        model.learn(done[len(jobs) :])
        yield from done[: len(jobs)]  # the unembedding is still in memory, for losses
    finally:
        offloading.release()


def refuse_on_disk(model: HookedModel, what: str, times: int) -> None:
    """Refuse what needs all weights of a model many times, where each time they would be read from the disk.

    Raises:
        ValueError: If the model's weights are on disk; with what it would cost.
    """
    offloading = offloading_of(model.network)
    if offloading is not None:
        raise ValueError(
            f"{what} needs all weights of {model.name} about {times:,} times, and they are on disk (offload): "
            f"{offloading.bytes / 1e9:.3g} GB are read each time. Load it without offload. Of a model on disk "
            "score_heads and losses_on are to be had for one reading, within ablate(model, heads) too."
        )
