import itertools
import subprocess
import sys

import pytest

from induction_lab.results.heads import Head, other_heads, parse_head, parse_heads


@pytest.mark.parametrize(
    "written", ["L5H1", "l5h1", "5.1", "5-1", "5:1", "(5, 1)", "(5,1)", "5, 1", (5, 1), Head(5, 1)]
)
def test_every_usual_way_to_write_a_head_is_read(written):
    assert parse_head(written) == Head(5, 1)


def test_a_head_prints_as_people_write_it():
    assert str(Head(18, 6)) == f"{Head(18, 6)}" == "L18H6"


@pytest.mark.parametrize(
    "written", ["", "L5", "H1", "five.one", "5.1.2", (5,), (5, -1), (5, 1, 2), (True, False), "-5.1"]
)
def test_what_is_no_head_is_refused_with_what_to_write(written):
    with pytest.raises(ValueError, match="Write L5H1"):
        parse_head(written)


def test_heads_that_the_model_lacks_are_refused():
    with pytest.raises(ValueError, match="layers 0 to 1"):
        parse_head("2.0", n_layers=2, n_heads=4)
    with pytest.raises(ValueError, match="heads 0 to 3"):
        parse_head("1.4", n_layers=2, n_heads=4)


@pytest.mark.parametrize(
    "several",
    ["L1H0 0.2", "1.0;0.2", "L1H0,L0H2", "l1h0, L0H2", "(1, 0) (0, 2)", ["L1H0", (0, 2)], [Head(1, 0), "0:2"]],
)
def test_several_heads_keep_their_order(several):
    assert parse_heads(several) == [Head(1, 0), Head(0, 2)]


def test_one_head_is_a_list_of_one():
    assert parse_heads((5, 1)) == parse_heads("L5H1") == [Head(5, 1)]


def test_a_head_given_twice_is_refused():
    with pytest.raises(ValueError, match="L1H0 more than once"):
        parse_heads(["1.0", "L1H0"])


def test_what_is_no_head_is_refused_by_name_and_numbers_of_numpy_are_numbers():
    """In a process of its own: here annotations are checked first."""
    code = """
import numpy as np
from induction_lab.results.heads import parse_heads
for heads in (3, [3], [0, 1], [None]):
    try:
        parse_heads(heads)
    except ValueError as error:
        assert "No head is written" in str(error)
    else:
        raise AssertionError(heads)
assert str(parse_heads([(np.int64(5), np.int64(1))])[0]) == "L5H1"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_other_heads_are_as_many_of_the_same_layers_and_every_set_is_another():
    heads = [Head(0, 1), Head(2, 0), Head(2, 3)]
    sets = other_heads(heads, 6, 10, seed=1)
    assert len(sets) == len({tuple(some) for some in sets}) == 10
    for some in sets:
        assert [head.layer for head in some] == [0, 2, 2] and not {*some} & {*heads} and len({*some}) == 3
    assert sets == other_heads(heads, 6, 10, seed=1) != other_heads(heads, 6, 10, seed=2)


def test_where_there_are_few_others_all_sets_of_them_are_given():
    assert other_heads([Head(1, 0)], 3, 10) == [[Head(1, 1)], [Head(1, 2)]]
    assert other_heads([Head(1, 0), Head(1, 2), Head(0, 0)], 3, 10) == [
        [Head(0, first), Head(1, 1)] for first in (1, 2)
    ]
    pairs = [[Head(4, first), Head(4, second)] for first, second in itertools.combinations([1, 2, 4], 2)]
    assert other_heads([Head(4, 0), Head(4, 3)], 5, 3) == pairs
    assert other_heads([Head(1, i) for i in range(3)], 3, 10) == [] == other_heads([Head(1, 0)], 3, 0)
