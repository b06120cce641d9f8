"""A score that has prompts of its own says so, wherever its values go; and names that stand for many scores."""

import json

import pytest

from induction_lab import HeadScores, repeated_tokens, score_heads
from induction_lab.models.provenance import about_prompts
from induction_lab.scores.kinds.copying import Copying
from induction_lab.scores.kinds.retrieval import Retrieval
from induction_lab.scores.registry import SCORES


def test_what_was_measured_elsewhere_is_told_apart(bundled, tmp_path):
    prompts = repeated_tokens(bundled, n_prompts=2, period=7, seed=3)
    found = score_heads(bundled, prompts, scores=["prefix_matching", "copying", "ov_copying"])
    own = found.provenance["own_prompts"]
    assert own["copying"] == about_prompts(Copying().own_prompts(bundled, seed=3))
    assert own["ov_copying"] == {"kind": "weights"} and "prefix_matching" not in own
    assert HeadScores.load(found.save(tmp_path / "scores.json")).provenance["own_prompts"] == own


def test_all_stands_for_what_is_measured_by_default(bundled):
    prompts = repeated_tokens(bundled, n_prompts=2, period=7)
    found = score_heads(bundled, prompts, scores=["all", "displaced_induction"])
    assert found.scores == (*SCORES, "displaced_induction")
    assert score_heads(bundled, prompts, scores="all").scores == tuple(SCORES)


def test_two_scores_of_one_name_are_told_how_to_have_another(bundled):
    two = [Retrieval(lengths=(256,)), Retrieval(lengths=(512,))]
    with pytest.raises(ValueError, match=r"Two scores are called 'retrieval'.*score.name = 'retrieval_2'"):
        score_heads(bundled, scores=two)


def test_a_list_of_heads_says_on_what_its_score_was_measured(command):
    asked = ("--above", "-1", "--prompts", "3", "--period", "9", "--format", "json")
    code, listed, said = command("score", "--scores", "copying", *asked)
    assert code == 0 and {row["prompts"] for row in json.loads(listed)} == {"10 x 26 tokens; distinct"}
    assert "copying: measured on 10 x 26 tokens; distinct, whatever prompts are given" in said
    code, _, said = command("score", "--scores", "all", "--above", "0.4")
    assert code == 2 and "--above lists the heads of one score" in said


def test_a_score_of_ones_own_stands_beside_those_of_each_induction_head(command):
    asked = ("--prompts", "2", "--period", "9", "--no-figures", "--no-chance")
    code, shown, _ = command("score", "--scores", "all,own_scores:TwoBack", *asked)
    table = shown[shown.rindex("head ") :]
    assert code == 0 and "two_back" in table.splitlines()[0] and "OV" not in table.splitlines()[0]
