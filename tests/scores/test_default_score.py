"""Scores as people ask for them: by head, without naming the score, and two measurements side by side."""

import math
from dataclasses import replace

import pytest
import torch

from induction_lab import Head, HeadScores, compare_scores


def made(values, model="a model"):
    tables = {name: torch.tensor(table) for name, table in values.items()}
    errors = {name: table.abs() / 10 for name, table in tables.items()}
    return HeadScores(model, tables, errors, dict.fromkeys(tables, 0.01))


@pytest.fixture
def scores():
    return made({"copying": [[-0.5, 0.2], [0.3, -0.1]], "prefix_matching": [[0.1, 0.9], [0.5, 0.3]]})


@pytest.mark.parametrize("head", ["L0H1", "0.1", (0, 1), Head(0, 1)])
def test_a_head_gives_all_its_scores(scores, head):
    assert scores[head] == scores.of("L0H1") == pytest.approx({"copying": 0.2, "prefix_matching": 0.9})
    assert torch.equal(scores["copying"], scores.values["copying"])


def test_what_is_neither_a_score_nor_a_head_is_refused(scores):
    with pytest.raises(ValueError, match="No score 'entropy' here; there are copying, prefix_matching"):
        scores["entropy"]
    with pytest.raises(ValueError, match="L7H0 is not there"):
        scores["L7H0"]


def test_heads_print_as_the_field_writes_them(scores):
    assert str(scores.above()) == "[L0H1, L1H0]" and f"{scores.top()[0][0]!r}" == "L0H1"


def test_prefix_matching_ranks_where_no_score_is_named(scores):
    assert scores.top() == scores.top("prefix_matching") and scores.top(n=1) == scores.top("prefix_matching", 1)
    assert scores.above() == scores.above("prefix_matching", 0.4) == [Head(0, 1), Head(1, 0)]
    assert scores.above(threshold=0.05) == scores.above("prefix_matching", 0.05)
    scores.q_values["prefix_matching"] = torch.tensor([[0.5, 0.01], [0.02, 0.5]])
    assert scores.significant() == scores.significant("prefix_matching") == [Head(0, 1), Head(1, 0)]
    other = made({"copying": [[-0.5, 0.2]]})
    assert other.top(n=1) == other.top("copying", 1)


def test_a_score_has_the_threshold_that_people_name_or_none(scores):
    with pytest.raises(ValueError, match=r"Nobody says which copying is high.*above\('copying', 0.5\)"):
        scores.above("copying")
    values = [[0.05, 0.2], [0.45, 0.6]]
    every = made({name: values for name in ("retrieval", "successor", "displaced_induction", "previous_token")}, "m")
    assert [len(every.above(name)) for name in every.scores] == [3, 1, 2, 2]
    assert replace(every, words={name: every.about(name)._replace(threshold=None) for name in every.scores}).above(
        "retrieval"
    ) == every.above("retrieval")  # a file of old says none
    for name in ("token_matching", "induction_lag", "context_matching", "copy_suppression_share"):
        with pytest.raises(ValueError, match=f"Nobody says which {name} is high"):
            made({name: values}, "m").above(name)


@pytest.mark.usefixtures("unchecked")
def test_a_threshold_without_its_score_is_refused(scores):
    for ask in (scores.above, scores.top, scores.significant):
        with pytest.raises(ValueError, match="First the name of a score is wanted, .* got 0.4"):
            ask(0.4)
    assert scores.above("copying", 0.1) == [Head(1, 0), Head(0, 1)]


def test_two_measurements_are_compared_head_by_head(scores):
    later = made({"prefix_matching": [[0.1, 0.6], [0.95, math.nan]]}, "another")
    found = compare_scores(scores, later)
    assert found["label"].tolist() == ["L1H0", "L0H1", "L0H0"]  # L1H1 has no second value
    row = found.iloc[0]
    assert (row["layer"], row["head"], row["score"]) == (1, 0, "prefix_matching")
    assert row["difference"] == pytest.approx(0.45, abs=1e-6)
    assert (row["first_error"], row["second_error"]) == pytest.approx((0.05, 0.095), abs=1e-6)
    with pytest.raises(ValueError, match="No score 'copying' here"):
        compare_scores(scores, later, "copying")


def test_models_of_other_shapes_are_refused(scores):
    with pytest.raises(ValueError, match="a model has 2 layers of 2, wide has 1 layers of 3"):
        compare_scores(scores, made({"prefix_matching": [[0.1, 0.2, 0.3]]}, "wide"))
