import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, mannwhitneyu

from induction_lab import repeated_tokens, score_heads
from induction_lab.models.store import is_here
from induction_lab.scores.chance import _p_values, above_chance, fewest_prompts


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


@pytest.mark.parametrize("n_null", [1, 2, 5, 12, 13, 40])
@pytest.mark.parametrize("n_observed", [1, 3, 8, 12, 16])
def test_p_values_are_those_of_scipy_to_the_last_bit_with_ties_and_without(n_observed, n_null):
    random = np.random.default_rng(0)
    for shift in (-1, 0, 1, 9):
        observed, null = random.normal(size=(n_observed, 3, 9)) + shift, random.normal(size=(n_null, 3, 9))
        observed[:, 1], null[:, 1] = observed[:, 1].round(), null[:, 1].round()
        observed[:, 2, 0] = null[:, 2, 0] = 0.0
        found, exact = _p_values(observed, null), max(n_observed, n_null) <= 12
        for head in np.ndindex(3, 9):
            one, other = observed[:, *head], null[:, *head]
            tied = len(np.unique(np.concatenate([one, other]))) < n_observed + n_null
            how = "exact" if exact and not tied else "asymptotic"
            with np.errstate(divide="ignore", invalid="ignore"):
                slow = mannwhitneyu(one, other, alternative="greater", method=how).pvalue
            assert found[head] == np.nan_to_num(slow, nan=1.0)


def test_ties_everywhere_are_no_evidence_and_no_nan():
    p_values, q_values = above_chance(torch.ones(8, 1, 2), torch.ones(8, 1, 2))
    assert (p_values == 1).all() and (q_values == 1).all()


def test_no_prompts_are_refused():
    with pytest.raises(ValueError, match="Both sides need prompts"):
        above_chance(torch.zeros(0, 1, 1), torch.zeros(3, 1, 1))


def lone_head_q(n_heads: int, n_prompts: int) -> torch.Tensor:
    """One head wholly above its null among heads wholly below theirs, whose p-values are 1."""
    rising = torch.arange(n_prompts, dtype=torch.float)[:, None, None].expand(-1, 1, n_heads)
    observed = rising.clone()
    observed[..., 1:] -= 100
    p_values, q_values = above_chance(observed, rising - 50)
    assert (p_values[0, 1:] == 1).all()
    return q_values[0, 0]


@pytest.mark.parametrize("rate", [0.05, 0.01])
@pytest.mark.parametrize("n_heads", [1, 8, 144, 270, 1600, 16128])
def test_a_lone_head_passes_with_the_fewest_prompts_and_not_with_one_less(n_heads, rate):
    fewest = fewest_prompts(n_heads, rate)
    assert lone_head_q(n_heads, fewest) <= rate
    assert lone_head_q(n_heads, fewest - 1) > rate


def test_the_fewest_prompts_that_the_documentation_names():
    assert (fewest_prompts(8), fewest_prompts(270)) == (5, 8)


def test_ties_of_one_head_change_no_other_heads_p_value():
    generator = torch.Generator().manual_seed(2)
    observed, null = torch.rand(2, 6, 1, 3, generator=generator)
    alone, _ = above_chance(observed, null)
    observed[:, 0, 2] = null[:, 0, 2] = 0.5
    beside, _ = above_chance(observed, null)
    torch.testing.assert_close(beside[0, :2], alone[0, :2], atol=0, rtol=0)


def test_one_prompt_alone_is_said_to_have_no_error_and_is_not_tested(bundled):
    one, two = (repeated_tokens(bundled, n_prompts=n, period=9) for n in (1, 2))
    found = score_heads(bundled, one)
    assert found.provenance["left_out"]["errors and chance"].startswith(
        "one prompt alone has values of prefix_matching"
    )
    assert "copying" not in found.provenance["left_out"]["errors and chance"]  # it has prompts of its own
    assert "errors and chance" not in score_heads(bundled, two, chance_test=True).provenance["left_out"]
    with pytest.raises(ValueError, match=r"give 2 or more, got 1; several texts.*chance_test=False, --no-chance"):
        score_heads(bundled, one, chance_test=True)


@pytest.mark.parametrize(
    "arguments", [["--prompts", "1"], ["smollm2-135m", "--text", "one two one two", "--scores", "resting"]]
)
def test_the_command_says_why_there_is_no_error_and_no_test(command, arguments):
    if "smollm2-135m" in arguments and not is_here("smollm2-135m"):
        pytest.skip("smollm2-135m is not here: induction-lab get smollm2-135m")
    code, out, _ = command("score", *arguments, "--no-figures")
    assert code == 0 and "left out: errors and chance: one prompt alone has values of" in " ".join(out.split())
