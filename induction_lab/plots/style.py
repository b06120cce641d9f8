"""What all figures share: labels that do not overlap, text that any font can draw."""

from __future__ import annotations

from collections.abc import Sequence


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights for labels, in descending order, moved down as far as it takes to stand `gap` apart."""
    placed: list[float] = []
    for height in heights:
        placed.append(min(height, placed[-1] - gap) if placed else height)
    return placed


def printable(label: str) -> str:
    """Tokens as people read them; matplotlib would take `$` for mathematics."""
    text = label.replace("\n", "⏎").replace("\t", "⇥").replace("$", r"\$")
    return text if len(text) <= 14 else text[:13] + "…"
