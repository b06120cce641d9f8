"""Rows that pad an embedding to a round number are no tokens: whatever goes over the vocabulary leaves them out."""

import pytest
import torch
from families import D_VOCAB, random_network
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from induction_lab import (
    HookedModel,
    attribute_logits,
    find_circuit,
    ov_copying,
    ov_self_copying,
    qk_diagonal,
    qk_matching,
    repeated_tokens,
    score_heads,
    skip_trigrams,
)

N_REAL = 200


def tokenizer():
    """As many tokens as are real, and nothing more."""
    words = {f"word{token}": token for token in range(N_REAL)}
    made = Tokenizer(WordLevel(words, unk_token="word0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="word1", eos_token="word1")


def padded_and_cut(family):
    """A model whose last rows pad its vocabulary, and the same without them."""
    padded, cut = random_network(family), random_network(family)
    with torch.no_grad():
        for embedding in (padded.get_input_embeddings(), padded.get_output_embeddings()):
            embedding.weight[N_REAL:] = 3.0 + torch.randn_like(embedding.weight[N_REAL:])
        cut.resize_token_embeddings(N_REAL)
    models = HookedModel(padded, name="padded"), HookedModel(cut, name="cut")
    for model in models:
        model.tokenizer = tokenizer()
    return models


WEIGHTS = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))
ASKED = {
    "ov_copying": ov_copying,
    "ov_self_copying": lambda model: ov_self_copying(model, k=5),
    "qk_matching": lambda model: qk_matching(model, WEIGHTS, offset=3),
    "qk_diagonal": lambda model: qk_diagonal(model, WEIGHTS, k=5, offset=3),
    "own tokens": lambda model: qk_diagonal(model, k=5),
    "scores": lambda model: score_heads(model, prompts(model), scores=["logit_attribution", "copying"], loss=False),
    "attribution": lambda model: attribute_logits(model, prompts(model)).heads(),
    "circuit": lambda model: find_circuit(model, prompts(model)).edges,
    "skip-trigrams": lambda model: skip_trigrams(model, "L0H1", n=5, offset=1),
}


def prompts(model):
    return repeated_tokens(model, n_prompts=3, period=8)


def numbers(found):
    if isinstance(found, torch.Tensor):
        return found
    table = found.to_dataframe() if hasattr(found, "to_dataframe") else found
    return torch.tensor(table.select_dtypes("number").dropna(axis=1).to_numpy(dtype="float64"))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # embedding and unembedding apart; one for both
def test_rows_that_pad_the_vocabulary_change_nothing(family, asked):
    padded, cut = padded_and_cut(family)
    assert (padded.d_vocab, cut.d_vocab) == (D_VOCAB, N_REAL)
    found, expected = (numbers(ASKED[asked](model)) for model in (padded, cut))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    padded.tokenizer = None  # then nothing says which rows are tokens
    if asked in ("ov_copying", "qk_matching"):
        assert (numbers(ASKED[asked](padded)) - expected).abs().max() > 1e-2
