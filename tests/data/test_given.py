"""Whatever people give as prompts is the same prompts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BatchEncoding

from induction_lab import HookedModel, Prompts, capture, find_circuit, lag_profile, repeated_tokens, score_heads
from induction_lab.data.prompts import as_prompts, as_repeats, text_prompts

ROWS = [[1, 20, 21, 22, 20, 21], [1, 30, 31, 30], [1, 40, 40]]
LENGTHS = [6, 4, 3]
PAD = 0


class Words:
    """A tokenizer of one letter a token, `^` for BOS, whose chat template writes BOS itself."""

    all_special_ids, bos_token_id, eos_token_id, pad_token_id = [0, 1, 2], 1, 2, PAD
    chat_template = "{{ messages }}"

    def __len__(self):
        return 100

    def __call__(self, text, add_special_tokens, verbose=True):
        return {"input_ids": [1] * add_special_tokens + [1 if c == "^" else ord(c) - 60 for c in text]}

    def apply_chat_template(self, messages, tokenize):
        if messages[0]["role"] == "alien":
            raise RuntimeError("roles must alternate")
        return "^" + "".join(message["content"] for message in messages)


def vocabulary(tokenizer=None, **changed):
    facts = {"d_vocab": 100, "n_ctx": 64, "bos_token_id": 1, "pad_token_id": PAD}
    return SimpleNamespace(**{**facts, "tokenizer": tokenizer, **changed})


def padded(side):
    rows, mask = torch.full((3, 6), PAD), torch.zeros(3, 6, dtype=torch.long)
    for i, row in enumerate(ROWS):
        at = slice(6 - len(row), 6) if side == "left" else slice(0, len(row))
        rows[i, at], mask[i, at] = torch.tensor(row), 1
    return rows, mask


class Column:
    """As a column of `datasets`: has a length, gives rows, is no list."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)


GIVEN = {
    "lists": ROWS,
    "tuples": tuple(map(tuple, ROWS)),
    "arrays": [np.array(row, dtype=np.int32) for row in ROWS],
    "tensors": [torch.tensor(row) for row in ROWS],
    "column": Column(ROWS),
    "series": pd.Series(ROWS),
    "objects": np.array(ROWS, dtype=object),
    "ragged encoding": BatchEncoding({"input_ids": ROWS, "attention_mask": [[1] * len(row) for row in ROWS]}),
    "rows of a data set": [{"input_ids": row, "attention_mask": [1] * len(row)} for row in ROWS],
    "padded on the right": dict(zip(("input_ids", "attention_mask"), padded("right"), strict=True)),
    "padded on the left": BatchEncoding(dict(zip(("input_ids", "attention_mask"), padded("left"), strict=True))),
    "arrays with a mask": {"input_ids": padded("left")[0].numpy(), "attention_mask": padded("left")[1].bool().numpy()},
    "prompts padded on the left": Prompts(padded("left")[0], torch.tensor(LENGTHS)),
    "prompts padded on the right": Prompts(padded("right")[0], torch.tensor(LENGTHS)),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_rows_of_any_make_are_the_same_prompts(kind):
    found = as_prompts(vocabulary(), GIVEN[kind])
    assert found.lengths.tolist() == LENGTHS and found.tokens.shape == (3, 6) and found.has_bos
    assert [row[:n].tolist() for row, n in zip(found.tokens, LENGTHS, strict=True)] == ROWS


@pytest.mark.parametrize("given", [ROWS[:1], ROWS[0], np.array(ROWS[0]), torch.tensor(ROWS[:1]), Column(ROWS[:1])])
def test_rows_of_one_length_have_no_padding(given):
    found = as_prompts(vocabulary(), given)
    assert found.lengths is None and found.tokens.tolist() == ROWS[:1]


def test_a_real_column_of_datasets():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"input_ids": ROWS, "text": ["ab", "cd", "ef"]})
    assert as_prompts(vocabulary(), table["input_ids"]).lengths.tolist() == LENGTHS
    assert as_prompts(vocabulary(), table).lengths.tolist() == LENGTHS
    assert as_prompts(vocabulary(Words()), table["text"]).tokens[:, 1].tolist() == [37, 39, 41]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (padded("left")[0], r"Prompt 1 begins with 2 times token 0, which is padding"),
        (padded("right")[0].tolist(), "Prompt 1 ends with 2 times token 0"),
        (Prompts(padded("left")[0]), "begins with 2 times"),
        ([[1, 2], []], "an empty row"),
        ([[1, 2], [1, 2.5]], "rows of token ids"),
        ([[1, 2], 3], "rows of token ids"),
        ([[[1, 2]], [[3, 4]]], "rows of token ids"),
        (np.array([[1.0, 2.0]]), "whole numbers"),
        ({"ids": [1, 2]}, "`input_ids`, got one of ids"),
        ({"input_ids": [[1, 2]], "attention_mask": [[1, 1, 1]]}, "attention_mask"),
        ({"input_ids": [[1, 5, 6]], "attention_mask": [[1, 0, 1]]}, "padding between"),
        ({"input_ids": [[1, 5], [1, 6]], "attention_mask": [[1, 1], [0, 0]]}, "Prompt 1 holds padding alone"),
        ({"input_ids": [[1, 5]], "attention_mask": [[1, 7]]}, "is 1 at tokens and 0 at padding"),
        (Prompts(torch.ones(2, 4).long(), torch.tensor([4, 5])), "from 1 to 4"),
    ],
)
def test_what_cannot_be_told_is_refused_with_one_message(given, message):
    with pytest.raises(ValueError, match=message):
        as_prompts(vocabulary(), given)


def test_a_padding_token_that_no_prompt_holds_is_seen_alone_too():
    with pytest.raises(ValueError, match="ends with 1 times token 0"):
        as_prompts(vocabulary(Words()), [[1, 5, 6], [1, 5, 0]])
    end = Words()
    end.pad_token_id = end.eos_token_id
    kept = as_prompts(vocabulary(end, pad_token_id=2), [[1, 5, 6], [1, 5, 2]])  # an end of text is no padding
    assert kept.tokens.tolist() == [[1, 5, 6], [1, 5, 2]]
    both = [[1, 1, 1, 5], [1, 5, 6, 7]]  # padding is BOS, as in GPT-2
    with pytest.raises(ValueError, match="begins with 3 times token 1"):
        as_prompts(vocabulary(end, pad_token_id=1), both)
    assert (
        as_prompts(vocabulary(end, pad_token_id=1), Prompts(torch.tensor(both), torch.tensor([4, 4]))).lengths
        is not None
    )


def test_of_two_bos_one_is_left():
    doubled = Words()("^abcd", add_special_tokens=True)["input_ids"]
    assert doubled[:2] == [1, 1]
    found = as_prompts(vocabulary(Words()), {"input_ids": [doubled, [1, *doubled[2:], 9]]})
    assert found.tokens.tolist() == [[1, 37, 38, 39, 40, 1], [1, 37, 38, 39, 40, 9]] and found.lengths.tolist() == [
        5,
        6,
    ]
    assert text_prompts(vocabulary(Words()), "^^ab").tokens.tolist() == [[1, 37, 38]]
    untouched = Prompts(torch.tensor([doubled]))
    assert as_prompts(vocabulary(Words()), untouched) is untouched


def test_messages_are_written_by_the_chat_template():
    chat = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
    one, two = as_prompts(vocabulary(Words()), chat), as_prompts(vocabulary(Words()), [chat, chat[:1]])
    assert one.tokens.tolist() == [[1, 37, 38, 39, 40]] and one.kind == "text"
    assert two.lengths.tolist() == [5, 3]
    plain = Words()
    plain.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        as_prompts(vocabulary(plain), chat)
    with pytest.raises(ValueError, match="roles must alternate"):
        as_prompts(vocabulary(Words()), [{"role": "alien", "content": "ab"}])


def test_what_holds_no_bos_is_not_said_to():
    assert not as_prompts(vocabulary(), [[5, 6, 5, 6]]).has_bos
    assert as_prompts(vocabulary(Words()), [[2, 6, 5, 6]]).has_bos  # end-of-text in its place


def test_left_padding_measures_what_no_padding_does(llama):
    tokens = repeated_tokens(llama, n_prompts=2, period=8).tokens
    left = {
        "input_ids": torch.cat([torch.zeros(2, 7).long(), tokens], 1),
        "attention_mask": torch.cat([torch.zeros(2, 7).long(), torch.ones_like(tokens)], 1),
    }
    names = ["prefix_matching", "previous_token", "resting", "logit_attribution"]
    one, other = (score_heads(llama, given, scores=names) for given in (tokens, left))
    for name in names:
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=1e-6)
    assert one.loss == pytest.approx(other.loss, abs=1e-6)
    with pytest.raises(ValueError, match="begins with 7 times token 0"):
        score_heads(llama, left["input_ids"])


def test_lists_are_taken_wherever_prompts_are(llama, bundled):
    tokens = repeated_tokens(llama, n_prompts=2, period=8).tokens
    acts, expected = capture(llama, tokens.tolist(), ["pattern"]), capture(llama, tokens, ["pattern"])
    assert torch.equal(acts["pattern", 1], expected["pattern", 1])
    assert lag_profile(llama, tokens.numpy()).equals(lag_profile(llama, tokens))
    blocks = repeated_tokens(bundled, n_prompts=4, period=12)
    assert as_repeats(bundled, blocks.tokens.numpy()).period == 12
    assert find_circuit(bundled, blocks.tokens.tolist()).edges.equals(find_circuit(bundled, blocks).edges)


def test_real_tokenizers_and_templates(smollm2: HookedModel):
    tokenizer = smollm2.tokenizer
    chat = [{"role": "user", "content": "Say the same again."}]
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    assert torch.equal(as_prompts(smollm2, chat).tokens, as_prompts(smollm2, written).tokens)
    side, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        read = tokenizer(["one two three four", "one two"], padding=True, return_tensors="pt")
    finally:
        tokenizer.padding_side = side
    found = as_prompts(smollm2, read)
    assert found.lengths.tolist() == read["attention_mask"].sum(1).tolist()
    for ids, row, n in zip(read["input_ids"], found.tokens, found.lengths, strict=True):
        assert torch.equal(row[:n], ids[-n:])
