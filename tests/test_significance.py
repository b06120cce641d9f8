import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, mannwhitneyu

from induction_lab.significance import above_chance


def test_heads_with_nothing_to_find_are_called_above_chance_no_more_often_than_allowed():
    generator = torch.Generator().manual_seed(0)
    called = 0
    for _ in range(20):
        p_values, q_values = above_chance(*torch.rand(2, 16, 10, 12, generator=generator))
        assert 0.02 < (p_values < 0.05).float().mean() < 0.09
        called += int((q_values < 0.05).any())
    assert called <= 4  # one run in twenty is expected to call any head


def test_a_real_head_among_many_is_found_and_agrees_with_one_test_at_a_time():
    generator = torch.Generator().manual_seed(1)
    observed, null = torch.rand(2, 16, 4, 5, generator=generator)
    observed[:, 2, 3] += 1
    p_values, q_values = above_chance(observed, null)
    assert (q_values < 0.05).nonzero().tolist() == [[2, 3]]
    slow = np.array(
        [
            [mannwhitneyu(observed[:, i, j], null[:, i, j], alternative="greater").pvalue for j in range(5)]
            for i in range(4)
        ]
    )
    np.testing.assert_allclose(p_values.numpy(), slow, rtol=1e-5)
    np.testing.assert_allclose(q_values.numpy().ravel(), false_discovery_control(slow.ravel()), rtol=1e-5)


def test_ties_everywhere_are_no_evidence_and_no_nan():
    p_values, q_values = above_chance(torch.ones(8, 1, 2), torch.ones(8, 1, 2))
    assert (p_values == 1).all() and (q_values == 1).all()


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="Both sides need prompts"):
        above_chance(torch.zeros(0, 1, 1), torch.zeros(3, 1, 1))
