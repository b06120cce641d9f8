import pytest
import torch
from families import random_network

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    capture,
    ov_circuit,
    ov_copying,
    ov_self_copying,
    qk_circuit,
    qk_diagonal,
    qk_matching,
    stream_rows,
)
from induction_lab.models.attention_only.by_hand import INDUCTION, PREVIOUS_TOKEN
from induction_lab.models.frozen_norms import attention_norm, final_norm
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import ov_eigenvalues, qk_eigenvalues


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "gpt_neox", "cohere", "small"])
@torch.no_grad()
def test_eigenvalues_are_those_of_the_dense_output_circuit(family, small):
    """Vocabulary by vocabulary, eigenvalue by eigenvalue, norms folded by hand."""
    model = small if family == "small" else HookedModel(random_network(family))
    for name, parameter in model.network.named_parameters():
        if "norm" in name or "ln_" in name or ".ln1." in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    hooked = model.hooked
    shares, eigenvalues = ov_copying(model), ov_eigenvalues(model)
    group = model.n_heads // hooked.W_V.shape[1]
    for layer in range(model.n_layers):
        into, out = attention_norm(model, layer), final_norm(model)
        for head in range(model.n_heads):
            W_OV = (hooked.W_V[layer, head // group] @ hooked.W_O[layer, head]).double()
            centre = torch.eye(model.d_model).double() - 1 / model.d_model
            before = (centre if into.centred else torch.eye(model.d_model).double()) @ into.gain.double().diag()
            after = (centre if out.centred else torch.eye(model.d_model).double()) @ out.gain.double().diag()
            dense = (
                stream_rows(model).double() @ before @ W_OV @ after @ model.unembedding.double().T * model.logit_scale
            )
            full = torch.linalg.eigvals(dense)
            largest = full[full.abs().argsort(descending=True)[: model.d_head]]
            share = largest.real.sum() / largest.abs().sum()
            assert float(shares[layer, head]) == pytest.approx(float(share), abs=1e-4)
            torch.testing.assert_close(
                eigenvalues[layer, head].abs().sort().values, largest.abs().sort().values, rtol=1e-4, atol=1e-5
            )


def test_random_output_circuits_neither_copy_nor_suppress(small):
    assert ov_copying(small).abs().max() < 0.6
    assert abs(float(ov_copying(small).mean())) < 0.25


def test_the_handbuilt_head_copies_and_its_partner_writes_nowhere(circuit):
    scores = ov_copying(circuit)
    assert scores[INDUCTION] == pytest.approx(1.0) and scores[PREVIOUS_TOKEN] == 0


def dense_qk(model, head, query, key, R):
    """Rows through weights, norms folded by hand, one head."""
    layer, index = head
    norm, hooked = attention_norm(model, layer), model.hooked
    centre = torch.eye(model.d_model) - (1 / model.d_model if norm.centred else 0)
    fold = centre @ norm.gain.diag()
    W_K = hooked.W_K[layer, index // (model.n_heads // hooked.W_K.shape[1])]
    return query @ fold @ hooked.W_Q[layer, index] @ R @ W_K.T @ fold.T @ key.T


def dense_ov(model, head, rows):
    layer, index = head
    norm, hooked = attention_norm(model, layer), model.hooked
    centre = torch.eye(model.d_model) - (1 / model.d_model if norm.centred else 0)
    W_V = hooked.W_V[layer, index // (model.n_heads // hooked.W_V.shape[1])]
    return rows @ centre @ norm.gain.diag() @ W_V @ hooked.W_O[layer, index]


DENSE = ["gpt2", "llama", "gemma", "gpt_neox", "cohere", "small"]


def made(family, small):
    return small if family == "small" else HookedModel(random_network(family))


@pytest.mark.parametrize("family", DENSE)
@torch.no_grad()
def test_qk_circuits_are_the_dense_products_for_every_kind_of_row(family, small):
    model = made(family, small)
    E, offset = stream_rows(model), 3
    R = FoldedWeights(model).rotations(offset)[1]
    rows = [("embedding", E), ("L0H2", dense_ov(model, (0, 2), E)), (E[:5] * 2, E[:5] * 2)]
    if family != "small":
        rows.append(("effective", stream_rows(model, "effective")))
    if family == "gpt2":
        rows.append(("positions", model.network.transformer.wpe.weight))
    for side, key in rows:
        found = qk_circuit(model, "L1H3", query=E[:20], key=side, offset=offset).AB
        expected = dense_qk(model, (1, 3), E[:20], key, R)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", DENSE)
@torch.no_grad()
def test_ov_circuits_are_the_dense_products_also_through_another_head(family, small):
    model = made(family, small)
    E, out = stream_rows(model), final_norm(model)
    centre = torch.eye(model.d_model) - (1 / model.d_model if out.centred else 0)
    logits = centre @ out.gain.diag() @ model.unembedding.T * model.logit_scale
    for source, rows in {"embedding": E, "L0H1": dense_ov(model, (0, 1), E)}.items():
        expected = dense_ov(model, (1, 2), rows) @ logits
        found = ov_circuit(model, "L1H2", source=source).AB
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_a_range_of_offsets_is_the_mean_of_its_circuits(llama):
    single = [qk_circuit(llama, "L1H0", offset=offset).AB for offset in range(2, 6)]
    mean = qk_circuit(llama, "L1H0", offset=range(2, 6)).AB
    torch.testing.assert_close(mean, torch.stack(single).mean(0), rtol=1e-4, atol=1e-4 * float(mean.abs().max()))
    assert (single[0] - single[3]).abs().max() > 0.1 * single[0].abs().max()


EXACT = [
    "gpt2", "gpt_neox", "llama", "mistral", "gemma", "gemma3", "qwen2", "qwen3", "phi", "phi3", "opt", "olmo2",
    "granite", "cohere", "small",
]  # fmt: skip


@pytest.mark.parametrize("family", EXACT)
@torch.no_grad()
def test_exact_circuits_are_the_first_layers_own_attention_scores(family, small):
    """On real prompts, at every offset: norms, biases, rotation, query norms and scale are all the model's."""
    model = made(family, small)
    tokens = torch.randint(3, model.d_vocab, (1, 7))
    scores = capture(model, tokens, "attn_scores", layers=0)["attn_scores", 0][0]
    rows = stream_rows(model)[tokens[0]]
    if family in ("gpt2", "opt"):
        rows = rows + stream_rows(model, "positions")[:7]
    for head in range(model.n_heads):
        for offset in (0, 1, 4):
            found = qk_circuit(model, (0, head), query=rows, key=rows, offset=offset, exact=True).AB.diagonal(-offset)
            expected = scores[head].diagonal(-offset)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_exact_scores_that_cannot_be_had_are_refused():
    smeared = AttentionOnlyTransformer(AttentionOnlyConfig(smeared_keys=True))
    with pytest.raises(ValueError, match="Smeared keys mix two positions"):
        qk_circuit(HookedModel(smeared), "L0H0", exact=True)
    with pytest.raises(ValueError, match="adds positions to its scores"):
        qk_circuit(HookedModel(random_network("bloom")), "L0H0", exact=True)


def dense_prefix_circuit(model, head, weights, R):
    E = stream_rows(model)
    written = sum(
        weights[layer, h] * dense_ov(model, (layer, h), E) for layer in range(head[0]) for h in range(model.n_heads)
    )
    return dense_qk(model, head, E, written, R)


@pytest.mark.parametrize("family", DENSE)
@torch.no_grad()
def test_qk_matching_is_the_share_of_the_dense_circuits_eigenvalues(family, small):
    model = made(family, small)
    weights, offset = torch.rand(model.n_layers, model.n_heads), 2
    shares = qk_matching(model, weights, offset=offset)
    own = qk_diagonal(model, weights, k=3, offset=offset)
    R = FoldedWeights(model).rotations(offset)
    assert not shares[0].any() and not own[0].any()  # nothing comes before the first layer
    for head in range(model.n_heads):
        dense = dense_prefix_circuit(model, (1, head), weights, R[1])
        full = torch.linalg.eigvals(dense.double())
        largest = full[full.abs().argsort(descending=True)[: model.d_head]]
        share = largest.real.sum() / largest.abs().sum()
        assert float(shares[1, head]) == pytest.approx(float(share), abs=1e-4)
        if model.d_vocab <= 256:  # all tokens are read
            best = dense.topk(3, dim=1).indices
            hit = (best == torch.arange(model.d_vocab)[:, None]).any(1).float().mean()
            assert float(own[1, head]) == pytest.approx(float(hit), abs=1e-6)


def test_eigenvalues_of_a_real_matrix_come_in_conjugate_pairs(small):
    for eigenvalues in (ov_eigenvalues(small), qk_eigenvalues(small, torch.ones(2, 4))):
        assert eigenvalues.sum(-1).imag.abs().max() < 1e-6


@torch.no_grad()
def test_self_copying_counts_tokens_that_raise_themselves_most(small):
    shares = ov_self_copying(small, k=2)
    for layer in range(2):
        for head in range(4):
            entries = ov_circuit(small, (layer, head)).AB
            hit = (entries.topk(2, dim=1).indices == torch.arange(100)[:, None]).any(1).float().mean()
            assert float(shares[layer, head]) == pytest.approx(float(hit), abs=1e-6)
    assert shares.mean() < 0.1  # random weights: chance is 0.02


def test_a_sample_of_tokens_estimates_the_share_over_all():
    model = HookedModel(random_network("gpt2"))
    all_ = ov_self_copying(model, k=100, n_tokens=300)
    some = ov_self_copying(model, k=100, n_tokens=100, seed=1)
    assert ((all_ - some).abs() < 4 * 0.5 / 100**0.5).all() and not torch.equal(all_, some)


def test_the_handbuilt_pair_matches_prefixes_and_copies_every_token(circuit):
    previous = torch.zeros(circuit.n_layers, circuit.n_heads)
    previous[PREVIOUS_TOKEN] = 1
    assert qk_matching(circuit, previous)[INDUCTION] == pytest.approx(1.0)
    assert qk_diagonal(circuit, previous)[INDUCTION] == 1
    assert ov_self_copying(circuit)[INDUCTION] == 127 / 128  # all but BOS, on which it rests
    other = 1 - previous  # negative control: keys that do not say what came before
    assert qk_matching(circuit, other)[INDUCTION] == 0


def test_trained_induction_heads_match_prefixes_and_the_first_layer_does_not_copy(bundled):
    previous = torch.zeros(2, 4)
    previous[0, 3] = 1
    for offset in (5, 40, range(1, 60)):
        assert qk_matching(bundled, previous, offset=offset)[1].min() > 0.9
        assert qk_diagonal(bundled, previous, offset=offset)[1].min() > 0.5  # chance is 1 / 256
    copies = ov_self_copying(bundled)
    assert copies[1].min() > 0.5 > 10 * copies[0].max()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: ov_circuit(m, "L7H0"), "L7H0"),
        (lambda m: ov_circuit(m, "L0H0", source="nothing"), "nothing"),
        (lambda m: qk_circuit(m, "L0H0", key="positions"), "no position vectors"),
        (lambda m: qk_circuit(m, "L0H0", key="embeddings"), "Rows are embedding, effective, positions, a head"),
        (lambda m: qk_circuit(m, "L0H0", offset=99), "Offsets must lie in 0 … 63"),
        (lambda m: qk_matching(m, torch.ones(3, 4)), "must be \\[layer, head\\]"),
        (lambda m: ov_self_copying(m, k=0), "`k` must lie in"),
        (lambda m: ov_copying(m, source=torch.ones(5, 64)), "One row for each of the 100 tokens"),
        (lambda m: ov_circuit(m, "L0H0", source=torch.ones(5, 3)), "Rows must be"),
    ],
)
def test_what_cannot_be_had_is_named(small, call, message):
    with pytest.raises(ValueError, match=message):
        call(small)


def test_circuits_of_half_precision_weights_are_computed_in_float32(small):
    half = HookedModel(AttentionOnlyTransformer(small.network.cfg, seed=3).to(torch.bfloat16))
    full = HookedModel(AttentionOnlyTransformer(small.network.cfg, seed=3).to(torch.bfloat16).float())
    for call in (
        lambda m: qk_circuit(m, "L1H0", key="L0H1", offset=2).AB,
        lambda m: ov_circuit(m, "L1H0").AB,
        lambda m: qk_matching(m, torch.ones(2, 4), offset=1),
        ov_copying,
    ):
        torch.testing.assert_close(call(half), call(full), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_give_nan_and_no_crash(small, value):
    with torch.no_grad():
        small.network.blocks[1].attn.W_V[2, 0, 0] = value
    for score in (ov_copying(small), ov_self_copying(small)):
        assert score[1, 2].isnan() and score[0].isfinite().all() and score[1, :2].isfinite().all()
    assert qk_matching(small, torch.rand(2, 4)).isfinite().all()  # reads layer 0 only
