"""Figures of many panels, a model each."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def panels(n: int, *, size: tuple[float, float], columns: int = 6, **how: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels in rows, as wide as a page however many there are.

    Args:
        n: How many.
        size: Width and height of each, in inches.
        columns: In a row, at most.
        how: As `subplots` takes it, such as `sharey=True`.
    """
    across = min(n, columns)
    down = -(-n // across)
    figure, axes = plt.subplots(
        down, across, figsize=(size[0] * across + 0.5, size[1] * down), layout="constrained", squeeze=False, **how
    )
    for spare in axes.flat[n:]:
        spare.set_visible(False)
    return figure, list(axes.flat[:n])
