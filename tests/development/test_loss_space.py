import numpy as np
import pandas as pd
import pytest

from induction_lab.development.loss_space import loss_paths, pivot
from induction_lab.development.rows import COLUMNS
from induction_lab.development.trajectory import Trajectory

TEXTS = {"tokens_sha256": "a", "n_token_losses": 30, "seed": 0}


def run(name, losses, texts=TEXTS):
    """A trajectory with these token losses, `[step, text]`, every 100 steps."""
    rows = [
        (name, 100 * step, "texts", "token_loss", None, None, text, value, np.nan)
        for step, vector in enumerate(losses)
        for text, value in enumerate(vector)
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"layer": "Int64", "head": "Int64", "index": "Int64"})
    return Trajectory(table, {"texts": texts})


def embedded(points, n=30, seed=0):
    """Points of a plane in a space of n losses, distances kept."""
    directions = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0][: np.shape(points)[1]]
    return 4 + np.asarray(points) @ directions


def path(points, steps=None):
    points = np.asarray(points, dtype=float)
    columns = {f"pc{i + 1}": points[:, i] for i in range(points.shape[1])}
    return pd.DataFrame({"run": "a", "step": range(len(points)) if steps is None else steps, **columns})


CORNER = [(4.0 * x, 0.0) for x in range(11)] + [(40.0, 2.0 * y) for y in range(1, 11)]


def test_the_components_are_those_of_the_covariance_of_all_checkpoints_of_all_runs():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(9, 30)), 3 * rng.normal(size=(14, 30))
    paths = loss_paths([run("a", a), run("b", b)], n=3)
    together = np.concatenate([a, b]) - np.concatenate([a, b]).mean(0)
    variances, directions = np.linalg.eigh(together.T @ together)
    for i in range(3):
        slow = together @ directions[:, -1 - i]
        np.testing.assert_allclose(np.abs(paths[f"pc{i + 1}"]), np.abs(slow), atol=1e-8)
    assert paths.attrs["explained_variance"] == pytest.approx(list(variances[:-4:-1] / variances.sum()))
    assert list(paths.columns) == ["run", "step", "pc1", "pc2", "pc3"]
    assert paths.groupby("run").size().to_dict() == {"a": 9, "b": 14} and paths["step"].iloc[1] == 100


def test_a_plane_is_found_whole_with_its_distances_and_always_with_the_same_signs():
    paths = loss_paths(run("a", embedded(CORNER)))
    assert sum(paths.attrs["explained_variance"]) == pytest.approx(1.0)
    here, there = paths[["pc1", "pc2"]].to_numpy(), np.array(CORNER)
    np.testing.assert_allclose(np.linalg.norm(here - here[0], axis=1), np.linalg.norm(there - there[0], axis=1))
    # a second run of the same losses lies on the first, and leaves it where it is
    twice = loss_paths([run("a", embedded(CORNER)), run("b", embedded(CORNER))])
    np.testing.assert_allclose(twice.loc[twice["run"] == "b", ["pc1", "pc2"]], here, atol=1e-8)


def test_joined_trajectories_and_lists_of_them_give_the_same_paths():
    runs = [run("a", embedded(CORNER)), run("b", embedded(CORNER[:7]))]
    pd.testing.assert_frame_equal(loss_paths(runs), loss_paths(Trajectory.join(runs)))


def test_runs_on_different_tokens_do_not_compare():
    other = run("b", embedded(CORNER), TEXTS | {"tokens_sha256": "b"})
    with pytest.raises(ValueError, match="b and a were measured on different tokens"):
        loss_paths([run("a", embedded(CORNER)), other])
    with pytest.raises(ValueError, match="Runs of different names are wanted, got a, a"):
        loss_paths([run("a", embedded(CORNER)), run("a", embedded(CORNER))])


def test_bad_input_is_refused():
    trajectory = run("a", embedded(CORNER[:3]))
    with pytest.raises(ValueError, match="One trajectory or more"):
        loss_paths([])
    with pytest.raises(ValueError, match=r"`n` must lie in 1 … 2 \(3 checkpoints of 30 losses\), got 3"):
        loss_paths(trajectory, n=3)
    with pytest.raises(ValueError, match="a has no per-token losses"):
        loss_paths(Trajectory(trajectory.table.assign(metric="loss"), {}))


def test_a_right_angle_pivots_by_ninety_degrees_where_it_stands():
    turn = pivot(path(CORNER, steps=range(0, 210, 10)))
    assert turn.angle == pytest.approx(90, abs=2) and turn.step == 100


@pytest.mark.parametrize("angle", [0.0, 30.0, 60.0, 120.0, 170.0])
def test_a_corner_pivots_by_its_angle(angle):
    way = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    points = [(x, 0.0) for x in range(20)] + [tuple(np.array([19.0, 0]) + y * way) for y in range(1, 20)]
    assert pivot(path(points)).angle == pytest.approx(angle, abs=3)


def test_a_straight_path_does_not_pivot_however_unequal_its_steps():
    steps = np.cumsum(np.random.default_rng(0).exponential(size=60) ** 3)
    assert pivot(path(np.outer(steps, [2.0, 1.0]))).angle < 0.01


def test_an_arc_pivots_by_the_share_that_the_window_sees():
    angle = np.linspace(0, np.pi / 2, 200)
    arc = path(np.stack([np.sin(angle), 1 - np.cos(angle)], 1))
    assert pivot(arc).angle == pytest.approx(0.2 * 90, abs=2)
    assert pivot(arc, window=0.1).angle == pytest.approx(0.1 * 90, abs=2)


@pytest.mark.parametrize("seed", range(8))
def test_noise_and_a_long_standstill_at_the_end_hide_no_turn_and_make_none(seed):
    rng = np.random.default_rng(seed)
    straight = np.stack([np.linspace(0, 50, 60), np.zeros(60)], 1)
    corner = np.concatenate([straight[::2], 50 * np.array([[1.0, 0]]) + straight[::2, ::-1] * 0.6])
    for points, lowest, highest in ((straight, 0, 15), (corner, 80, 100)):
        still = np.repeat(points[-1:], 300, 0)  # training has ended, the evaluations go on
        noisy = np.concatenate([points, still]) + 0.3 * rng.normal(size=(len(points) + 300, 2))
        assert lowest <= pivot(path(noisy)).angle < highest


def test_a_pivot_needs_one_run_that_moves():
    with pytest.raises(ValueError, match="A path that moves"):
        pivot(path(np.ones((9, 2))))
    with pytest.raises(ValueError, match="got 2 points"):
        pivot(path([(0, 0), (1, 1)]))
    with pytest.raises(ValueError, match="One run is wanted, got a, b"):
        pivot(pd.concat([path(CORNER), path(CORNER).assign(run="b")]))
    with pytest.raises(ValueError, match="`window` must lie above 0"):
        pivot(path(CORNER), window=0.6)
