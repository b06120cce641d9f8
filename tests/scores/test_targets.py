import pytest
import torch
from hypothesis import given, settings, strategies as st

from induction_lab.data.occurrences import copyable
from induction_lab.scores.attention_scores import ATTENTION_SCORES, attention_targets


def slow_targets(row: list[int]) -> dict[str, dict[int, list[int]]]:
    """The definitions of the module's first lines, written out query by query: {score: {query: keys}}."""
    found = {name: {} for name in ATTENTION_SCORES}
    for t in range(1, len(row)):
        earlier = [s for s in range(1, t) if row[s] == row[t]]
        if earlier:
            found["prefix_matching"][t] = [s + 1 for s in earlier]
            found["induction_stripe"][t] = [earlier[-1] + 1]
            found["duplicate_token"][t] = earlier
            if [s for s in earlier if s >= 2]:
                found["anti_induction"][t] = [s - 1 for s in earlier if s >= 2]
        else:
            found["resting"][t] = [0]
        found["current_token"][t] = [t]
        if t >= 2:
            found["previous_token"][t] = [t - 1]
    return found


prompts = st.integers(1, 12).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 4), min_size=n + 1, max_size=n + 1), min_size=1, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(prompts, st.data())
def test_targets_on_any_tokens_are_those_of_the_definitions(rows, data):
    tokens = torch.tensor(rows)
    lengths = torch.tensor([data.draw(st.integers(1, len(row))) for row in rows])
    targets = attention_targets(tokens, lengths=lengths)
    for name, reads in targets.reads.items():
        for p, row in enumerate(rows):
            expected = slow_targets(row[: lengths[p]])[name]
            mine = reads.prompt == p
            got = [
                (int(targets.query[i]), int(targets.key[i]), round(float(w), 6))
                for i, w in zip(reads.pair[mine], reads.weight[mine], strict=True)
            ]
            wanted = [(t, k, round(1 / len(expected), 6)) for t, keys in expected.items() for k in keys]
            assert sorted(got) == sorted(wanted), name
            assert bool(reads.defined[p]) == bool(expected)
            uniform = sum(len(keys) / (t + 1) for t, keys in expected.items()) / max(1, len(expected))
            assert float(reads.uniform[p]) == pytest.approx(uniform, abs=1e-6)


def test_pairs_are_listed_once_though_several_scores_read_them():
    tokens = torch.tensor([[0, 5, 6, 7, 5, 6, 7]])
    targets = attention_targets(tokens, ["prefix_matching", "induction_stripe"])
    assert targets.query.tolist() == [4, 5, 6]
    assert targets.key.tolist() == [2, 3, 4]


@pytest.mark.parametrize(("period", "n_repeats", "uniform"), [(25, 4, 0.0307), (25, 2, 0.0266), (50, 2, 0.0136)])
def test_uniform_attention_scores_what_is_known_of_prefix_matching(period, n_repeats, uniform):
    block = torch.arange(1, period + 1)
    tokens = torch.cat([torch.zeros(1, dtype=torch.long), block.repeat(n_repeats)])[None]
    assert float(attention_targets(tokens).reads["prefix_matching"].uniform) == pytest.approx(uniform, abs=5e-5)


def test_prefix_matching_sums_over_targets_before_it_averages():
    """A head that spreads evenly over all copies scores 1, not 1 / copies: the cap of averaging over entries."""
    tokens = torch.tensor([[0, *([4, 5, 6] * 4)]])
    targets = attention_targets(tokens, ["prefix_matching"])
    pattern = torch.zeros(13, 13)
    for t, keys in slow_targets(tokens[0].tolist())["prefix_matching"].items():
        pattern[t, keys] = 1 / len(keys)
    probabilities = pattern[targets.query, targets.key][:, None]
    assert targets.score("prefix_matching", probabilities).item() == pytest.approx(1.0)


def test_copyable_on_repeats_is_every_copy_but_the_first_and_the_last_token():
    tokens = torch.tensor([[0, *([4, 5, 6] * 3)]])
    assert copyable(tokens)[0].nonzero()[:, 0].tolist() == [4, 5, 6, 7, 8]


def test_copyable_needs_the_latest_occurrence_to_be_followed_by_the_same_token():
    assert not copyable(torch.tensor([[0, 4, 5, 4, 6, 4, 5]]))[0, 5]
    assert copyable(torch.tensor([[0, 4, 5, 4, 6, 4, 6]]))[0, 5]


def test_unknown_scores_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="prefix_matching"):
        attention_targets(torch.zeros(1, 3, dtype=torch.long), ["induction"])
