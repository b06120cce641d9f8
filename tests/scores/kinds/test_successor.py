"""Successor heads: against whole circuits, heads by hand, and tokenizers that know some of the words."""

import pytest
import torch
from families import random_network
from worded import tokenizer_of

from induction_lab import FoldedWeights, HookedModel, score_heads, stream_rows
from induction_lab.data.word_lists import load_words
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionLayer, AttentionOnlyTransformer
from induction_lab.scores.kinds.successor import Successor

LISTS = load_words("ordinals")
WORDS = " ".join(word for name in ("weekdays", "months", "ordinals") for word in LISTS[name])


def worded(network, words=WORDS) -> HookedModel:
    return HookedModel(network, tokenizer_of(words), name="worded")


def slow(model):
    """The share from whole rows of every head, with words looked up one by one."""
    folded, tokenizer = FoldedWeights(model), model.tokenizer
    found = torch.full((model.n_layers, model.n_heads), torch.nan)
    for layer in model.anatomy.attending:
        rows = stream_rows(model, "effective" if layer and model.anatomy.has_mlps else "embedding")
        _, _, W_V, W_O = folded.layer(layer)
        for head in range(model.n_heads):
            circuit = rows @ W_V[head * model.n_kv_heads // model.n_heads] @ W_O[head] @ folded.readers.mT
            right = []
            for name in ("ordinals", "weekdays", "months"):
                tokens = [tokenizer.convert_tokens_to_ids(word) for word in LISTS[name]]
                for one, other in zip(tokens, tokens[1:], strict=False):
                    right.append(max(tokens, key=lambda token, one=one: float(circuit[one, token])) == other)
            found[layer, head] = sum(right) / len(right)
    return found


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gptj"])
def test_the_share_is_that_of_whole_circuits(family):
    model = worded(random_network(family))
    found = score_heads(model, scores="successor", loss=False)
    torch.testing.assert_close(found["successor"], slow(model), atol=1e-5, rtol=0)
    assert found.uniform["successor"] == pytest.approx((6 / 7 + 11 / 12 + 19 / 20) / 36)
    assert abs(float(found["successor"].mean()) - found.uniform["successor"]) < 0.1


def by_hand(step: int) -> HookedModel:
    """Attending to a word raises the one so many steps on in its list."""
    tokenizer = tokenizer_of(WORDS)
    n = len(tokenizer)
    shape = {"n_layers": 1, "n_heads": 2, "d_model": 2 * n, "d_head": n, "d_vocab": n, "n_ctx": 16}
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**shape, positions="none", layer_norm=False))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.embed.W_E[:, :n], network.unembed.W_U[n:] = torch.eye(n), torch.eye(n)
        layer = next(module for module in network.modules() if isinstance(module, AttentionLayer))
        layer.W_V[0, :n] = torch.eye(n)
        for words in LISTS.values():
            known = [tokenizer.convert_tokens_to_ids(word) for word in words]
            for one, other in zip(known, known[step:], strict=False):
                layer.W_O[0, one, n + other] = 1.0
    return HookedModel(network.eval(), tokenizer, name="by hand")


def test_a_successor_head_scores_one_and_a_copying_or_an_idle_head_nothing():
    found = score_heads(by_hand(1), scores="successor", loss=False)["successor"]
    assert found.tolist() == [[1.0, 0.0]]
    assert score_heads(by_hand(0), scores="successor", loss=False)["successor"].tolist() == [[0.0, 0.0]]


def test_words_behind_a_space_are_a_list_of_their_own_and_gaps_ask_for_nothing(smollm2):
    orders = Successor({"days": LISTS["weekdays"], "digits": LISTS["digits"]}).orders(smollm2)
    texts = [[smollm2.tokenizer.decode([token]) for token in order.tokens] for order in orders]
    assert texts[:2] == [LISTS["weekdays"], [f" {day}" for day in LISTS["weekdays"]]]
    assert texts[2] == list("0123456789") and len(orders) == 3  # two digits are two tokens
    (order,) = Successor({"days": ["Monday", "Tuesdayish", "Wednesday", "Thursday"]}).orders(smollm2)[:1]
    assert len(order.tokens) == 3 and order.asked == (1,)


def test_models_without_words_or_with_too_few_are_refused_with_the_reason(small):
    with pytest.raises(ValueError, match="successor: it reads words, and this model has no tokenizer"):
        score_heads(small, scores="successor")
    few = worded(random_network("llama"), "Monday Tuesday Wednesday Thursday Friday")
    with pytest.raises(ValueError, match="only 4 ordinals are single tokens here, as are their successors; 20 are"):
        score_heads(few, scores="successor")
    own = Successor({"days": ["Monday", "Friday"]})
    with pytest.raises(ValueError, match="successor: only 1 ordinals"):
        score_heads(few, scores=own)
