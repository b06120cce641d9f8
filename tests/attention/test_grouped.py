import pytest
import torch

from induction_lab.attention.grouped import by_group, key_head, to_query_heads


def groups(n_heads, n_kv_heads):
    """The obvious loop: key-value heads in order, each read by as many query heads as the others."""
    return [kv_head for kv_head in range(n_kv_heads) for _ in range(n_heads // n_kv_heads)]


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(9, 3), (4, 4), (6, 1), (8, 2)])
def test_every_query_head_reads_the_key_head_of_its_group(n_heads, n_kv_heads):
    expected = groups(n_heads, n_kv_heads)
    assert [key_head(head, n_heads, n_kv_heads) for head in range(n_heads)] == expected
    assert key_head(torch.arange(n_heads), n_heads, n_kv_heads).tolist() == expected


@pytest.mark.parametrize("dim", [0, 1, -2])
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(9, 3), (4, 4), (6, 1)])
def test_keys_repeated_for_query_heads_are_those_that_each_reads(n_heads, n_kv_heads, dim):
    keys = torch.randn(2, n_kv_heads, 5).movedim(1, dim)
    found = to_query_heads(keys, n_heads, dim=dim)
    assert found.shape[dim] == n_heads
    for head, kv_head in enumerate(groups(n_heads, n_kv_heads)):
        assert torch.equal(found.select(dim, head), keys.select(dim, kv_head))


def test_without_groups_nothing_is_copied():
    keys = torch.randn(2, 4, 5)
    assert to_query_heads(keys, 4, dim=1) is keys


def test_by_group_query_heads_stand_beside_those_that_share_their_key_head():
    queries, expected = torch.randn(2, 9, 5), groups(9, 3)
    found = by_group(queries, 3)
    for head, kv_head in enumerate(expected):
        place = expected[:head].count(kv_head)
        assert torch.equal(found[:, kv_head, place], queries[:, head])


def test_query_heads_that_make_no_equal_groups_are_refused():
    with pytest.raises(RuntimeError):
        by_group(torch.randn(1, 7, 2), 3)
