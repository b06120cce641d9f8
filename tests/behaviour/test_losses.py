import math

import numpy as np
import pytest
import torch

from induction_lab.behaviour.losses import copy_masks, loss_derivative, loss_per_token
from induction_lab.training.loss import training_loss


def test_loss_is_minus_the_log_probability_of_the_next_token():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    slow = [[-logits[b, t].log_softmax(-1)[tokens[b, t + 1]] for t in range(4)] for b in range(2)]
    torch.testing.assert_close(loss_per_token(logits, tokens), torch.tensor(slow))


def test_flat_logits_lose_the_log_of_the_vocabulary():
    losses = loss_per_token(torch.zeros(1, 3, 64), torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(losses, torch.full((1, 2), math.log(64)))


def test_copy_masks_leave_out_the_first_token_of_each_copy():
    # positions predicted: 1 2 3 | gap 4 5 | 6 7 8; the first of each copy cannot be foreseen
    first, second = copy_masks(3, 2, gap=2)
    assert (1 + first.nonzero()[:, 0]).tolist() == [2, 3]
    assert (1 + second.nonzero()[:, 0]).tolist() == [7, 8]


@pytest.mark.parametrize("factor", [1.2, 1.5, 3.0])
def test_the_loss_derivative_of_a_line_in_ln_i_is_its_slope_at_every_index(factor):
    index = torch.arange(1, 400, dtype=torch.float64)
    slope = loss_derivative(5 - 0.7 * index.log(), factor=factor)
    torch.testing.assert_close(slope, torch.full_like(slope, -0.7), atol=1e-9, rtol=0)


def test_the_loss_derivative_is_zero_where_context_does_not_help():
    torch.testing.assert_close(loss_derivative(torch.full((63,), 4.14)), torch.zeros(63).double(), atol=1e-6, rtol=0)


def test_the_loss_derivative_is_the_slope_of_a_line_fitted_to_the_window():
    loss = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss[[4, 20]] = torch.nan
    slopes = loss_derivative(loss, factor=1.43)
    for i in range(1, 41):
        window = [j for j in range(1, 41) if (i / 1.43 <= j <= i * 1.43 or abs(i - j) == 1) and not loss[j - 1].isnan()]
        slow = np.polyfit(np.log(window), [loss[j - 1] for j in window], 1)[0]
        assert float(slopes[i - 1]) == pytest.approx(slow, abs=1e-8)


def test_noise_averages_out_of_the_loss_derivative_where_the_window_is_wide():
    index = torch.arange(1, 2001, dtype=torch.float64)
    noise = 0.1 * torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = 5 - 0.3 * index.log() + noise
    assert (loss_derivative(loss)[500:] + 0.3).abs().max() < 0.08
    assert (torch.diff(loss) / torch.diff(index.log()) + 0.3)[500:].abs().max() > 100  # without smoothing


def test_a_loss_derivative_needs_two_entries_and_a_window():
    assert loss_derivative(torch.tensor([1.0])).isnan().all()
    assert loss_derivative(torch.tensor([1.0, torch.nan, torch.nan, torch.nan])).isnan().all()
    with pytest.raises(ValueError, match="`factor` must be above 1, got 1.0"):
        loss_derivative(torch.zeros(3), factor=1.0)


@pytest.mark.parametrize("rows", [1, 7, 1024, 2500])
def test_training_loss_is_the_mean_cross_entropy_and_so_are_its_gradients(rows):
    hidden, unembedding = torch.randn(rows, 6), torch.randn(6, 9)
    answers = torch.randint(9, (rows,))
    found, expected = [], []
    for dtype, loss, into in [(torch.float32, training_loss, found), (torch.float64, slow_loss, expected)]:
        x, weights = (tensor.detach().to(dtype, copy=True).requires_grad_() for tensor in (hidden, unembedding))
        value = loss(x, weights, answers)
        (3 * value).backward()  # not only where the gradient from above is 1
        into += [value.detach().float(), x.grad.float(), weights.grad.float()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def slow_loss(hidden, unembedding, answers):
    return torch.nn.functional.cross_entropy(hidden @ unembedding, answers)


def test_training_loss_of_double_precision_has_the_slopes_of_small_steps():
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64)
    unembedding, answers = torch.randn(4, 6, dtype=torch.float64), torch.randint(6, (5,))
    x = hidden.clone().requires_grad_()
    training_loss(x, unembedding, answers).backward()
    assert x.grad.dtype == torch.float64
    for row, column in [(0, 0), (3, 2), (4, 3)]:
        step = torch.zeros_like(hidden)
        step[row, column] = 1e-4
        slope = (slow_loss(hidden + step, unembedding, answers) - slow_loss(hidden - step, unembedding, answers)) / 2e-4
        torch.testing.assert_close(x.grad[row, column], slope, atol=1e-6, rtol=1e-5)


def test_training_loss_in_bfloat16_is_near():
    torch.manual_seed(0)
    hidden, unembedding = torch.randn(1500, 16), torch.randn(16, 9)
    answers, found = torch.randint(9, (1500,)), []
    for narrow in (False, True):
        x, weights = hidden.clone().requires_grad_(), unembedding.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            value = training_loss(x, weights, answers)
        value.backward()
        assert x.grad.dtype == weights.grad.dtype == value.dtype == torch.float32
        found.append((value.detach(), x.grad * 1500, weights.grad))
    for exact, near in zip(*found, strict=True):
        assert (exact - near).norm() / exact.norm() < 0.01
    assert not torch.equal(found[0][0], found[1][0])


def test_training_loss_survives_large_logits():
    value = training_loss(torch.full((2, 1), 1.0), torch.tensor([[1e4, -1e4]]), torch.tensor([0, 1]))
    torch.testing.assert_close(value, torch.tensor(1e4))
