"""Figures are drawn once when they are written, and are those that matplotlib writes by itself."""

from unittest import mock

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes

from induction_lab import plots, repeated_tokens, score_heads
from induction_lab.cli.shared import save_figure


def several(scores):
    yield plots.plot_all_scores(scores)
    yield plots.plot_score_by_layer(scores).figure
    yield plots.plot_loss(scores).figure
    yield plt.subplots(layout="tight")[0]
    yield plt.subplots()[0]


@pytest.fixture(scope="module")
def scores(bundled):
    return score_heads(bundled, repeated_tokens(bundled, n_prompts=4), loss=True)


@pytest.mark.parametrize("which", range(5))
def test_a_figure_is_drawn_once_and_is_the_one_that_matplotlib_draws_twice(which, scores, tmp_path):
    pictures, drawn = [], []
    for save in (lambda figure, path: figure.savefig(path, dpi=150), save_figure):
        figure = list(several(scores))[which]
        with mock.patch.object(Axes, "draw", autospec=True, side_effect=Axes.draw) as draw:
            save(figure, tmp_path / "figure.png")
        drawn.append(draw.call_count / len(figure.axes))
        pictures.append((tmp_path / "figure.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert drawn[1] == 1 and drawn[0] == (1 if which == 4 else 2)
    assert not plt.fignum_exists(figure.number)
