"""Tokens as people read them: what was written can be read off them, whatever the vocabulary is made of."""

import re

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from induction_lab import HookedModel, compare_predictions, head_gallery, induction_activity, repeated_tokens
from induction_lab.results.token_labels import token_labels

TEXT = "今天是星期日，日本 😀 한국어 \ufffd नमस्ते “q” 👩‍💻"


def byte_level(merges=()):
    """Every byte a token, as in GPT-2's vocabulary before its merges; `merges` in that vocabulary's alphabet."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    made = Tokenizer(models.BPE(vocabulary, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def byte_fallback():
    """Letters of its own, bytes for the rest, as SentencePiece writes them."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "q", "日", "▁日"]
    made = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [("▁", "日")], byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made)


def whole(labels):
    """The text that labels were made of: each character once, where its first part is."""
    text = "".join(labels)
    return re.sub(r"(\\u\w{4}|.)¹⁄([₁-₄])|(\\u\w{4}|.)[²³⁴]⁄[₁-₄]", lambda found: found[1] or "", text)


@pytest.mark.parametrize("tokenizer", [byte_level(), byte_level([("æ", "Ĺ")]), byte_fallback()])
def test_each_character_is_shown_once_for_each_of_its_parts(tokenizer):
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    labels = token_labels(tokenizer, ids)
    assert len(labels) == len(ids)
    assert whole(labels) == TEXT.replace("\u200d", "\\u200d")


def test_parts_are_counted_by_tokens_not_by_bytes():
    single, merged = byte_level(), byte_level([("æ", "Ĺ")])
    read = {
        name: token_labels(each, each("日")["input_ids"]) for name, each in (("single", single), ("merged", merged))
    }
    assert read == {"single": ["日¹⁄₃", "日²⁄₃", "日³⁄₃"], "merged": ["日¹⁄₂", "日²⁄₂"]}


def test_a_token_may_end_one_character_and_begin_the_next():
    tokenizer = byte_level([("¥", "æ")])  # 日日 is E6 97 A5 E6 97 A5
    labels = token_labels(tokenizer, tokenizer("日日")["input_ids"])
    assert labels == ["日¹⁄₃", "日²⁄₃", "日³⁄₃日¹⁄₃", "日²⁄₃", "日³⁄₃"]


def test_what_is_no_whole_character_is_shown_as_bytes():
    tokenizer = byte_level([("æ", "Ĺ")])
    begin, end = tokenizer("日")["input_ids"]
    assert token_labels(tokenizer, [begin]) == ["⟨E6 97⟩"] and token_labels(tokenizer, [end]) == ["⟨A5⟩"]
    assert token_labels(tokenizer, [end], behind=[begin]) == ["日²⁄₂"]
    assert token_labels(tokenizer, [begin, begin, end, end]) == ["⟨E6 97⟩", "日¹⁄₂", "日²⁄₂", "⟨A5⟩"]


def test_what_cannot_be_seen_is_a_sign_or_a_code():
    tokenizer = byte_level()
    labels = token_labels(tokenizer, tokenizer("a \n\t\r\x1b\\n")["input_ids"])
    assert labels == ["a", " ", "⏎", "⇥", "␍", "\\x1b", "\\", "n"]


def test_a_space_that_a_tokenizer_takes_away_is_shown():
    tokenizer = byte_fallback()
    assert token_labels(tokenizer, tokenizer("q 日 q")["input_ids"]) == ["q", " 日", " ", "q"]


def test_predictions_and_texts_show_characters_too(smollm2):
    found = induction_activity(smollm2, "今天是日 今天是日", "L18H6")
    assert found.tokens["token"].tolist()[:7] == ["BOS", "今¹⁄₂", "今²⁄₂", "天¹⁄₂", "天²⁄₂", "是", "日¹⁄₂"]
    ids = smollm2.tokenizer("日本 日", add_special_tokens=False)["input_ids"][:-1]  # half of the last character
    table = compare_predictions(smollm2, [[smollm2.bos_token_id, *ids]], "L18H6", k=3)
    assert "日³⁄₃" in set(table["token"]) and not table["token"].str.contains("\ufffd").any()


def test_prompts_show_words_and_numbers_where_there_are_none(smollm2, bundled):
    words, numbers = (repeated_tokens(model, n_prompts=2, period=3) for model in (smollm2, bundled))
    text = smollm2.tokenizer.decode([int(words.tokens[0, 1])])
    assert f"BOS│{text}│" in words._repr_html_()
    assert "│".join(["BOS", *map(str, numbers.tokens[0, 1:].tolist())]) in numbers._repr_html_()


def test_padding_is_no_part_of_a_text():
    model = HookedModel(head_gallery(d_vocab=128))
    short, padded = [[0, 5, 6, 7, 5]], {"input_ids": [[0, 5, 6, 7, 5, 0, 0]], "attention_mask": [[1] * 5 + [0] * 2]}
    alone, with_padding = (compare_predictions(model, given, "L1H0", k=3) for given in (short, padded))
    assert alone.equals(with_padding)
