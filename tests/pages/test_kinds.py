"""The report's panel of kinds of heads: what is measured and at which cost, and what the page is given of it."""

import json
from collections import Counter

import pytest

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    classify_heads,
    repeated_tokens,
    write_report,
)
from induction_lab.circuits.kinds import BY_NAME
from induction_lab.pages.html import as_script
from induction_lab.pages.panel_data import page_data
from induction_lab.pages.panel_measurements import QUICK_KINDS, ReportPlan, measure
from induction_lab.scores import scoring

PLAN = {"period": 12, "n_prompts": 8, "ablate": False}


@pytest.fixture(scope="module")
def subject(bundled):
    return measure(bundled, ReportPlan(**PLAN))


@pytest.fixture(scope="module")
def panel(subject):
    return json.loads(as_script(page_data(subject)))["kinds"]


def test_the_panel_holds_what_classify_heads_says(bundled, panel):
    prompts = repeated_tokens(bundled, n_prompts=8, period=12)
    found = classify_heads(bundled, prompts, kinds=QUICK_KINDS)
    assert [kind["name"] for kind in panel["kinds"]] == list(found.kinds)
    for kind in panel["kinds"]:
        rows = found.table[found.table["kind"] == kind["name"]].sort_values(["layer", "head"])
        assert kind["values"] == pytest.approx(rows["value"].tolist(), rel=1e-4, abs=1e-7)
        assert kind["errors"] == pytest.approx(rows["standard_error"].tolist(), rel=1e-4, abs=1e-7)
        assert kind["q"] == pytest.approx(rows["q_value"].tolist(), rel=1e-4)
        assert kind["chance"] == pytest.approx(rows["chance"].iloc[0], rel=1e-4)
        labels = [f"L{head // bundled.n_heads}H{head % bundled.n_heads}" for head in kind["heads"]]
        assert labels == [str(head) for head in found.of(kind["name"])]
        assert kind["least"] == BY_NAME[kind["name"]].least and kind["definition"]
    shared = found.overlaps()
    shared = shared[shared["n_shared"] > 0].sort_values("p_value")
    assert [(both["kind"], both["other_kind"], both["n_shared"]) for both in panel["overlaps"]] == list(
        zip(shared["kind"], shared["other_kind"], shared["n_shared"], strict=True)
    )


def test_what_is_missing_says_why(bundled, panel):
    assert set(panel["left_out"]) == {"concept-matching", "successor"}
    assert "no tokenizer" in panel["left_out"]["successor"]
    assert set(panel["not_asked"]) == set(BY_NAME) - set(QUICK_KINDS)
    every = page_data(measure(bundled, ReportPlan(**PLAN, all_kinds=True)))["kinds"]
    assert every["not_asked"] == [] and "function-vector" in every["left_out"]
    assert {kind["name"] for kind in every["kinds"]} | set(every["left_out"]) == set(BY_NAME)


def test_few_prompts_tell_the_quick_kinds(monkeypatch):
    """What is read beside the page's own scores: 64 prompts of 60 tokens, and as many of words where there are some."""
    network = AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=300, n_ctx=400), seed=0)
    model, read = HookedModel(network, name="roomy"), Counter()
    prompts = repeated_tokens(model, n_prompts=8, period=12)
    scores = scoring.score_heads(model, prompts, chance_test=True)
    real = scoring.read_attention

    def counted(model, tokens, *given, **how):
        read[tokens.shape[1]] += len(tokens)
        return real(model, tokens, *given, **how)

    monkeypatch.setattr(scoring, "read_attention", counted)
    with_scores = classify_heads(model, prompts, kinds=QUICK_KINDS, scores=scores)
    assert read == {60: 64}
    without = classify_heads(model, prompts, kinds=QUICK_KINDS)
    assert with_scores.table.equals(without.table) and read[25] == 16  # the prompts, and as many that repeat nothing


def test_a_page_on_one_prompt_has_all_else(bundled):
    found = measure(bundled, ReportPlan(period=12, n_prompts=1, ablate=False))
    assert found.kinds is None and page_data(found)["kinds"] is None
    assert "give 2 or more, got 1" in found.left_out["kinds of heads"]


def test_layers_that_do_not_attend_hold_no_number(bundled, subject):
    table = subject.kinds.table.copy()
    table.loc[table["layer"] == 0, ["value", "standard_error", "q_value"]] = float("nan")
    table.loc[table["layer"] == 0, "is_kind"] = False
    kinds = type(subject.kinds)(subject.kinds.model, table, subject.kinds.provenance)
    given = json.loads(as_script(page_data(type(subject)(**{**subject.__dict__, "kinds": kinds}))))["kinds"]
    assert all(kind["values"][0] is None and kind["values"][-1] is not None for kind in given["kinds"])


def test_all_kinds_on_one_prompt_are_refused_as_they_were_asked_for(bundled, tmp_path, command):
    with pytest.raises(ValueError, match="with all kinds give 2 or more, got 1"):
        write_report(bundled, tmp_path / "page.html", n_prompts=1, all_kinds=True)
    code, _, said = command("report", "--all-kinds", "--prompts", "1")
    assert code == 2 and "give 2 or more" in said and not list(tmp_path.glob("*.html"))
