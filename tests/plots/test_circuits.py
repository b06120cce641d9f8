import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from induction_lab import (
    composition_scores,
    find_circuit,
    ov_eigenvalues,
    plot_circuit,
    plot_composition,
    repeated_tokens,
)
from induction_lab.plots.circuits import plot_eigenvalue_grid, plot_eigenvalues


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_arrows_run_from_writer_to_reader_as_wide_as_their_composition(bundled):
    circuit = find_circuit(bundled, n=6)
    ax = plot_circuit(circuit, edges=6)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    assert len(arrows) == 6
    assert all(arrow.xyann[1] == 0 and arrow.xy[1] == 1 for arrow in arrows)  # layer 0 to layer 1
    widths = [arrow.arrow_patch.get_linewidth() for arrow in reversed(arrows)]
    assert np.corrcoef(widths, circuit.edges["K"])[0, 1] > 0.999
    assert "L0H3 0.89" in {text.get_text() for text in ax.texts}


def test_edges_below_the_baseline_are_not_drawn(small):
    circuit = find_circuit(small, repeated_tokens(small, period=20), n=16)
    above = int((circuit.edges["K"] > 0).sum())
    assert 0 < above < 16
    ax = plot_circuit(circuit, edges=16)
    assert sum(getattr(text, "arrow_patch", None) is not None for text in ax.texts) == above


def test_composition_is_drawn_for_the_pairs_that_can_compose(small):
    scores = composition_scores(small)
    image = plot_composition(scores, title="K").get_images()[0].get_array()
    np.testing.assert_allclose(np.asarray(image), scores[0, :, 1].numpy())


def test_eigenvalues_lie_at_their_angle_and_logarithmic_distance():
    eigenvalues = torch.tensor([1.0 + 0j, -0.1 + 0j, 0.01j, -0.01j])
    ax = plot_eigenvalues(eigenvalues, title="L0H0")
    angle, radius = np.asarray(ax.collections[0].get_offsets()).T
    np.testing.assert_allclose(angle, [0, np.pi, np.pi / 2, -np.pi / 2], atol=1e-6)
    np.testing.assert_allclose(radius, [4, 3, 2, 2], atol=1e-6)
    assert ax.get_title() == "L0H0 +0.80"


def test_a_grid_shows_one_plane_a_head(small):
    figure = plot_eigenvalue_grid(ov_eigenvalues(small), ["L0H1", "L1H2", "L1H3"], columns=2)
    assert [ax.get_title()[:4] for ax in figure.axes if ax.get_visible()] == ["L0H1", "L1H2", "L1H3"]


def test_a_head_that_writes_nothing_is_drawn_empty():
    assert plot_eigenvalues(torch.zeros(4, dtype=torch.complex64)).get_title() == "+0.00"
