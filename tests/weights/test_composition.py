import pytest
import torch
from families import random_network

from induction_lab import HookedModel
from induction_lab.models.attention_only.by_hand import INDUCTION, PREVIOUS_TOKEN
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.frozen_norms import attention_norm
from induction_lab.weights.composition import composition_baseline, composition_scores


def dense_composition(model, kind):
    """One pair at a time, with the wide matrices of the definition, norms folded."""
    hooked, size = model.hooked, (model.n_layers, model.n_heads)
    matrices = {}
    for layer in range(model.n_layers):
        norm = attention_norm(model, layer)
        fold = torch.eye(model.d_model) - (1 / model.d_model if norm.centred else 0)
        fold = fold @ norm.gain.diag()
        for head in range(model.n_heads):
            kv = head // (model.n_heads // hooked.W_K.shape[1])
            W_Q, W_K, W_V = fold @ hooked.W_Q[layer, head], fold @ hooked.W_K[layer, kv], fold @ hooked.W_V[layer, kv]
            matrices[layer, head] = W_V @ hooked.W_O[layer, head], W_Q @ W_K.T
    scores = torch.zeros(*size, *size)
    for (l1, h1), (OV, _) in matrices.items():
        for (l2, h2), (OV2, QK) in matrices.items():
            if l1 < l2:
                reader = {"Q": QK, "K": QK.T, "V": OV2}[kind]
                scores[l1, h1, l2, h2] = (OV @ reader).norm() / OV.norm() / reader.norm()
    return scores


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "gpt_neox", "cohere", "small"])
@torch.no_grad()
def test_composition_is_that_of_the_wide_matrices(family, kind, small):
    model = small if family == "small" else HookedModel(random_network(family))
    torch.testing.assert_close(
        composition_scores(model, kind, subtract_baseline=False), dense_composition(model, kind), rtol=1e-4, atol=1e-6
    )


@torch.no_grad()
def test_composition_is_transformerlens_where_it_has_no_norms_to_fold():
    from transformer_lens.FactoredMatrix import FactoredMatrix

    config = AttentionOnlyConfig(n_layers=3, layer_norm=False)
    model = HookedModel(AttentionOnlyTransformer(config))
    W = {name: getattr(model.hooked, name) for name in ("W_Q", "W_K", "W_V", "W_O")}
    scores = composition_scores(model, "K", subtract_baseline=False)
    OV, QK = FactoredMatrix(W["W_V"], W["W_O"]), FactoredMatrix(W["W_Q"], W["W_K"].transpose(-2, -1))
    for l1, h1, l2, h2 in [(0, 0, 1, 1), (0, 3, 2, 2), (1, 2, 2, 0)]:
        product = (OV[l1, h1] @ QK[l2, h2].T).norm() / OV[l1, h1].norm() / QK[l2, h2].norm()
        assert float(scores[l1, h1, l2, h2]) == pytest.approx(float(product), rel=1e-4)


def test_the_handbuilt_pair_composes_through_its_keys_and_by_nothing_else(circuit):
    pair = (*PREVIOUS_TOKEN, *INDUCTION)
    scores = {kind: composition_scores(circuit, kind, subtract_baseline=False) for kind in "QKV"}
    known = (40**2 / (40**2 + 20**2) / 128) ** 0.5  # an identity of rank 128, and a fifth of the reader's norm rests
    assert float(scores["K"][pair]) == pytest.approx(known, rel=1e-4)
    assert known > 1.9 * composition_baseline(circuit.d_model, circuit.d_head)[0]
    scores["K"][pair] = 0
    assert scores["K"].max() == 0
    assert scores["Q"][pair] == 0 and scores["V"][pair] == 0
    assert all(torch.isfinite(score).all() for score in scores.values())


def test_random_weights_lie_at_the_baseline():
    model = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=4, layer_norm=False), seed=2))
    mean, error = composition_baseline(64, 16)
    assert mean == pytest.approx(64**-0.5, rel=0.05) and error < 0.02 * mean
    for kind in "QKV":
        scores = composition_scores(model, kind)
        pairs = torch.stack([scores[i, :, j] for i in range(4) for j in range(i + 1, 4)])
        assert abs(float(pairs.mean())) < 0.01 and float(pairs.abs().max()) < 0.05


def test_heads_wider_than_the_stream_compose_too():
    model = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_model=12, d_head=20, layer_norm=False)))
    for kind in "QKV":
        torch.testing.assert_close(
            composition_scores(model, kind, subtract_baseline=False),
            dense_composition(model, kind),
            rtol=1e-4,
            atol=1e-6,
        )


def test_no_head_reads_what_a_later_layer_writes(small):
    scores = composition_scores(small, "V")
    assert scores[0, :, 0].abs().max() == scores[1].abs().max() == 0


def test_trained_induction_heads_read_the_previous_token_head_through_their_keys(bundled):
    scores = {kind: composition_scores(bundled, kind) for kind in "QKV"}
    best = divmod(int(scores["K"][0, :, 1].max(1).values.argmax()), 4)[1]
    assert best == 3  # L0H3, the previous-token head
    assert scores["K"][0, 3, 1].min() > 0  # of all four induction heads


def test_an_unknown_kind_of_composition_is_refused(small):
    with pytest.raises(ValueError, match="Q, K or V"):
        composition_scores(small, "X")


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_a_few_later_heads_compose_as_among_all(kind):
    model = HookedModel(random_network("llama"))
    every, some = composition_scores(model, kind), composition_scores(model, kind, later=["L1H3", "L0H0"])
    torch.testing.assert_close(some[:, :, 1, 3], every[:, :, 1, 3], atol=1e-6, rtol=1e-5)
    assert (some[:, :, 0, 0] == 0).all()
    some[:, :, 1, 3] = some[:, :, 0, 0] = torch.nan
    assert some.isnan().all()
    with pytest.raises(ValueError, match="L9H0 is not there"):
        composition_scores(model, kind, later="L9H0")
