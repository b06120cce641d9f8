"""What this machine gives: cores, threads, devices, the folder of the cache. No torch is needed to name that folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_device(device: str | torch.device | None) -> torch.device:
    """The device of that name; by default a GPU if there is one.

    Raises:
        ValueError: If there is none of that name, or torch makes new tensors elsewhere than on the CPU.
    """
    import torch

    check_default_device()
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        raise ValueError(f"There is no device {str(device)!r} here; there is {', '.join(there)}.") from error
    return found


def check_default_device() -> None:
    """Refuse to work where torch makes new tensors anywhere else than on the CPU.

    Tokens, positions and tables are made there, whatever device a model is on.

    Raises:
        ValueError: If it does.
    """
    import torch

    if (found := torch.empty(0).device).type != "cpu":  # older torch names no device that a `with` block sets
        raise ValueError(
            f"torch's default device is {found}, so that tokens and tables would be made there. Models may be on any "
            'device; measure them inside `with torch.device("cpu"):`, or after torch.set_default_device(None).'
        )


CACHE_VARIABLE = "INDUCTION_LAB_CACHE"


def cache_folder() -> Path:
    """The user's cache folder, or what `INDUCTION_LAB_CACHE` says."""
    import platformdirs

    override = os.environ.get(CACHE_VARIABLE)
    return Path(override).expanduser() if override else platformdirs.user_cache_path("induction-lab")


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch use so many threads inside the block; afterwards as many as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
