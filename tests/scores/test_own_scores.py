import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from own_scores import Largest, Size, TwoBack

from induction_lab import (
    AttentionScore,
    HeadScores,
    LayerScore,
    Prompts,
    Score,
    WeightScore,
    capture,
    follow_training,
    load_sweep,
    load_sweep_plan,
    plot_all_scores,
    plot_head_scores,
    plot_heads_over_training,
    plot_score_by_layer,
    repeated_tokens,
    score_heads,
    sweep,
    write_report,
)
from induction_lab.development.trajectory import Trajectory
from induction_lab.scores.registry import SCORES, checked, find_scores

PAGE = (Path(__file__).parents[2] / "docs" / "your_own_score.md").read_text()


class OwnPrefixMatching(AttentionScore):
    """The one there is, the slow way."""

    name, meaning, finds_repeats = "own_prefix_matching", "Attention to what followed.", True

    def pairs(self, tokens):
        row = tokens.tolist()
        return [(t, s + 1) for t in range(1, len(row)) for s in range(1, t) if row[s] == row[t]]


def made(kind, **attributes):
    return type("Made", (kind,), {"name": "made", "meaning": "Made in a test.", **attributes})()


def test_the_page_prints_what_it_shows(capsys):
    blocks = re.findall(r"```(?:python)?\n(.*?)```", PAGE, re.DOTALL)
    codes, shown = blocks[::2], blocks[1::2]
    assert len(codes) == len(shown) == 2
    space = {}
    for code, expected in zip(codes, shown, strict=True):
        exec(compile(code, "your_own_score.md", "exec"), space)
        number, printed = re.compile(r"\d+\.\d+"), capsys.readouterr().out
        assert number.sub("#", printed) == number.sub("#", expected)
        numbers = [[float(n) for n in number.findall(text)] for text in (printed, expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=0.006)


def test_the_example_of_the_docstring_is_the_page_s():
    lines = [line.strip()[4:] for line in Score.__doc__.splitlines() if line.strip().startswith("...")]
    assert [line for line in lines if "def " in line or "return" in line] == [
        line.split("  #")[0] for line in PAGE.splitlines() if "def pairs" in line or "return [(query" in line
    ]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_score_by_pairs_is_what_the_matrices_say(llama, batch_size):
    prompts = Prompts(repeated_tokens(llama, n_prompts=3, period=7).tokens, lengths=torch.tensor([15, 9, 2]))
    scores = score_heads(llama, prompts, scores=["resting", TwoBack()], batch_size=batch_size)
    pattern = capture(llama, prompts.tokens, "pattern")
    for layer in range(llama.n_layers):
        back = pattern["pattern", layer].diagonal(-2, -2, -1)  # [prompt, head, key]
        by_hand = torch.stack([back[0, :, 1:13].mean(-1), back[1, :, 1:7].mean(-1)]).mean(0)  # the third has none
        torch.testing.assert_close(scores["two_back"][layer], by_hand, atol=1e-5, rtol=1e-4)
    even = np.mean([np.mean([1 / (t + 1) for t in range(3, n)]) for n in (15, 9)])
    assert scores.uniform["two_back"] == pytest.approx(even, abs=1e-6)


def test_a_score_that_says_the_same_as_ours_gets_the_same_also_by_chance(bundled):
    prompts = repeated_tokens(bundled, n_prompts=6, period=12, n_repeats=3)
    scores = score_heads(bundled, prompts, scores=["prefix_matching", OwnPrefixMatching()], chance_test=True)
    for table in (scores.values, scores.standard_errors, scores.p_values, scores.q_values, scores.uniform):
        ours, own = table["prefix_matching"], table["own_prefix_matching"]
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(own))


def test_layers_and_weights_can_be_read_and_batches_change_nothing(llama):
    prompts = repeated_tokens(llama, n_prompts=5, period=7)
    scores, parts = (
        score_heads(llama, prompts, scores=[Largest(), Size()], batch_size=size, loss=False) for size in (None, 2)
    )
    pattern = capture(llama, prompts.tokens, "pattern")
    for layer in range(llama.n_layers):
        by_hand = pattern["pattern", layer][:, :, 1:].amax(-1).mean(-1)
        torch.testing.assert_close(scores["largest"][layer], by_hand.mean(0), atol=1e-5, rtol=1e-4)
        error = by_hand.std(0) / 5**0.5
        torch.testing.assert_close(scores.standard_errors["largest"][layer], error, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(scores["size"], llama.hooked.W_O.norm(dim=(-2, -1)))
    assert (scores.standard_errors["size"] == 0).all()
    torch.testing.assert_close(parts["largest"], scores["largest"])


def test_a_layer_score_says_which_prompts_have_a_value(llama):
    defined = made(
        LayerScore,
        read=lambda self, model, prompts, attention: prompts.tokens[:, :1].float().expand(-1, model.n_heads),
        defined=lambda self, seen: seen.prompts.tokens[:, 0] > 1,
    )
    tokens = torch.tensor([[1, 5, 6], [2, 5, 6], [4, 5, 6]])
    scores = score_heads(llama, tokens, scores=[defined])
    assert (scores["made"] == 3).all()
    with pytest.raises(ValueError, match="made reads nothing on these prompts"):
        score_heads(llama, tokens[:1], scores=[defined])


def test_a_score_may_have_prompts_of_its_own_and_be_missing_with_a_reason(llama, bundled):
    sample = torch.tensor([[1, 5, 6, 7]])
    own = made(
        LayerScore,
        own_prompts=lambda self, model, *, seed: Prompts(sample),
        read=lambda self, model, prompts, attention: torch.full((1, model.n_heads), float(prompts.tokens.sum())),
        missing=lambda self, model, prompts: "it is not for llamas" if model.name == "llama" else None,
    )
    assert (score_heads(bundled, scores=["previous_token", own])["made"] == 19).all()
    with pytest.raises(ValueError, match="made: it is not for llamas"):
        score_heads(llama, scores=["previous_token", own])


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_saved_file_says_what_each_score_means(bundled, tmp_path, suffix):
    scores = score_heads(bundled, repeated_tokens(bundled, n_prompts=2), scores=["copying", TwoBack(), Size()])
    again = HeadScores.load(scores.save(tmp_path / f"scores{suffix}"))
    assert again.about("two_back") == scores.about("two_back") == TwoBack().words
    assert again.about("two_back").title == "Two back" and again.about("size").unit == "norms"
    assert again.about("copying") == SCORES["copying"].words
    assert torch.equal(again["two_back"], scores["two_back"])
    if suffix == ".csv":
        said = json.loads((tmp_path / "scores.csv.json").read_text())["words"]["two_back"]
        assert said["definition"] == TwoBack.meaning and (said["low"], said["high"]) == (0.0, 1.0)
        (tmp_path / "scores.csv.json").unlink()  # a plain table, as of before
        assert HeadScores.load(tmp_path / "scores.csv").about("copying") == SCORES["copying"].words


def test_figures_and_notebooks_show_it_without_being_told(bundled):
    scores = score_heads(bundled, repeated_tokens(bundled, n_prompts=2), scores=[TwoBack(), Size()])
    ax = plot_head_scores(scores, "two_back")
    assert ax.get_images()[0].get_clim() == (0, 1) and "two_back" in ax.get_title()
    assert "chance" not in plot_head_scores(scores, "size").get_title()  # none is known
    assert plot_score_by_layer(scores, "size").get_legend() is None
    plot_all_scores(scores)
    plt.close("all")
    assert "two_back" in scores._repr_html_()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (made(AttentionScore, pairs=lambda self, tokens: [(1, 2)]), r"gives \(1, 2\) as \(query, key\) .* no later"),
        (made(AttentionScore, pairs=lambda self, tokens: [(99, 0)]), r"gives \(99, 0\) .* of 9 tokens"),
        (made(AttentionScore, pairs=lambda self, tokens: [(2, -1)]), r"gives \(2, -1\)"),
        (made(AttentionScore, pairs=lambda self, tokens: [(2, 1), (2, 1)]), "gives a pair twice"),
        (made(AttentionScore, pairs=lambda self, tokens: [1, 2, 3]), "pairs of whole numbers, got shape"),
        (made(AttentionScore, pairs=lambda self, tokens: [(2.5, 1.0)]), "pairs of whole numbers, got .*float32"),
        (made(AttentionScore, pairs=lambda self, tokens: None), "must give .query, key. pairs"),
        (made(AttentionScore, pairs=lambda self, tokens: []), "made reads nothing on these prompts"),
        (made(AttentionScore, pairs=lambda self, tokens: [(int(tokens.zero_()[1]) + 1, 0)]), "changes the tokens"),
        (made(LayerScore, read=lambda self, model, prompts, attention: attention.z), r"\[prompt, head\] = \(2, 4\)"),
        (made(LayerScore, read=lambda self, model, prompts, attention: 1.0), "got float"),
        (made(LayerScore, read=lambda self, model, prompts, attention: torch.full((2, 4), torch.nan)), "not finite"),
        (
            made(LayerScore, read=lambda self, model, prompts, attention: attention.z.zero_()),
            "changes `z` of the model",
        ),
        (made(LayerScore, read=lambda self, m, prompts, attention: prompts.tokens.zero_()), "changes the tokens"),
        (
            made(WeightScore, measure=lambda self, model: torch.zeros(3)),
            r"\[layer, head\] = \(2, 4\), got shape \(3,\)",
        ),
        (made(WeightScore, measure=lambda self, model: torch.full((2, 4), torch.inf)), "not finite"),
        (made(AttentionScore, name="prefix_matching"), "'prefix_matching' is taken"),
        (made(AttentionScore, name="mean_loss"), "'mean_loss' is taken: Mean loss"),
        (made(AttentionScore, name="two back"), "`name` is a word such as two_back"),
        (made(AttentionScore, name=""), "`name` is a word"),
        (made(AttentionScore, meaning=""), "does not say what it means"),
        (made(LayerScore, low=1.0, high=0.0), "`low` must be less than `high`"),
        (made(Score), "A score is a name or an AttentionScore"),
        ("nowhere_to_be_found:TwoBack", "module:name, the module importable"),
        ("induction_lab:nothing", "module:name, the module importable"),
        ("induction_lab:score_heads", "A score is a name or an AttentionScore"),
        ("two_back", "Unknown scores"),
    ],
)
def test_what_is_no_score_is_refused_with_the_reason(llama, score, message):
    tokens = torch.tensor([[1, 5, 6, 7, 8, 5, 6, 7, 8], [1, 9, 8, 7, 6, 9, 8, 7, 6]])
    with pytest.raises(ValueError, match=message):
        score_heads(llama, tokens, scores=["previous_token", score])


def test_a_score_that_writes_into_weights_is_refused(small):
    def read(self, model, prompts, attention):
        next(model.network.parameters())[0] = 0
        return attention.z.mean((2, 3))

    with pytest.raises(ValueError, match="changes the weights of the model"):
        score_heads(small, torch.tensor([[0, 5, 6]]), scores=[made(LayerScore, read=read)])


def test_a_class_and_what_is_no_score_at_all_are_refused():
    with pytest.raises(ValueError, match=r"got <class .*, so give TwoBack\(\)"):
        checked(TwoBack)
    with pytest.raises(ValueError, match="an AttentionScore, LayerScore, WeightScore or CausalScore, got 3"):
        checked(3)


def test_two_scores_of_one_name_are_refused_one_given_twice_is_not():
    one = TwoBack()
    assert list(find_scores([one, "resting", one, "resting"])) == ["two_back", "resting"]
    with pytest.raises(ValueError, match="Two scores are called 'two_back'"):
        find_scores([one, TwoBack()])


def test_a_score_is_found_by_the_place_of_its_class(tmp_path, monkeypatch, bundled):
    (tmp_path / "scores_of_mine.py").write_text(PAGE.split("```python\n")[1].split("scores = ")[0])
    monkeypatch.syspath_prepend(tmp_path)
    scores = score_heads(bundled, repeated_tokens(bundled, n_prompts=2), scores=["scores_of_mine:TwoBack"])
    assert scores.scores == ("two_back",)


class Same:
    """Checkpoints of one model."""

    def __init__(self, model):
        self.network, self.name, self.steps = model, model.name, [0, 5]

    def model(self, step):
        return self.network


def test_a_trajectory_holds_it_under_its_words_and_goes_on_only_with_the_same(circuit, tmp_path):
    path, prompts = tmp_path / "own.parquet", {"short": repeated_tokens(circuit, n_prompts=2, period=10)}
    asked = {"prompts": prompts, "probes": (), "path": path}
    followed = follow_training(Same(circuit), scores=["previous_token", TwoBack(), Size()], steps=[0], **asked)
    whole = follow_training(Same(circuit), scores=["previous_token", TwoBack(), Size()], **asked)
    scores = score_heads(circuit, prompts["short"], scores=[TwoBack()])
    torch.testing.assert_close(whole.heads("two_back", "short")[1], scores["two_back"])
    assert followed.steps == [0] and whole.steps == [0, 5] and whole.heads("size", "weights").shape == (2, 2, 2)
    again = Trajectory.load(path)
    assert again.about("two_back") == TwoBack().words and again.about("mean_loss").unit == "nats"
    joined = Trajectory.join([again, Trajectory(again.table.assign(run="other"), again.provenance)])
    assert joined.about("size").unit == "norms"
    ax = plot_heads_over_training(again, "size")
    assert ax.get_ylabel() == "size, norms"
    low, high = plot_heads_over_training(again, "two_back").get_ylim()
    assert (low, high) == pytest.approx((-0.03, 1.03))
    with pytest.raises(ValueError, match="made with other scores"):
        follow_training(Same(circuit), scores=["previous_token", TwoBack()], **asked)
    with pytest.raises(ValueError, match="Unknown scores"):
        follow_training(Same(circuit), scores=["two_back"], **asked)


def test_the_report_shows_it_beside_all_others(circuit, tmp_path):
    page = write_report(
        circuit, tmp_path / "own.html", period=10, n_prompts=2, ablate=False, scores=[TwoBack(), Size()]
    )
    text = page.read_text()
    assert '"two_back":{"title":"Two back","definition":"Attention to the token before the previous one."' in text
    assert '"size":{"title":"Size"' in text and '"prefix_matching":{"title":"Prefix matching"' in text
    assert "<dt>Two back <code>two_back</code></dt><dd>Attention to the token before the previous one." in text


def test_a_sweep_measures_it_by_its_place_and_anew_when_its_file_changes(bundled, tmp_path, monkeypatch):
    prompts = {"short": {"kind": "repeats", "period": 5, "n_prompts": 2}}
    (tmp_path / "scores_to_sweep.py").write_text(PAGE.split("```python\n")[1].split("scores = ")[0])
    monkeypatch.syspath_prepend(tmp_path)
    names = ["previous_token", "scores_to_sweep:TwoBack"]
    plan = {"models": [bundled.name], "prompts": prompts, "measurements": {"head_scores": {"scores": names}}}
    sweep(plan, tmp_path / "data")
    table = load_sweep(tmp_path / "data")
    assert set(table["metric"]) == {"previous_token", "two_back"}
    key = load_sweep_plan(plan).cells()[0].key
    (tmp_path / "scores_to_sweep.py").open("a").write("# another line")
    assert load_sweep_plan(plan).cells()[0].key != key
