import math
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from induction_lab import (
    Effects,
    Head,
    HeadScores,
    capture,
    plot_all_scores,
    plot_effects,
    plot_head_scores,
    plot_loss,
    plot_pattern,
    plot_score_by_layer,
    plot_score_comparison,
    repeated_tokens,
    score_heads,
)
from induction_lab.plots.heads import plot_patterns
from induction_lab.scores.registry import words


@pytest.fixture(autouse=True)
def close_figures():
    style = dict(plt.rcParams)
    yield
    assert dict(plt.rcParams) == style  # no global style is set
    plt.close("all")


@pytest.fixture
def scores():
    value = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    return HeadScores(
        model="m",
        values={"prefix_matching": value, "copying": 2 * value - 1, "logit_attribution": value - 2},
        standard_errors={name: value / 20 for name in ("prefix_matching", "copying", "logit_attribution")},
        uniform={"prefix_matching": 0.1, "copying": -0.8, "logit_attribution": 0.0},
        loss=[5.0, 5.0, 5.0, 1.0, 0.5, 0.5],
        loss_by_copy=[5.0, 0.5],
        provenance={"prompts": {"period": 3, "gap": 0}},
    )


def test_a_heatmap_shows_the_scores_on_their_own_range(scores):
    for name, limits in {"prefix_matching": (0, 1), "copying": (-1, 1)}.items():
        ax = plot_head_scores(scores, name)
        image = ax.get_images()[0]
        np.testing.assert_allclose(image.get_array(), scores[name].numpy())
        assert image.get_clim() == limits
        assert ax.yaxis_inverted()  # layer 0 on top
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer") and name in ax.get_title()
    low, high = plot_head_scores(scores, "logit_attribution").get_images()[0].get_clim()
    assert low == -high == pytest.approx(float((scores["logit_attribution"]).min()))


@pytest.mark.parametrize(
    ("score", "values", "expected"),
    [
        ("prefix_matching", [0.1, 0.2], (0, 1)),
        ("ov_copying", [0.1, math.nan], (-1, 1)),
        ("logit_attribution", [0.5, -2.0, math.nan], (-2, 2)),
        ("logit_attribution", [0.0], (-1, 1)),
        ("composition_K", [0.1, 0.2], (0, 1)),
        ("composition_K", [0.1, -0.2], (-0.2, 0.2)),
        ("norm", [3.0, 4.0], (0, 4)),
        ("norm", [math.nan], (0, 1)),
    ],
)
def test_a_score_is_drawn_on_its_own_range_else_on_that_of_its_values(score, values, expected):
    assert words(score).axis(np.array(values)) == expected


def test_the_best_heads_are_framed_and_chance_is_not(scores):
    ax = plot_head_scores(scores, "prefix_matching", mark=3)
    framed = {(round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)) for patch in ax.patches}
    assert framed == {tuple(head) for head, _ in scores.top("prefix_matching", 3)}
    scores.values["prefix_matching"][:] = 0.1
    assert not plot_head_scores(scores, "prefix_matching").patches


def test_every_head_above_the_threshold_is_framed_unless_that_is_most_of_many(scores):
    value = scores.values["prefix_matching"]
    assert len(plot_head_scores(scores).patches) == int((value > 0.4).sum()) > 3
    value[:], value[0, :2] = 0.1, 0.3
    assert len(plot_head_scores(scores).patches) == 2  # clearly above chance, though under the threshold
    assert len(plot_head_scores(scores, "logit_attribution").patches) <= 3  # of no share of attention the best three
    many = HeadScores("m", {"resting": torch.full((16, 16), 0.8)}, {"resting": torch.zeros(16, 16)}, {"resting": 0.1})
    assert len(plot_head_scores(many).patches) == 3


def test_any_numbers_of_heads_are_drawn(scores):
    value = scores["prefix_matching"]
    for given in (value, value.double().numpy(), value.tolist(), value.clone().requires_grad_()):
        ax = plot_head_scores(given, "what I measured")
        np.testing.assert_allclose(ax.get_images()[0].get_array(), value, atol=1e-6)
        assert ax.get_title() == "what I measured" and len(ax.patches) == 3
    assert plot_head_scores(value - 0.5).get_images()[0].get_clim()[0] < 0
    for wrong in (value[0], value[None], torch.empty(0, 4)):
        with pytest.raises(ValueError, match="One number a head is drawn"):
            plot_head_scores(wrong)


def test_two_measurements_are_drawn_against_each_other(scores):
    other = HeadScores("m", {"prefix_matching": scores["prefix_matching"].clone()}, scores.standard_errors, {})
    other.values["prefix_matching"][2, 3] = 0.0
    ax = plot_score_comparison(scores, other, names=("before", "after"))
    assert [text.get_text() for text in ax.texts] == ["L2H3"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("before (m)", "after (m)") and ax.get_xlim() == ax.get_ylim()


def test_a_comparison_says_what_of_the_prompts_differs_and_names_stand_beside_their_dots(scores):
    value, spots = torch.full((5, 4), 0.05), {(1, 0): 0.9, (2, 1): 0.88, (3, 2): 0.3}
    for spot in spots:
        value[spot] = spots[spot]
    first, second = (
        replace(
            scores, values={"prefix_matching": each}, provenance={"prompts": {"kind": "repeated", "period": period}}
        )
        for each, period in ((value, 50), (value / 2, 250))
    )
    ax = plot_score_comparison(first, second)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("period 50 (m)", "period 250 (m)")
    renderer = ax.figure.canvas.get_renderer()
    ax.figure.draw(renderer)
    boxes = {text.get_text(): text.get_window_extent(renderer) for text in ax.texts}
    assert set(boxes) == {"L1H0", "L2H1", "L3H2"}
    for (layer, head), at in spots.items():
        x, y = ax.transData.transform((at, at / 2))
        box = boxes[f"L{layer}H{head}"]
        assert min(abs(box.x0 - x), abs(box.x1 - x)) < box.width and abs((box.y0 + box.y1) / 2 - y) < 3 * box.height
    one, other = boxes["L1H0"], boxes["L2H1"]
    assert one.y0 >= other.y1 or other.y0 >= one.y1 or one.x1 <= other.x0 or other.x1 <= one.x0


def test_titles_of_a_sheet_do_not_touch(scores):
    figure = plot_all_scores(scores)
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    boxes = [ax.title.get_window_extent(renderer) for ax in figure.axes if ax.get_images()]
    assert all(left.x1 < right.x0 for left, right in zip(boxes, boxes[1:], strict=False))


def test_a_figure_is_drawn_where_it_is_asked_for(scores):
    figure, axes = plt.subplots(1, 2)
    assert plot_head_scores(scores, "copying", ax=axes[0]) is axes[0]
    assert plot_score_by_layer(scores, "prefix_matching", ax=axes[1]) is axes[1]


def test_all_scores_are_on_one_sheet(scores):
    titles = [ax.get_title() for ax in plot_all_scores(scores, columns=2).axes if ax.get_images()]
    assert [title.split()[0] for title in titles] == list(scores.scores)


def test_by_layer_names_the_best_heads_and_shows_chance(scores):
    ax = plot_score_by_layer(scores, "prefix_matching", mark=2)
    assert [text.get_text() for text in ax.texts] == [str(head) for head, _ in scores.top("prefix_matching", 2)]
    assert "chance 0.100" in ax.get_legend().get_texts()[0].get_text()


def test_by_layer_shows_each_layers_chance_where_windows_hide_keys(scores):
    chance = torch.tensor([0.0, 0.2, 0.0, 0.1, 0.3])
    scores.uniform_by_layer["prefix_matching"] = chance
    ax = plot_score_by_layer(scores, "prefix_matching")
    (steps,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    assert steps.get_data().values.tolist() == chance.tolist()
    assert ax.get_legend().get_texts()[0].get_text() == "chance, layer by layer"


def test_loss_is_drawn_by_position_with_its_copies(scores):
    ax = plot_loss(scores)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), list(enumerate(scores.loss, start=1)))
    assert [text.get_text() for text in ax.texts] == ["copy 1: 5.00 nats", "copy 2: 0.50 nats"]
    assert [patch.get_x() for patch in ax.patches] == [0.5, 3.5]
    scores.provenance["prompts"]["has_bos"] = False  # copies begin a position sooner
    assert [patch.get_x() for patch in plot_loss(scores).patches] == [-0.5, 2.5]
    with pytest.raises(ValueError, match="loss=True"):
        plot_loss(HeadScores("m", scores.values, scores.standard_errors, scores.uniform))


def test_patterns_show_tokens_as_people_read_them():
    pattern = torch.eye(3)
    ax = plot_pattern(pattern, labels=["BOS", "a\n$b$", "a very long token indeed"], head="1.2")
    assert [label.get_text() for label in ax.get_xticklabels()] == ["BOS", r"a⏎\$b\$", "a very long t…"]
    assert ax.get_title() == "L1H2"
    ax.figure.canvas.draw()  # mathematics in a token would fail here


def test_a_model_s_pattern_is_drawn_with_its_text(bundled, smollm2):
    prompt = repeated_tokens(bundled, n_prompts=1, period=4)
    expected = capture(bundled, prompt, "pattern")["pattern", 1][0, 2]
    for model in (bundled, "induction-2l"):
        ax = plot_pattern(model, prompt, "L1H2")
        np.testing.assert_allclose(ax.images[0].get_array(), expected, atol=1e-6)
        assert ax.get_title() == "L1H2" and ax.get_xticklabels()[0].get_text() == "BOS"
    words = plot_pattern(smollm2, "one\ntwo", "L18H6").get_yticklabels()
    assert [label.get_text() for label in words] == ["BOS", "one", "⏎", "two"]
    assert plot_pattern(expected.numpy()).get_title() == ""
    for how in ({}, {"text": prompt}, {"head": "L1H2"}):
        with pytest.raises(ValueError, match="a text and a head are drawn"):
            plot_pattern(bundled, **how)


def test_patterns_of_several_heads_stand_side_by_side():
    figure = plot_patterns(torch.rand(2, 4, 4), [Head(0, 1), Head(1, 0)])
    assert [ax.get_title() for ax in figure.axes] == ["L0H1", "L1H0"]


def test_wrong_numbers_of_labels_or_heads_are_refused():
    with pytest.raises(ValueError, match="3 keys want as many labels, got 1"):
        plot_pattern(torch.eye(3), labels=["a"])
    with pytest.raises(ValueError, match="2 patterns want as many heads, got 1"):
        plot_patterns(torch.rand(2, 4, 4), [Head(0, 0)])


@pytest.mark.parametrize("score", ["prefix_matching", "induction_stripe", "logit_attribution"])
def test_a_title_is_whole_on_a_figure_of_few_heads(score, bundled):
    ax = plot_head_scores(score_heads(bundled, scores=[score]))
    ax.figure.canvas.draw()
    title, sheet = ax.title.get_window_extent(), ax.figure.bbox
    assert sheet.x0 <= title.x0 and title.x1 <= sheet.x1 and title.y1 <= sheet.y1


LONG = "some-lab/a-model-of-1.4b-deduped-with-a-name-that-is-long"


@pytest.mark.parametrize("shape", [(1, 1), (2, 8), (30, 9)])
@pytest.mark.parametrize(
    "draw",
    [
        plot_head_scores,
        plot_score_by_layer,
        lambda scores: plot_score_comparison(scores, scores),
        plot_loss,
        lambda scores: plot_pattern(torch.eye(5), head="L18H6", labels=["a label"] * 5),
        lambda scores: plot_effects(effects_of(scores), *scores["induction_stripe"].shape),
    ],
)
def test_words_are_whole_whatever_the_model_is_called(shape, draw):
    values = {"induction_stripe": torch.rand(shape)}
    scores = HeadScores(LONG, values, values, {"induction_stripe": 0.0141}, loss=[1.0, 2.0])
    figure = draw(scores).figure
    figure.canvas.draw()
    figure.canvas.draw()  # as savefig does
    for ax in figure.axes:
        for said in (ax.title, ax.xaxis.label, ax.yaxis.label):
            if said.get_text():
                box, sheet = said.get_window_extent(), figure.bbox
                assert sheet.x0 <= box.x0 + 1 and box.x1 <= sheet.x1 + 1, said.get_text()
                assert sheet.y0 <= box.y0 + 1 and box.y1 <= sheet.y1 + 1, said.get_text()


def effects_of(scores):
    n_layers, n_heads = scores["induction_stripe"].shape
    rows = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    table = pd.DataFrame(rows, columns=["layer", "head"]).assign(model=scores.model, label="", effect=0.5)
    table["label"] = [f"L{layer}H{head}" for layer, head in rows]
    about = {"intervention": "mean ablation", "metric": "copy_loss", "n_heads": 1, "n_prompts": 4}
    return Effects(table.assign(**about, clean=1.0, changed=1.5, standard_error=0.1))
