"""What all figures share: colours, axes without a frame, labels that do not overlap, text that any font can draw.

Lines take the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), which the colour-blind tell apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib import font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

INK, ACCENT, QUIET = "#222222", "#d1495b", "#8d99ae"  # text and lines; what stands out; what stands back
ARROW, EMPTY = "#5c677d", "#e8eaee"  # between heads; cells of a heatmap that hold no number
PREVIOUS, INDUCTION = "#2a6f97", ACCENT  # previous-token heads and induction heads
OKABE_ITO = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
LINES = (*OKABE_ITO, INK)
_LETTER = 0.55  # of a letter's width in its height, on average
_WIDE = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Malgun Gothic", "Arial Unicode MS", "Noto Emoji",
    "Segoe UI Emoji", "Symbola",
)  # fmt: skip


class Sheet(Figure):
    """A figure of pyplot that a notebook shows once, also where it is the value of a cell."""

    def _ipython_display_(self) -> None:
        """Take it from what pyplot shows at the end of the cell, and let the notebook show it as it shows figures."""
        if "inline" in plt.get_backend():
            plt.close(self)
        raise NotImplementedError  # by which IPython goes on to its own way


def subplots(rows: int, columns: int, **how: Any) -> tuple[Sheet, Any]:
    """A new figure of pyplot that a notebook shows once, and its axes; `how` is what `plt.subplots` takes."""
    return plt.subplots(rows, columns, FigureClass=Sheet, **how)  # type: ignore[return-value]


def new_axes(**how: Any) -> Axes:
    """Axes in a new figure of pyplot that a notebook shows once; `how` is what `plt.subplots` takes."""
    return subplots(1, 1, **how)[1]


def broken(text: str, ax: Axes, size: float | int = 12, *, upright: bool = False) -> str:
    """Text in lines that fit beside, or above, axes: names of models may be longer than a figure of few heads is wide.

    Args:
        text: What is written, perhaps in several lines.
        ax: The axes, in their place.
        size: Of the font, in points.
        upright: Along the height of the axes.
    """
    box = ax.get_window_extent()
    inches = (box.height if upright else box.width) / ax.figure.dpi
    most = max(12, int(inches * 72 / (_LETTER * size)))
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, most) or [""])


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
    """A token for a figure: cut where it is long, characters that no font here has as codes.

    Draw it with `fontfamily=families()`. Matplotlib would take `$` for mathematics.
    """
    text = label.replace("\n", "⏎").replace("\t", "⇥")
    text = text if len(text) <= 14 else text[:13] + "…"
    fonts = [font_manager.get_font(font_manager.findfont(FontProperties(family=[name]))) for name in families()]
    known = (any(font.get_char_index(ord(character)) for font in fonts) for character in text)
    codes = (c if there else c.encode("unicode_escape").decode() for c, there in zip(text, known, strict=True))
    return "".join(codes).replace("$", r"\$")


def families() -> list[str]:
    """The user's own font, and those installed that have Chinese, Japanese, Korean or emoji, which few fonts have."""
    here = {font.name for font in font_manager.fontManager.ttflist}
    return [*rcParams["font.family"], *(name for name in _WIDE if name in here)]
