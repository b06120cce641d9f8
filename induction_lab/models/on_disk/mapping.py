"""Files that are mapped into memory: where they lie, and which of their pages are wanted there."""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_right
from pathlib import Path

from torch import Tensor

WILL_NEED, DONT_NEED = 3, 4  # what Linux calls them
_PAGE = 4096


def mapped_files() -> list[tuple[int, int]]:
    """Where files are mapped into this process's memory, sorted; nothing where the system does not say."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if sys.platform == "linux" and maps.exists() else []
    found = [line.split(maxsplit=5) for line in lines]
    ranges = [each[0].split("-") for each in found if len(each) == 6 and each[5].startswith("/")]
    return sorted((int(start, 16), int(end, 16)) for start, end in ranges)


def lies_in(files: list[tuple[int, int]], tensor: Tensor) -> bool:
    """Whether a tensor lies in a mapped file: elsewhere, pages that are let go of would be lost."""
    start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    at = bisect_right(files, (start, sys.maxsize)) - 1
    return tensor.is_contiguous() and at >= 0 and end <= files[at][1]


def advise(mapped: Tensor, advice: int) -> None:
    """Tell the system that whole pages of a mapped tensor will be needed, or are not any longer."""
    start = -(-mapped.data_ptr() // _PAGE) * _PAGE
    length = (mapped.data_ptr() + mapped.nbytes) // _PAGE * _PAGE - start
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), ctypes.c_int(advice))
