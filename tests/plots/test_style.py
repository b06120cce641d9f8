"""Labels stand apart, frames go, and any font can draw the text."""

import matplotlib.pyplot as plt
import pytest

from induction_lab.plots import style
from induction_lab.plots.style import LINES, OKABE_ITO, apart, bare, families, printable


def test_labels_are_moved_down_only_as_far_as_it_takes():
    assert apart([1.0, 0.98, 0.5, 0.45], 0.1) == pytest.approx([1.0, 0.9, 0.5, 0.4])
    assert apart([3.0, 2.0, 1.0], 0.5) == [3.0, 2.0, 1.0]
    assert apart([], 0.1) == []


@pytest.mark.parametrize("more", [(), ("left",)])
def test_the_frame_goes_where_that_is_asked(more):
    ax = plt.figure().add_subplot()
    bare(ax, *more)
    assert {side for side, spine in ax.spines.items() if not spine.get_visible()} == {"top", "right", *more}


def test_tokens_are_drawn_as_text_and_cut_where_they_are_long():
    assert printable("a\n$b\t") == r"a⏎\$b⇥"
    assert printable("x" * 20) == "x" * 13 + "…"
    assert printable("é¹⁄₂") == "é¹⁄₂" and printable("\U000f1234q") == "\\U000f1234q"  # no font has the second


def test_a_font_that_has_more_characters_is_drawn_with_where_it_is_installed(monkeypatch):
    assert printable("a\u20dd") == "a\\u20dd"
    monkeypatch.setattr(style, "_WIDE", ("STIXGeneral", "not installed"))  # which comes with matplotlib
    assert families() == [*plt.rcParams["font.family"], "STIXGeneral"]
    assert printable("a\u20dd") == "a\u20dd"


def test_lines_have_colours_of_their_own():
    assert len({colour.lower() for colour in LINES}) == len(LINES) == len(OKABE_ITO) + 1
