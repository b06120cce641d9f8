"""Prompts with marks stay together with them, whichever of them are taken."""

import torch

from induction_lab.data.marked import MarkedPrompts, marked

ROWS = [[7, 1, 2, 3, 4], [7, 5, 6], [7, 8]]


def test_rows_of_any_lengths_become_prompts_padded_on_the_right():
    prompts = marked(ROWS, [[1, 2], [2, 3], [1, 1]], kind="needle", seed=3)
    assert prompts.kind == "needle" and prompts.seed == 3 and prompts.real_lengths.tolist() == [5, 3, 2]
    assert [row[:n].tolist() for row, n in zip(prompts.tokens, prompts.real_lengths, strict=True)] == ROWS
    assert marked(ROWS[:1], [[1]]).lengths is None


def test_some_of_them_keep_their_marks_and_only_the_padding_that_they_need():
    prompts = marked(ROWS, [[1, 2], [2, 3], [1, 1]])
    some = prompts[1:]
    assert isinstance(some, MarkedPrompts) and some.marks.tolist() == [[2, 3], [1, 1]]
    assert some.tokens.tolist() == [[7, 5, 6], [7, 8, 0]] and some.real_lengths.tolist() == [3, 2]
    assert torch.equal(prompts[:1].tokens, torch.tensor(ROWS[:1]))
    assert len(prompts[3:]) == 0
