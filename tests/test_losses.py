import math

import torch

from induction_lab.losses import copy_masks, loss_per_token


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
