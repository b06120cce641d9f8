from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from induction_lab.data.prompts import (
    Prompts,
    as_prompts,
    distinct_tokens,
    ordinary_tokens,
    repeated_tokens,
    text_prompts,
)


class Words:
    """A tokenizer of one letter a token, with the parts that prompts ask for."""

    all_special_ids = [1, 2]
    added_tokens_decoder = {0: "<unk>", 1: "<s>", 2: "</s>"}

    def __len__(self):
        return 90

    def __call__(self, text, add_special_tokens, verbose=True):
        assert not add_special_tokens  # BOS comes from us, once
        return {"input_ids": [1] * text.startswith("<s>") + [ord(c) - 30 for c in text.removeprefix("<s>")]}


def vocabulary(d_vocab=100, n_ctx=128, bos=1, tokenizer=None):
    return SimpleNamespace(d_vocab=d_vocab, n_ctx=n_ctx, bos_token_id=bos, tokenizer=tokenizer)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(2, 4), st.integers(0, 6), st.integers(0, 3))
def test_repeated_tokens_are_bos_and_equal_copies_of_distinct_tokens(period, n_repeats, gap, seed):
    made = repeated_tokens(vocabulary(), n_prompts=3, period=period, n_repeats=n_repeats, gap=gap, seed=seed)
    assert made.tokens.shape == (3, 1 + period * n_repeats + gap * (n_repeats - 1))
    assert (made.tokens[:, 0] == 1).all()
    for row in made.tokens[:, 1:]:
        copies = [row[start : start + period] for start in range(0, len(row), period + gap)]
        assert len(copies) == n_repeats and all(torch.equal(copy, copies[0]) for copy in copies)
        between = [row[start + period : start + period + gap] for start in range(0, len(row) - period, period + gap)]
        distinct = torch.cat([copies[0], *between])
        assert len(distinct.unique()) == len(distinct) and 1 not in distinct


def test_the_same_seed_gives_the_same_prompts_and_another_others():
    first, again, other = (repeated_tokens(vocabulary(), seed=seed).tokens for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_drawing_leaves_the_global_random_state_alone():
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    repeated_tokens(vocabulary())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_distinct_tokens_repeat_nothing():
    made = distinct_tokens(vocabulary(), length=99)
    assert all(len(row.unique()) == 100 for row in made.tokens)


def test_special_common_and_rare_tokens_are_not_drawn():
    ids = ordinary_tokens(vocabulary(d_vocab=50_000))
    assert ids.min() == 1000 and ids.max() == 45_999
    ids = ordinary_tokens(vocabulary(tokenizer=Words())).tolist()
    assert ids == list(range(3, 90))  # neither special tokens nor ids that the tokenizer lacks


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(period=64), "context holds 128"),
        (dict(period=0), "`period` must be at least 1"),
        (dict(n_repeats=1), "`n_repeats` must be at least 2"),
        (dict(n_prompts=0), "`n_prompts` must be at least 1"),
        (dict(gap=-1), "`gap` must not be negative"),
    ],
)
def test_impossible_repeats_are_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        repeated_tokens(vocabulary(), **asked)


def test_a_vocabulary_too_small_is_said_so():
    with pytest.raises(ValueError, match="50 distinct tokens are wanted, the vocabulary has 29"):
        repeated_tokens(vocabulary(d_vocab=30), period=50)


def test_a_prompt_as_long_as_the_context_fits():
    assert repeated_tokens(vocabulary(n_ctx=101)).tokens.shape[1] == 101


def test_text_gets_bos_once_and_is_cut_and_padded():
    made = text_prompts(vocabulary(tokenizer=Words()), ["abcdefgh", "<s>ab"], length=6)
    assert made.lengths.tolist() == [6, 4, 3]
    assert made.tokens[0].tolist() == [1, *(ord(c) - 30 for c in "abcde")]
    assert (made.tokens == 1).sum(1).tolist() == [1, 3, 4]  # BOS, and padding after the text
    assert len(text_prompts(vocabulary(tokenizer=Words()), "abcdefgh", length=5, n_prompts=1)) == 1


def test_text_without_a_tokenizer_or_without_text_is_refused():
    with pytest.raises(ValueError, match="no tokenizer"):
        as_prompts(vocabulary(), "hello")
    with pytest.raises(ValueError, match="empty"):
        text_prompts(vocabulary(tokenizer=Words()), "")
    with pytest.raises(ValueError, match="at least 2"):
        text_prompts(vocabulary(tokenizer=Words()), "ab", length=1)


def test_token_ids_are_taken_as_they_are():
    tokens = torch.tensor([[1, 99, 0, 99]])
    assert torch.equal(as_prompts(vocabulary(), tokens).tokens, tokens)
    assert torch.equal(as_prompts(vocabulary(), tokens[0].int()).tokens, tokens)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([[1, 100]]), r"must lie in \[0, 100\), got 1 … 100"),
        (torch.tensor([[-1, 5]]), "got -1 … 5"),
        (torch.tensor([[0.5, 1.0]]), "whole numbers"),
        (torch.zeros(2, 2, 2, dtype=torch.long), "whole numbers"),
        (torch.zeros(1, 1, dtype=torch.long), "at least one token after BOS"),
        (torch.zeros(0, 5, dtype=torch.long), "at least one token"),
        (torch.zeros(1, 129, dtype=torch.long), "context holds 128"),
    ],
)
def test_bad_tokens_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        as_prompts(vocabulary(), given)


@pytest.mark.parametrize("given", [3, [1, "a"], []])
def test_what_is_neither_tokens_nor_text_is_refused(given):
    with pytest.raises((ValueError, TypeError)):
        as_prompts(vocabulary(), given)


@pytest.mark.parametrize("lengths", [None, torch.tensor([4, 2])])
def test_real_tokens_are_those_that_are_no_padding(lengths):
    prompts = Prompts(torch.zeros(2, 4, dtype=torch.long), lengths)
    slow = [[at < (4 if lengths is None else int(lengths[row])) for at in range(4)] for row in range(2)]
    assert prompts.real.tolist() == slow
    assert prompts.real_lengths.tolist() == [sum(row) for row in slow]
