"""Means and standard errors are those of the schoolbook, and one prompt has no error."""

import math
import statistics

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, t

from induction_lab.results.statistics import (
    error_where_known,
    false_discovery_rates,
    mean_and_error,
    number_and_error,
    over_prompts,
    t_above,
    t_exceeded,
)


@pytest.fixture
def values() -> torch.Tensor:
    return torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mean_and_error_are_those_of_the_schoolbook(values):
    mean, error = mean_and_error(values)
    for row, column in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        per_prompt = values[:, row, column].tolist()
        assert float(mean[row, column]) == pytest.approx(statistics.fmean(per_prompt))
        assert float(error[row, column]) == pytest.approx(statistics.stdev(per_prompt) / math.sqrt(5))
        assert number_and_error(values[:, row, column]) == pytest.approx(
            (float(mean[row, column]), float(error[row, column]))
        )


def test_only_prompts_that_count_are_read(values):
    where = torch.tensor([True, False, True, True, False])
    torch.testing.assert_close(mean_and_error(values, where), mean_and_error(values[where]))
    assert not torch.allclose(mean_and_error(values, where)[0], mean_and_error(values)[0])


def test_one_prompt_has_a_mean_and_no_error_and_none_has_neither(values):
    mean, error = mean_and_error(values[:1])
    assert torch.equal(mean, values[0]) and error.isnan().all() and error.shape == mean.shape
    assert all(found.isnan().all() and found.shape == (2, 3) for found in mean_and_error(values[:0]))
    assert number_and_error(values[:1, 0, 0]) == pytest.approx((float(values[0, 0, 0]), math.nan), nan_ok=True)
    assert number_and_error(values[:0, 0, 0]) == pytest.approx((math.nan, math.nan), nan_ok=True)


def test_unknown_values_are_left_out_of_the_error_of_a_column(values):
    table = values[:, 0].clone()
    table[:2, 1], table[1:, 2] = math.nan, math.nan
    error = error_where_known(table)
    for column, known in ((0, table[:, 0]), (1, table[2:, 1])):
        torch.testing.assert_close(error[column], mean_and_error(known)[1])
    assert error[2].isnan()  # one value is left


def test_a_prompt_counts_once_whatever_its_number_of_positions():
    values = torch.tensor([[[1.0, 3.0, 5.0], [7.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    mean, error = over_prompts(values, mask)
    assert (float(mean[0]), float(error[0])) == pytest.approx((5.0, 2.0))  # of 3 and 7; the third has none


@pytest.mark.parametrize("freedom", [1, 2.5, 7, 1e6, math.inf])
def test_tails_of_t_are_those_of_scipy_to_the_last_bit(freedom):
    values = np.append(np.random.default_rng(0).normal(size=200) * 5, [math.inf, -math.inf, math.nan])
    np.testing.assert_array_equal(t_above(values, freedom), t.sf(values, freedom))
    for level in (0.3, 1e-3, 1e-8):
        assert t_exceeded(level, freedom) == t.isf(level, freedom)


@pytest.mark.parametrize("n", [0, 1, 2, 270])
def test_rates_of_false_discoveries_are_those_of_scipy_to_the_last_bit(n):
    p_values = np.random.default_rng(n).uniform(size=n) ** 3
    p_values[: n // 3] = 0.0
    p_values[n // 3 : n // 2] = 0.25
    np.testing.assert_array_equal(false_discovery_rates(p_values), false_discovery_control(p_values))
