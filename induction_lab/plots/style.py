"""What all figures share: colours, axes without a frame, labels that do not overlap, text that any font can draw.

Lines take the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), which the colour-blind tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

INK, ACCENT, QUIET = "#222222", "#d1495b", "#8d99ae"  # text and lines; what stands out; what stands back
ARROW, EMPTY = "#5c677d", "#e8eaee"  # between heads; cells of a heatmap that hold no number
PREVIOUS, INDUCTION = "#2a6f97", ACCENT  # previous-token heads and induction heads
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES = (*OKABE_ITO, INK)


def bare(ax: Axes, *more: str) -> None:
    """Take away the frame on top, on the right and on the sides named."""
    ax.spines[["top", "right", *more]].set_visible(False)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights for labels, in descending order, moved down as far as it takes to stand `gap` apart."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - gap) if placed else height)
    return placed


def printable(label: str) -> str:
    """Tokens as people read them; matplotlib would take `$` for mathematics."""
    text = label.replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")
    return text if len(text) <= 14 else text[:13] + "…"
