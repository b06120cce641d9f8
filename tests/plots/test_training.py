import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from induction_lab import (
    Trajectory,
    animate_heads,
    loss_paths,
    plot_heads_over_training,
    plot_loss_derivative,
    plot_loss_paths,
    plot_model_analysis,
    plot_over_training,
    plot_small_multiples,
    save_animation,
)
from induction_lab.development.phase_change import Rise, rise, rise_time
from induction_lab.development.rows import Rows
from induction_lab.plots.style import LINES

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 100, 128)
SHA = {"texts": {"tokens_sha256": "a", "lengths_sha256": None, "n_token_losses": 6, "seed": 0}}


@pytest.fixture(autouse=True)
def close_figures():
    style = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == style  # no global style is set
    plt.close("all")


def trajectory(name: str = "two-seed0", *, n_layers: int = 2, learns: bool = True, texts: bool = True) -> Trajectory:
    """The last head goes from 0 to 0.8 at step 64, all losses of the second copy with it."""
    generator = torch.Generator().manual_seed(len(name))
    tables = []
    for step in STEPS:
        rows, done = Rows(name, step), learns and step >= 64
        heads = torch.zeros(n_layers, 4)
        heads[-1, -1] = 0.8 * done
        rows.add_heads("period 20", "prefix_matching", heads)
        rows.add_heads("period 20", "copying", heads - 0.5)
        rows.add_indexed("period 20", "loss_by_copy", torch.tensor([1, 2]), torch.tensor([4.0, 4.0 - 3.5 * done]))
        if texts:
            index = torch.arange(1, 9)
            rows.add_indexed("texts", "loss_derivative", index, torch.linspace(0.5, -1, 8) * (1 + done))
            rows.add_one("texts", "mean_loss", 4.0 - 2 * done)
            rows.add_one("texts", "icl_score", -2.0 * done, 0.1)
            losses = 4 - torch.arange(6) * step / 100 + torch.rand(6, generator=generator)
            rows.add_indexed("texts", "token_loss", torch.arange(6), losses)
        tables.append(rows.table())
    return Trajectory(pd.concat(tables, ignore_index=True), SHA if texts else {})


def drawn(ax):
    """Lines with points, not those of the legend."""
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


def test_a_rise_lasts_as_long_as_rise_time_says_and_nothing_rises_without_one():
    steps = [0, 10, 20, 30, 40, 50]
    series = pd.Series([0.0, 0.05, 0.3, 0.7, 0.95, 1.0], index=steps)
    assert rise(series) == Rise(10, 40)
    assert rise_time(series, 0.2, 0.8) == 30
    assert rise(series * 0.2) is None and rise(-series) is None
    assert rise(series * 0.2, least=0.1) == Rise(10, 40)
    with pytest.raises(ValueError, match="below 0.5"):
        rise(series, share=0.6)


def test_each_run_is_a_line_and_seeds_of_one_recipe_share_a_colour():
    runs = [trajectory("two-seed0"), trajectory("two-seed1"), trajectory("one-seed0", learns=False)]
    ax = plot_over_training(runs, "prefix_matching")
    lines = drawn(ax)
    assert [to_hex(line.get_color()) for line in lines] == [LINES[0], LINES[0], LINES[1]]
    np.testing.assert_allclose(lines[0].get_ydata(), runs[0].best("prefix_matching"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["two (2 runs)", "one"]
    assert ax.get_xscale() == "symlog" and ax.get_xlim() == (0, 128)
    assert "best head" in ax.get_ylabel() and ax.get_xlabel() == "training step"
    named = plot_over_training(Trajectory.join(runs), "loss_by_copy", index=2, groups={"one-seed0": "control"})
    assert named.get_ylabel() == "loss on copy 2, nats"
    assert [text.get_text() for text in named.get_legend().get_texts()] == ["two (2 runs)", "control"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t: plot_over_training([], "mean_loss"), "One trajectory or more"),
        (lambda t: plot_over_training(t, "nothing"), "there are prefix_matching"),
        (lambda t: plot_over_training(t, "loss_by_copy"), "index=1 … 2"),
        (lambda t: plot_over_training(t, "mean_loss", groups={"x": "y"}), "There are no runs x"),
        (lambda t: plot_heads_over_training(t, "mean_loss"), "no number for each head"),
        (lambda t: plot_loss_derivative(trajectory(texts=False)), "follow_training"),
        (lambda t: plot_loss_paths(pd.DataFrame({"run": []})), "Paths from loss_paths"),
        (lambda t: plot_loss_paths(loss_paths(t), bold="other"), "there are two-seed0"),
        (lambda t: plot_model_analysis(Trajectory.join([t, trajectory("b")])), "One run is drawn"),
        (lambda t: plot_model_analysis(t, effects=pd.DataFrame({"step": [1]})), "step, label and effect"),
        (lambda t: plot_small_multiples({}), "one run or more"),
        (lambda t: plot_small_multiples({("a", "b"): []}), "one run or more"),
        (lambda t: animate_heads(t, "mean_loss"), "no number for each head"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_what_there_is(call, said):
    with pytest.raises(ValueError, match=said):
        call(trajectory())


@pytest.mark.parametrize("n_layers", [1, 2, 12])
def test_heads_are_coloured_by_layer_the_best_named_and_its_rise_shaded(n_layers):
    ax = plot_heads_over_training(trajectory(n_layers=n_layers), "prefix_matching")
    lines = drawn(ax)
    assert len(lines) == 4 * n_layers and len({to_hex(line.get_color()) for line in lines}) == n_layers
    assert [text.get_text() for text in ax.texts] == [f"L{n_layers - 1}H3"]
    (band,) = ax.patches
    assert (band.get_x(), band.get_width()) == (32, 32)
    assert (ax.get_legend() is None) == (n_layers > 4)  # many layers have a colour bar


def test_nothing_is_shaded_or_named_where_nothing_rises():
    ax = plot_heads_over_training(trajectory(learns=False), "prefix_matching")
    assert not ax.patches and not ax.texts


def test_names_at_the_ends_do_not_overlap_and_stay_above_the_floor():
    t = trajectory()
    rows = t.table["metric"] == "prefix_matching"
    t.table.loc[rows, "value"] = 0.28 + 0.5 * t.table.loc[rows, "value"]
    ax = plot_heads_over_training(t, "prefix_matching", mark=8)
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without their lines
    assert len(boxes) == 8 and min(box.y0 for box in boxes) > ax.get_window_extent().y0 - 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_loss_derivative_is_centred_on_zero_and_its_cells_lie_around_their_steps():
    ax = plot_loss_derivative(trajectory())
    (image,) = ax.collections
    low, high = image.get_clim()
    assert low == -high < 0 and image.get_array().shape == (8, len(STEPS))
    edges = image.get_coordinates()[0, :, 0]
    assert edges[0] == 0 and edges[-1] == 128
    assert all(a <= step <= b for a, step, b in zip(edges, STEPS, edges[1:], strict=False))
    assert (ax.get_yscale(), ax.get_ylim()) == ("log", (0.5, 8.5))


def path(run: str, turns: bool) -> pd.DataFrame:
    there = np.linspace(0, 10, 30)
    x, y = np.minimum(there, 5) if turns else there, np.maximum(there - 5, 0) * turns
    return pd.DataFrame({"run": run, "step": range(30), "pc1": x, "pc2": y})


def test_paths_mark_start_end_and_a_sharp_turn_only():
    ax = plot_loss_paths(pd.concat([path("a", True), path("b", False)]))
    stars = [line for line in ax.lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert len(stars) == 1 and abs(stars[0].get_xdata()[0] - 5) < 0.6 and abs(stars[0].get_ydata()[0]) < 0.6
    squares = [line for line in ax.lines if line.get_marker() == "s" and len(line.get_xdata())]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in squares] == [(5, 5), (10, 0)]
    assert ax.get_aspect() == 1


@pytest.mark.parametrize("turns", [True, False])
def test_the_legend_of_paths_names_the_marks_that_are_drawn(turns):
    words = [text.get_text() for text in plot_loss_paths(path("a", turns)).get_legend().get_texts()]
    assert words[-2:] == (["end", "turns by over 45°"] if turns else ["start", "end"])


def test_the_sheet_has_six_panels_over_the_same_steps_with_one_band():
    t = trajectory()
    effects = pd.DataFrame([{"step": s, "label": f"L{i}H{j}", "effect": s * j / 100} for s in STEPS for i in (0, 1)
                            for j in range(4)])  # fmt: skip
    figure = plot_model_analysis(t, paths=loss_paths([t, trajectory("other")]), effects=effects)
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 6
    over_steps = [ax for ax in panels if ax.get_xscale() == "symlog"]
    assert len(over_steps) == 5 and {ax.get_xlim() for ax in over_steps} == {(0, 128)}
    bands = [(patch.get_x(), patch.get_width()) for ax in over_steps for patch in ax.patches]
    assert bands == [(32, 32)] * 4
    assert "rises in steps 32 … 64" in figure.get_suptitle()


def test_what_was_not_measured_has_no_panel_and_no_advice():
    figure = plot_model_analysis(trajectory(texts=False, learns=False))
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in shown] == [r"$\bf{a}$  loss", r"$\bf{b}$  each head"]
    assert not [text for ax in shown for text in ax.texts if "(" in text.get_text()]
    assert all(ax.get_xlabel() for ax in shown) and "ends at 0." in figure.get_suptitle()


def test_a_sheet_without_ablations_has_the_five_others_and_steps_below_each_column():
    figure = plot_model_analysis(trajectory())
    figure.draw_without_rendering()
    shown = [ax for ax in figure.axes if ax.get_visible() and ax.get_title(loc="left")]
    titles = [ax.get_title(loc="left").split("  ")[1] for ax in shown]
    assert set(titles) == {"loss", "in-context learning", "each head", "loss derivative", "path of losses"}
    named = {title for title, ax in zip(titles, shown, strict=True) if ax.get_xlabel() == "training step"}
    assert named == {"each head", "loss derivative"}


def test_small_multiples_have_a_cell_a_variant_and_say_which_is_missing():
    groups = {
        ("one", "vanilla"): [trajectory("a", learns=False)],
        ("two", "smeared"): [trajectory("b"), trajectory("c")],
    }
    figure = plot_small_multiples(groups)
    grid = np.array(figure.axes).reshape(4, 2)
    assert [[len(drawn(ax)) for ax in row] for row in grid] == [[1, 0], [1, 0], [0, 2], [0, 2]]
    assert [text.get_text() for text in grid[0, 1].texts] == ["no runs"]
    assert grid[2, 1].get_title(loc="left") == "two, smeared  (2 runs)"


@pytest.mark.parametrize("n_layers", [1, 24])
def test_an_animation_has_a_frame_a_checkpoint_and_is_small(tmp_path, n_layers):
    t = trajectory(n_layers=n_layers)
    animation = animate_heads(t)
    written = save_animation(animation, tmp_path / "new" / "heads.gif", seconds_a_frame=0.2)
    with Image.open(written) as gif:
        assert gif.n_frames == len(STEPS) and gif.info["duration"] == 200
    assert written.stat().st_size < 1_000_000 * len(STEPS) / 30
    with pytest.raises(ValueError, match="written as .gif"):
        save_animation(animation, tmp_path / "heads.mp4")
    with pytest.raises(ValueError, match="seconds_a_frame"):
        save_animation(animation, tmp_path / "heads.gif", seconds_a_frame=0.0)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["heads.gif"]
