"""Arrays as short text for a page: quantised to what the eye resolves, in base64.

Code 0 stands for "not defined" (NaN); codes 1 … m spread evenly from the least to the greatest value, so a number comes
back within half a step, `(high - low) / (m - 1) / 2`, m being 255 or 65,535.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np

Bits = Literal[8, 16]


def pack(values: Any, *, bits: Bits = 8, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """An array as `{bits, shape, low, high, data}`; little-endian, rows first.

    Args:
        values: Anything that numpy can convert to an array; NaN and infinities become "not defined".
        bits: Bits of a code: 8 give 255 levels, 16 give 65,535.
        low: The value of code 1; by default the smallest finite value. Smaller ones are clipped to it.
        high: The value of the last code; by default the largest finite value. Larger ones are clipped to it.
    """
    array = np.asarray(values, dtype=np.float64)
    known = np.isfinite(array)
    some = array[known] if known.any() else np.zeros(1)
    low = float(some.min()) if low is None else low
    high = float(some.max()) if high is None else high
    most = 2**bits - 1
    span = high - low if high > low else 1.0
    level = np.clip((np.where(known, array, low) - low) / span, 0.0, 1.0)
    codes = np.where(known, 1 + np.rint(level * (most - 1)), 0).astype("<u1" if bits == 8 else "<u2")
    return {
        "bits": bits,
        "shape": list(array.shape),
        "low": low,
        "high": low + span,
        "data": base64.b64encode(codes.tobytes()).decode(),
    }


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The array that `pack` packed, as float64, NaN where it was not defined."""
    codes = np.frombuffer(base64.b64decode(packed["data"]), dtype="<u1" if packed["bits"] == 8 else "<u2")
    step = (packed["high"] - packed["low"]) / (2 ** packed["bits"] - 2)
    values = packed["low"] + (codes.astype(np.float64) - 1) * step
    return np.where(codes == 0, np.nan, values).reshape(packed["shape"])


def lower_triangle(matrix: np.ndarray) -> np.ndarray:
    """Entries of a square matrix on and below the diagonal, row by row: all that causal attention fills."""
    return matrix[np.tril_indices(matrix.shape[-1])]
