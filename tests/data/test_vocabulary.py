"""Labels are made of every token that a model has logits for, whatever its tokenizer can say of it."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from induction_lab import HookedModel, head_gallery, repeated_tokens, score_heads, skip_trigrams, text_prompts
from induction_lab.results.token_labels import token_labels

FEW = 40  # tokens of the tokenizer; the model has logits for 128


def short_tokenizer():
    words = {f"w{i}": i for i in range(FEW)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w1")), unk_token="w1")


class Stubborn:
    """A tokenizer that fails at anything but making tokens, and does not list them."""

    all_special_ids = ()

    def __len__(self):
        return 128

    def decode(self, ids):
        raise OverflowError("cannot decode")

    def convert_ids_to_tokens(self, token):
        raise IndexError("piece id is out of range")

    def __call__(self, text, **_):
        return {"input_ids": [3 + ord(c) % 100 for c in text]}


@pytest.mark.parametrize("tokenizer", [short_tokenizer(), Stubborn()])
def test_what_cannot_be_decoded_is_called_by_its_number(tokenizer):
    model = HookedModel(head_gallery(d_vocab=128), tokenizer)
    known = isinstance(tokenizer, PreTrainedTokenizerFast)
    assert token_labels(tokenizer, [99, 5]) == ["99", "w5" if known else "5"]
    prompts = repeated_tokens(model, n_prompts=1, period=6)
    beyond = type(prompts)(prompts.tokens.clone())
    beyond.tokens[0, 1] = 99
    assert model.token_labels(beyond)[:2] == ["BOS", "99"]
    found = skip_trigrams(model, "L0H1")
    assert len(found) and found["text"].str.len().min() > 0
    scores = score_heads(model, prompts, scores=["previous_token"])
    assert (scores.provenance["tokenizer_sha256"] is None) != known


def test_a_stubborn_tokenizer_reads_all_the_same():
    assert text_prompts(HookedModel(head_gallery(d_vocab=128), Stubborn()), "abc").tokens.shape == (1, 4)
