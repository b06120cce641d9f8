"""Prompts whose last m tokens stood together once before, and what heads by hand do on them."""

import pytest
import torch

from induction_lab import HookedModel, score_heads
from induction_lab.models.attention_only.by_hand import head_gallery
from induction_lab.scores.kinds.match_length import LENGTHS, MATCH_LENGTHS
from induction_lab.scores.registry import KINDS


@pytest.mark.parametrize("score", MATCH_LENGTHS, ids=lambda score: score.name)
def test_exactly_the_last_m_tokens_match_and_once(score, small):
    prompts = score.own_prompts(small, seed=3)
    for row in prompts.tokens:
        tokens = row.tolist()
        last = len(tokens) - 1
        ((query, key),) = score.pairs(row)
        s = key - 1
        assert query == last and tokens.count(tokens[last]) == 2 and tokens[s] == tokens[last]
        matched = next(m for m in range(1, s + 1) if tokens[s - m] != tokens[last - m])
        assert matched == score.length
        between = tokens[41:49]
        repeated = sum(token in tokens[1:41] for token in between)
        assert repeated == (7 if score.in_repeats else 0)
        if score.in_repeats:  # one run of the block, and not of what the fragment stands in
            start = tokens.index(between[0])
            assert tokens[start : start + 7] == between[:7]
            assert not set(range(start, start + 8)) & set(range(s - score.length, s + 2))


def test_an_ideal_induction_head_needs_one_token_and_no_repeats():
    scores = score_heads(HookedModel(head_gallery()), scores=[score.name for score in MATCH_LENGTHS])
    for name in scores.scores:
        values = scores[name]
        assert values[1, 0] > 0.999 and values[1, 3] > 0.999  # induction, and the suppressor that looks alike
        values[1, [0, 3]] = 0
        assert values.max() < 0.03  # uniform attention to one of 50 keys


def test_a_head_that_matches_two_tokens_is_told_from_one_that_matches_one(small):
    """On patterns made up: a head that attends only where two tokens match scores from m = 2 on."""
    from induction_lab.attention.exact import MaterialisedAttention

    for score in MATCH_LENGTHS[:3]:
        prompts = score.own_prompts(small, seed=0)
        n, n_pos = prompts.tokens.shape
        matrix = torch.zeros(n, 1, n_pos, n_pos)
        for p, row in enumerate(prompts.tokens.tolist()):
            t = n_pos - 1
            two = [s for s in range(2, t) if row[s] == row[t] and row[s - 1] == row[t - 1]]
            for s in two:
                matrix[p, 0, t, s + 1] = 1.0
        z = torch.zeros(n, 1, n_pos, 4)
        attention = MaterialisedAttention(0, matrix, z, z)
        pairs = [score.pairs(row)[0] for row in prompts.tokens]
        read = attention.probabilities(torch.arange(n), *torch.tensor(pairs).T)
        assert read.mean() == (score.length >= 2)


def test_they_are_asked_for_by_name_and_refused_where_there_is_no_room():
    assert [f"match_{m}" for m in LENGTHS] == [name for name in KINDS if name.startswith("match_")][:6]
    tiny = HookedModel(head_gallery(d_vocab=32, n_ctx=64))
    with pytest.raises(ValueError, match="match_2: 48 distinct tokens are wanted"):
        score_heads(tiny, scores="match_2")
    assert "match_2" not in score_heads(tiny).scores
