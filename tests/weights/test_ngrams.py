from collections import Counter

import numpy as np
import pytest
import torch
from families import random_network

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel
from induction_lab.weights.ngrams import bigram_counts, bigram_divergence, bigram_logits, skip_trigrams
from induction_lab.weights.ov_qk import ov_circuit, qk_circuit


@pytest.mark.parametrize("layer_norm", [True, False])
def test_a_model_without_layers_is_its_bigram_table(layer_norm):
    model = HookedModel(
        AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=0, layer_norm=layer_norm, positions="none"))
    )
    tokens = torch.randint(0, 64, (2, 9))
    torch.testing.assert_close(model.logits(tokens), bigram_logits(model)[tokens], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bigram_logits(model, tokens[0]), bigram_logits(model)[tokens[0]])


def test_bigrams_are_counted():
    tokens = torch.randint(0, 5, (200,))
    slow = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist(), strict=True))
    counts = bigram_counts(tokens, 5)
    assert {(a, b): int(counts[a, b]) for a in range(5) for b in range(5) if counts[a, b]} == slow


def test_the_texts_own_table_diverges_by_nothing_and_its_unigrams_by_the_mutual_information():
    counts = torch.randint(0, 3, (6, 6)).float() * 20 + torch.eye(6)  # some pairs never occur
    own, unigram = bigram_divergence(counts, counts.log())
    assert own == pytest.approx(0, abs=1e-5)
    joint = (counts / counts.sum()).double()
    information = (joint * (joint / joint.sum(1, keepdim=True) / joint.sum(0)).log())[joint > 0].sum()
    assert unigram == pytest.approx(float(information), abs=1e-5)
    ignoring = counts.sum(0).log().expand(6, 6)
    assert bigram_divergence(counts, ignoring)[0] == pytest.approx(unigram, abs=1e-5)


def one_layer(**choices):
    return HookedModel(
        AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=1, d_vocab=12, layer_norm=False, **choices), seed=4)
    )


@torch.no_grad()
def test_skip_trigrams_are_the_strongest_of_all_triples():
    """Every source, destination and out of a small vocabulary, one by one."""
    model = one_layer()
    for parameter in model.network.parameters():
        parameter.mul_(3)
    scores = qk_circuit(model, "L0H2", offset=3, exact=True).AB
    mean = scores.exp().mean(1)
    logits = ov_circuit(model, "L0H2").AB
    logits = logits - logits.mean(1, keepdim=True)
    triples = []
    for a in range(12):
        for b in range(12):
            attention = scores[b, a].exp() / (scores[b, a].exp() + 64 * mean[b])
            triples += [(float(attention * logits[a, c]), a, b, c) for c in range(12)]
    triples.sort(reverse=True)
    table = skip_trigrams(model, "L0H2", n=10, offset=3, per_source=12)
    assert [tuple(row) for row in table[["source", "destination", "out"]].to_numpy().tolist()] == [
        triple[1:] for triple in triples[:10]
    ]
    assert table["strength"].tolist() == pytest.approx([triple[0] for triple in triples[:10]], rel=1e-3)
    some = torch.tensor([9, 2, 5])
    few = skip_trigrams(model, "L0H2", n=5, offset=3, per_source=3, among=some)
    kept = [triple for triple in triples if set(triple[1:]) <= set(some.tolist())]
    assert few["strength"].tolist() == pytest.approx([triple[0] for triple in kept[:5]], rel=1e-3)
    assert (table["attention"] * table["logit"]).tolist() == pytest.approx(table["strength"].tolist(), rel=1e-5)


@torch.no_grad()
def test_a_planted_skip_trigram_is_found():
    model = one_layer(positions="none")
    E, W = torch.linalg.qr(torch.randn(64, 64)).Q[:12], model.network
    W.embed.W_E.copy_(E)
    W.unembed.W_U.copy_(E.T)
    attention = W.blocks[0].attn
    for weights in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O):
        weights[1].zero_()
    attention.W_Q[1, :, 0], attention.W_K[1, :, 0] = 30 * E[5], E[3]
    attention.W_V[1, :, 0], attention.W_O[1, 0] = E[3], 4 * E[7]
    first = skip_trigrams(model, "L0H1", n=1).iloc[0]
    assert (first["source"], first["destination"], first["out"]) == (3, 5, 7)
    assert first["attention"] > 0.1 and first["logit"] == pytest.approx(4 - 4 / 12, rel=1e-4)


def test_tokens_without_an_embedding_are_no_destination_and_numbers_are_finite():
    model = HookedModel(random_network("llama"))  # the row of its padding token is zero
    table = skip_trigrams(model, "L0H0", n=20, offset=1)
    assert np.isfinite(table["strength"]).all() and not (table["destination"] == 0).any()


def test_strengths_are_in_the_models_own_logits():
    """Cohere scales its logits: the same weights with another scale."""
    model = HookedModel(random_network("cohere"))
    before = skip_trigrams(model, "L0H0", n=3, offset=1)["strength"]
    model.network.config.logit_scale *= 2
    after = skip_trigrams(model, "L0H0", n=3, offset=1)["strength"]
    assert after.tolist() == pytest.approx((2 * before).tolist(), rel=1e-4)


def test_half_precision_is_read_too():
    model = HookedModel(random_network("gpt2").to(torch.bfloat16))
    assert np.isfinite(skip_trigrams(model, "L0H0", n=3)["strength"]).all()


@pytest.mark.parametrize("wrong", [{"n": 0}, {"per_source": 0}, {"among": torch.tensor([5, 300])}])
def test_impossible_lists_are_refused(small, wrong):
    with pytest.raises(ValueError, match="must be at least 1, `among` some tokens"):
        skip_trigrams(small, "L0H0", **wrong)
    with pytest.raises(ValueError, match=r"Tokens must lie in \[0, 5\)"):
        bigram_counts(torch.tensor([1, 7]), 5)


def test_readings_that_do_not_hold_are_refused(small, smollm2):
    with pytest.raises(ValueError, match="normalised before they are added"):
        skip_trigrams(HookedModel(random_network("gemma2")), "L0H0")
    with pytest.raises(ValueError, match="Only heads of the first layer"):
        skip_trigrams(small, "L1H0")
    with pytest.raises(ValueError, match="up to 8192 tokens"):
        skip_trigrams(smollm2, "L0H0")
    with pytest.raises(ValueError, match="give `tokens`"):
        bigram_logits(smollm2)
    assert bigram_logits(smollm2, torch.tensor([5, 6])).shape == (2, smollm2.d_vocab)
