"""How results show themselves in notebooks: a small table with a heading, everything escaped.

The look is that of the report: it follows the notebook's own colours, so it is right on dark and light.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from numbers import Integral, Real
from typing import Any

_CARD = "font:13px/1.45 system-ui,sans-serif;max-width:60em;margin:.4em 0"
_CELL = "padding:.2em .8em .2em 0;border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)"
_QUIET = "opacity:.75;margin:.3em 0"


def html_card(title: str, facts: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, note: str = "") -> str:
    """A heading, a line of facts, a table, a line of explanation.

    Args:
        title: What it is.
        facts: The main numbers in words.
        columns: Heads of the table; none where its first column says what each row is.
        rows: Cells: text on the left, numbers on the right with three digits.
        note: How to read it, or what else there is.
    """
    heads = "".join(f'<th scope="col" style="{_CELL};text-align:left">{escape(str(name))}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    head = f"<tr>{heads}</tr>" if heads else ""
    table = f'<table style="border-collapse:collapse;font-size:12px">{head}{body}</table>' if body else ""
    told = f'<p style="{_QUIET}">{escape(facts)}</p>' if facts else ""
    below = f'<p style="{_QUIET};font-size:12px">{escape(note)}</p>' if note else ""
    return f'<div style="{_CARD}"><strong>{escape(title)}</strong>{told}{table}{below}</div>'


def cell_text(value: Any) -> str:
    """What a cell of a table shows: whole numbers with thousands, others with three digits, nothing as a dash."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.2g}"
    if isinstance(value, Integral) and not isinstance(value, bool):
        return f"{int(value):,}"
    return str(value)


def _cell(value: Any) -> str:
    side = "right;font-variant-numeric:tabular-nums" if isinstance(value, Real) else "left"
    return f'<td style="{_CELL};text-align:{side}">{escape(cell_text(value))}</td>'
