"""Words that come with the package, and what tokenizers make of them where they stand."""

import tomllib

import pytest
from worded import tokenizer_of

from induction_lab.data.word_lists import WORDS, load_words, tokens_behind


@pytest.mark.parametrize("path", sorted(WORDS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_list_is_read_by_its_name(path):
    assert load_words(path.stem) == tomllib.loads(path.read_text(encoding="utf-8"))


def test_a_list_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match=r"No words 'verbs' come with the package; there are .*entities"):
        load_words("verbs")


def test_entities_are_many_and_each_there_once():
    names = [name for kind in load_words("entities").values() for name in kind]
    assert len(names) == len(set(names)) > 400
    assert all(name == " ".join(name.split()) for name in names)


def test_tokens_behind_are_those_of_the_words_where_they_stand(smollm2):
    tokenizer = smollm2.tokenizer
    behind = tokens_behind(tokenizer, "We went to", " Buenos Aires")
    assert tokenizer.decode(behind) == " Buenos Aires"
    assert behind != tokens_behind(tokenizer, "", "Buenos Aires")
    assert tokens_behind(tokenizer, "We wen", "t") == []  # "went" is one token


def test_tokenizers_without_spaces_know_the_same_words_everywhere():
    tokenizer = tokenizer_of("We went to Rome")
    assert tokens_behind(tokenizer, "We went to", " Rome") == tokens_behind(tokenizer, "", "Rome")
