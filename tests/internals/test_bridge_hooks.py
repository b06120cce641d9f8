import torch

from induction_lab.internals.bridge_hooks import by_head


def test_heads_side_by_side_and_by_head_are_the_same_view():
    x = torch.randn(2, 5, 3, 4)
    expected = torch.stack([torch.stack([x[b, :, h] for h in range(3)]) for b in range(2)])
    assert torch.equal(by_head(x, 3), expected) and torch.equal(by_head(x.reshape(2, 5, 12), 3), expected)
    by_head(x, 3)[0, 1, 2] = 7.0  # a view, so that what is written into it is seen
    assert (x[0, 2, 1] == 7.0).all()
