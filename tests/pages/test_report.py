import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from families import publish
from folders import ROOT
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from pages import HOSTILE, hostile_model, trajectory

import induction_lab
from induction_lab import (
    Effects,
    Explanation,
    HookedModel,
    ablation_sweep,
    capture,
    composition_scores,
    explain,
    find_circuit,
    lag_profile,
    ov_eigenvalues,
    repeated_tokens,
    score_heads,
    write_report,
)
from induction_lab.pages.attention_view import SCRIPTS as VIEW_SCRIPTS
from induction_lab.pages.encoding import lower_triangle, pack, unpack
from induction_lab.pages.head_views import head_views, worth_showing
from induction_lab.pages.html import FOLDER, SCRIPTS, as_script, script
from induction_lab.pages.live.page import SCRIPTS as LIVE_SCRIPTS
from induction_lab.pages.live.widget import SCRIPTS as WIDGET_SCRIPTS
from induction_lab.pages.panel_data import kinds_of_heads, page_data
from induction_lab.pages.panel_measurements import ReportPlan, measure, partners
from induction_lab.pages.report import labels
from induction_lab.results.cards import cell_text, html_card
from induction_lab.results.heads import Head
from induction_lab.scores.profiles import PLACES, attention_profiles
from induction_lab.scores.registry import SCORES

COMMAND = [str(Path(sys.executable).with_name("induction-lab"))]
EXPLAINED = Explanation.load(ROOT / "figures" / "smollm2-135m_explained.json")
PLAN = ReportPlan(period=12, n_prompts=4)


@pytest.fixture(scope="module")
def subject(bundled):
    return measure(bundled, PLAN, trajectory=trajectory(bundled.name))


@pytest.fixture(scope="module")
def data(subject):
    return json.loads(as_script(page_data(subject)))


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6) | st.just(math.nan)))
def test_packed_numbers_come_back_within_half_a_step(values):
    for bits, levels in ((8, 254), (16, 65534)):
        back = unpack(pack(values, bits=bits))
        assert (np.isnan(back) == np.isnan(values)).all()
        known = values[~np.isnan(values)]
        if len(known):
            step = (known.max() - known.min()) / levels
            assert np.abs(back[~np.isnan(values)] - known).max() <= step * 0.501 + 1e-9


def test_packed_probabilities_are_right_to_a_five_hundredth_and_their_ends_exact():
    values = np.linspace(0, 1, 1001)
    back = unpack(pack(values, low=0.0, high=1.0))
    assert np.abs(back - values).max() <= 1 / 508 + 1e-12
    assert back[0] == 0 and back[-1] == pytest.approx(1, abs=1e-12)


def test_the_lower_triangle_is_row_by_row():
    assert lower_triangle(np.arange(9).reshape(3, 3)).tolist() == [0, 3, 4, 6, 7, 8]


def test_every_score_has_words():
    assert all(score.words.definition and score.words.source for score in SCORES.values())


def test_profiles_are_what_the_patterns_say(gallery):
    prompts = repeated_tokens(gallery, n_prompts=3, period=9)
    profiles = attention_profiles(gallery, prompts)
    acts, period = capture(gallery, prompts, "pattern"), 9
    for layer in range(gallery.n_layers):
        mean = acts["pattern", layer].mean(0)
        for position in range(2, 1 + 2 * period):
            assert torch.allclose(
                profiles.by_position["previous"][layer, :, position], mean[:, position, position - 1], atol=1e-6
            )
            if position > period:
                followed = mean[:, position, position - period + 1]
                assert torch.allclose(profiles.by_position["followed"][layer, :, position], followed, atol=1e-6)
        queries = range(period + 3, 1 + 2 * period)
        at_lag = torch.stack([mean[:, t, t - period - 2] for t in queries]).mean(0)
        assert torch.allclose(profiles.by_lag[layer, :, profiles.lags.index(-2)], at_lag, atol=1e-6)
    assert profiles.by_position["followed"][:, :, : period + 1].isnan().all()
    assert set(profiles.by_position) == set(PLACES)


def test_the_profile_of_an_induction_head_peaks_at_one_lag_and_that_of_a_previous_token_head_nowhere(circuit):
    profiles = attention_profiles(circuit, repeated_tokens(circuit, n_prompts=2, period=20))
    induction, previous = profiles.by_lag[1, 0], profiles.by_lag[0, 0]
    assert induction[profiles.lags.index(1)] > 0.98 and induction.sum() < 1.02
    assert previous.nan_to_num(0).max() < 0.01
    with pytest.raises(ValueError, match="At least one lag"):
        attention_profiles(circuit, repeated_tokens(circuit, n_prompts=2, period=20), lags=[])


def test_a_view_holds_the_pattern_and_the_size_of_what_each_source_could_write(bundled):
    prompts = repeated_tokens(bundled, n_prompts=1, period=6)
    (view,) = (views["short"] for views in head_views(bundled, [Head(1, 2)], {"short": prompts}).values())
    acts = capture(bundled, prompts, ["pattern", "v"], layers=1)
    assert torch.allclose(view.pattern, acts["pattern", 1][0, 2], atol=1e-6)
    written = acts["v", 1][0, :, 2] @ bundled.hooked.W_O[1, 2].detach()
    assert torch.allclose(view.written, written.norm(dim=-1), atol=1e-4)


def test_heads_worth_showing_are_the_best_of_each_kind_and_no_more_than_asked(subject):
    best = worth_showing(subject.scores, each=1)
    for kind in ("prefix_matching", "previous_token"):
        assert subject.scores.top(kind, 1)[0][0] in best
    assert len(worth_showing(subject.scores, each=8, most=3)) == 3


def test_partners_are_the_strongest_compositions_either_way(bundled):
    matrix = composition_scores(bundled, "K")
    reads, read_by = partners(matrix, n=2)
    strongest = matrix[0, :, 1, 3].sort(descending=True)
    assert [head for head, _ in reads[7]] == strongest.indices[:2].tolist()
    assert reads[0] == [] and read_by[7] == []
    assert dict(read_by[3])[7] == dict(reads[7])[3] == pytest.approx(float(matrix[0, 3, 1, 3]))


def test_the_page_s_numbers_are_the_api_s(bundled, data):
    prompts = repeated_tokens(bundled, period=12, n_prompts=4)
    scores = score_heads(bundled, prompts, chance_test=True)
    for name in scores.scores:
        assert data["scores"][name]["values"] == pytest.approx(scores[name].flatten().tolist(), rel=1e-4, abs=1e-7)
        assert data["scores"][name]["chance"] == pytest.approx(scores.uniform[name], rel=1e-4)
    assert data["loss_by_copy"] == pytest.approx(scores.loss_by_copy, rel=1e-4)
    edges = find_circuit(bundled, prompts, n=20).edges
    assert [edge["previous"] for edge in data["circuit"]] == edges["previous"].tolist()
    assert data["likely_edges"][0] == {"previous": "L0H3", "induction": "L1H3"}
    values = ov_eigenvalues(bundled).flatten(0, 1)
    plane, largest = unpack(data["eigenvalues"]["plane"]), np.array(data["eigenvalues"]["largest"])
    back = (plane[..., 0] + 1j * plane[..., 1]) * largest[:, None]
    assert np.abs(back - values.numpy()).max() <= 1e-4 * largest.max()
    others = repeated_tokens(bundled, n_prompts=32, period=12, seed=1)
    effect = ablation_sweep(bundled, prompts, heads=["L0H3"], reference=others).table["effect"].iloc[0]
    assert data["ablation"]["effects"]["L0H3"][0] == pytest.approx(effect, rel=1e-4)


def test_patterns_come_back_within_a_five_hundredth(bundled, subject, data):
    short = subject.prompts["repeated"][0]
    pattern = capture(bundled, short, "pattern", heads="L1H3")["pattern", 1][0, 0].numpy()
    back = unpack(data["views"]["L1H3"]["repeated"]["pattern"])
    assert np.abs(back - lower_triangle(pattern)).max() <= 1 / 508 + 1e-6


def test_training_is_what_the_trajectory_says(data):
    training = data["training"]
    assert training["steps"] == [0, 10, 100] and training["series"]["copy 2"] == [5.0, 3.0, 1.0]
    values = unpack(training["heads"]["prefix_matching"]["values"])
    assert values.shape == (3, 8) and values[1] == pytest.approx(np.arange(8) / 16, abs=0.002)
    assert (unpack(training["heads"]["ov_copying"]["values"])[2] <= 0.005).all()


def test_kinds_count_heads_and_say_where_they_are(subject):
    kinds = {kind["title"]: kind for kind in kinds_of_heads(subject.scores)}
    induction = kinds["induction heads"]
    assert sorted(induction["heads"]) == ["L1H0", "L1H1", "L1H2", "L1H3"] and induction["by_layer"] == [0, 4]
    assert induction["where"] == "layer 1" and kinds["duplicate-token heads"]["where"] == "none"


def test_data_may_stand_in_a_script_element_whatever_they_hold():
    text = as_script({"a": "</script><!-- & \u2028 \u2029 é"})
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text)["a"].endswith("é")


def test_every_script_is_joined_once_and_none_takes_another_s_name():
    files = {path.relative_to(FOLDER / "js").with_suffix("").as_posix() for path in (FOLDER / "js").rglob("*.js")}
    assert files == {*SCRIPTS, *LIVE_SCRIPTS, *VIEW_SCRIPTS, *WIDGET_SCRIPTS}
    names = re.findall(r"^(?:async )?(?:function|const|let|class) (\w+)", script(), re.MULTILINE)
    assert "drawMap" in names and len(names) == len(set(names))
    assert script().startswith("(() => {") and script().endswith("})();\n")


def test_a_page_is_one_file_that_names_models_and_tokens_as_text(tmp_path, bundled):
    path = write_report([bundled, hostile_model()], tmp_path / "both.html", period=12, n_prompts=3)
    page = path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["both.html"]
    assert HOSTILE not in page and 'onerror="' not in page
    assert "&lt;script&gt;document.title" in page
    assert not re.search(r'(src|href)="(?!#|data:|https://(arxiv|transformer-circuits))', page.split('id="plotly"')[0])
    said = page[: page.index('<script type="application/json"')]
    assert "<h1" in said and "are induction heads" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "report.pdf"}, "A report is an .html file, got 'report.pdf'"),
        ({"models": []}, "At least one model is wanted"),
        ({"period": 500}, "the model's context holds 128"),
        ({"explanations": {"gpt2": EXPLAINED}}, "There is an explanation of gpt2; the report is on induction-2l"),
        ({"trajectories": {"other": trajectory("other")}}, "There is a trajectory of other"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is_written(tmp_path, bundled, change, said):
    asked = {"models": bundled, "path": "report.html"} | change
    with pytest.raises(ValueError, match=re.escape(said)):
        write_report(**(asked | {"path": tmp_path / asked["path"]}))
    assert not list(tmp_path.iterdir())


def test_an_explanation_of_another_shape_is_refused(tmp_path, bundled):
    with pytest.raises(ValueError, match="it has 30 layers of 9 heads, the model 2 of 4"):
        write_report(bundled, tmp_path / "r.html", explanations={bundled.name: EXPLAINED})


def test_without_the_libraries_the_error_says_what_to_install(tmp_path, bundled, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(ValueError, match=r"plotly, which is not installed: pip install 'induction-lab\[report\]'"):
        write_report(bundled, tmp_path / "report.html")


@pytest.mark.parametrize("by_parts", [True, False])
def test_what_is_expected_and_where_heads_look_are_read_as_by_themselves(bundled, monkeypatch, by_parts):
    monkeypatch.setitem(vars(bundled), "unembeds_by_parts", by_parts)
    found = measure(bundled, ReportPlan(period=10, n_prompts=3, ablate=False))
    prompts = repeated_tokens(bundled, n_prompts=3, period=10)
    pd.testing.assert_frame_equal(found.expected, lag_profile(bundled, prompts), rtol=1e-5)
    alone = attention_profiles(bundled, prompts)
    torch.testing.assert_close(found.profiles.by_lag, alone.by_lag, equal_nan=True)
    torch.testing.assert_close(found.profiles.by_position, alone.by_position, equal_nan=True)


def test_what_a_model_does_not_allow_is_left_out_with_the_reason():
    from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer

    one_layer = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=1, d_vocab=80)), name="one")
    found = measure(one_layer, ReportPlan(period=10, n_prompts=2, ablate=False))
    assert found.circuit is None and found.ablation is None
    assert "no head can feed another" in found.left_out["circuit"] and "no tokenizer" in found.left_out["text"]
    assert page_data(found)["circuit"] is None


def test_every_head_is_shown_where_that_is_asked_for(bundled):
    found = measure(bundled, ReportPlan(period=8, n_prompts=2, all_heads=True, ablate=False))
    assert len(found.views) == 8 and all(found.views.values())


def test_names_that_are_the_same_are_told_apart(bundled):
    again = HookedModel(bundled.network, name=bundled.name, revision="step10")
    assert labels([bundled, again]) == ["induction-2l", "induction-2l step10"]
    assert labels([bundled, bundled]) == ["induction-2l (1)", "induction-2l (2)"]


def test_tokens_are_named_as_a_person_reads_them(bundled):
    prompts = repeated_tokens(bundled, n_prompts=1, period=2)
    ids = prompts.tokens[0].tolist()
    assert bundled.token_labels(prompts) == ["BOS", *map(str, ids[1:])]
    assert hostile_model().token_labels(prompts[:1])[0] == "BOS"


def test_results_show_themselves_in_notebooks_with_everything_escaped(bundled):
    prompts = repeated_tokens(bundled, n_prompts=3, period=8)
    effects = ablation_sweep(bundled, prompts, heads=["L0H3", "L1H3"])
    explained = explain(bundled, prompts, n_random=0)
    assert isinstance(effects, Effects) and isinstance(explained, Explanation)
    scores = score_heads(bundled, prompts)
    shown = [scores, prompts, find_circuit(bundled, prompts), effects, trajectory("run"), explained]
    for result in shown:
        card = result._repr_html_()
        assert card.startswith("<div") and card.count("<table") == 1 and "nan" not in card
    assert "L1H3" in scores._repr_html_()
    hostile = score_heads(hostile_model(), repeated_tokens(hostile_model(), n_prompts=2, period=6))
    assert "<script" not in hostile._repr_html_()
    assert "<b>" not in html_card("<b>", "<b>", ["<b>"], [["<b>"]], note="<b>")
    assert [cell_text(x) for x in (1234, 0.5, 1e-5, math.nan, None, "x")] == ["1,234", "0.500", "1e-05", "–", "–", "x"]


def test_the_command_writes_the_page_and_says_where(tmp_path):
    asked = ["report", "--period", "10", "--prompts", "2", "--no-ablate", "-o", "page.html"]
    done = subprocess.run([*COMMAND, *asked], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "" and "page.html" in done.stdout
    page = (tmp_path / "page.html").read_text()
    assert "induction-lab report --period 10 --prompts 2 --no-ablate -o page.html" in page


def test_published_checkpoints_become_a_training_history(tmp_path):
    publish(tmp_path / "hub", "EleutherAI/pythia-tiny", "gpt_neox", [0, 512, 1000])
    asked = ["report", "EleutherAI/pythia-tiny", "--steps", "0,512,1000", "--period", "9", "--prompts", "2"]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*COMMAND, *asked, "--no-ablate"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text()
    (shown,) = json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])["models"]
    assert shown["label"] == "EleutherAI/pythia-tiny" and shown["training"]["steps"] == [0, 512, 1000]
    scores = unpack(shown["training"]["heads"]["current_token"]["values"]).reshape(3, -1)
    assert (scores[0] != scores[1]).any() and (scores[1] != scores[2]).any()  # the revisions' own weights


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-model"], "no-such-model"),
        (["-o", "page.pdf"], "A report is an .html file"),
        (["--prompts", "0"], "--prompts must be at least 1"),
        (["--text", "nothing.txt"], "nothing.txt cannot be read"),
        (["--explanation", "nothing.json"], "There is no file nothing.json"),
    ],
)
def test_a_report_that_cannot_be_written_is_one_message(tmp_path, command, arguments, said):
    code, _, error = command("report", *arguments)
    assert code == 2 and error.startswith("error: ") and said in error
    assert not list(tmp_path.iterdir())


def test_the_public_name_is_there():
    assert induction_lab.write_report is write_report


@pytest.mark.parametrize("ablate", [True, False])
def test_the_progress_bar_of_a_report_ends_when_all_is_measured(bundled, ablate):
    plan, ticks = ReportPlan(period=8, n_prompts=2, ablate=ablate), []
    found = measure(bundled, plan, tick=lambda n, note="": ticks.append((n, note)))
    assert [note for n, note in ticks if n] == list(plan.attempts)
    assert ("ablation" in plan.attempts) == ablate == (found.ablation is not None)
    runs = 2 * len(found.views)  # each head on each prompt
    assert ((0, f"ablation: {runs} of {runs} runs") in ticks) == ablate
