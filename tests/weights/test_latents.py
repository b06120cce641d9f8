"""Weights of heads whose keys and values are made of latents with a norm, and of heads of several widths."""

import pytest
import torch
from families import shake_norms

from experiments.benchmarks.small_decoders import decoders, small_network
from induction_lab import (
    HookedModel,
    composition_scores,
    find_circuit,
    ov_copying,
    ov_eigenvalues,
    qk_circuit,
    repeated_tokens,
    score_heads,
    score_shares,
)
from induction_lab.models.frozen_norms import attention_norm, folded_weights
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.queries_keys import read_from_stream

LATENT = ["AXK1", "DeepseekV2", "DeepseekV3", "DeepseekV32", "Dots3NoteText", "Glm4MoeLite", "GlmMoeDsa"]
LATENT += ["MiniCPM3", "Youtu"]
WIDTHS = ["Gemma4Text", "Gemma4UnifiedText", "MiMoV2Flash"]


def model_of(name):
    config, network = next((config, network) for each, config, network in decoders() if each == name)
    return HookedModel(shake_norms(small_network(config, network)), name=name)


@pytest.mark.parametrize("name", [*LATENT, *WIDTHS, "FalconH1"])
@torch.no_grad()
def test_scores_of_two_tokens_are_the_network_s_own(name):
    """A softmax over two keys says how far their scores lie apart."""
    model = model_of(name)
    a, b = 17, 42
    run = model.network(torch.tensor([[a, b]]), output_attentions=True, use_cache=False)
    for head in range(model.n_heads):
        away, here = (qk_circuit(model, (0, head), offset=offset, exact=True) for offset in (1, 0))
        ours = (away.A[b] @ away.B[:, a]) - (here.A[b] @ here.B[:, b])
        own = run.attentions[0][0, head, 1].double().log()
        torch.testing.assert_close(ours.double(), own[0] - own[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("interleaved", [True, False])
@torch.no_grad()
def test_folded_latents_are_the_products_of_their_matrices_at_the_mean_scale(interleaved):
    """DeepSeek-V3's, written out: down, norm, up; a part of each key goes round the norm and is turned."""
    config, network = next((config, network) for each, config, network in decoders() if each == "DeepseekV3")
    small = small_network(config, network)
    small.config.rope_interleave = interleaved
    model = HookedModel(shake_norms(small))
    attention = model.network.model.layers[1].self_attn
    heads, nope, wide, rank = model.n_heads, 16, 12, 16
    x = torch.eye(model.d_model) * attention_norm(model, 1).gain
    down = x @ attention.kv_a_proj_with_mqa.weight.T
    latent, turned = down[:, :rank], down[:, rank:]
    scale = latent.square().sum(0).mean().sqrt()
    up = (latent * attention.kv_a_layernorm.weight / scale) @ attention.kv_b_proj.weight.T
    up = up.unflatten(-1, (heads, nope + wide)).transpose(0, 1)
    low = x @ attention.q_a_proj.weight.T
    low = low * attention.q_a_layernorm.weight / low.square().sum(0).mean().sqrt()
    queries = (low @ attention.q_b_proj.weight.T).unflatten(-1, (heads, -1)).transpose(0, 1)
    order = torch.arange(8).view(4, 2).T.flatten() if interleaved else torch.arange(8)
    W_Q, W_K, W_V, W_O = folded_weights(model, 1)
    rows = turned[:, order].expand(heads, -1, -1)
    torch.testing.assert_close(W_K, torch.cat([up[..., :nope], rows], -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(W_Q[..., :nope], queries[..., :nope], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(W_Q[..., nope:], queries[..., nope:][..., order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(W_V[..., :wide], up[..., nope:], atol=1e-5, rtol=1e-4)
    assert not W_V[..., wide:].any() and not W_O[:, wide:].any() and W_V.shape[-1] == W_Q.shape[-1] == 24
    torch.testing.assert_close(W_O[:, :wide].flatten(0, 1), attention.o_proj.weight.T, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["DeepseekV3", "Glm4MoeLite"])
@torch.no_grad()
def test_values_of_a_vector_are_those_of_folded_weights_at_its_own_scale(name):
    """Values go through the norm as a whole, so that they are those of the weights but for one number a vector."""
    model = model_of(name)
    x = torch.randn(20, model.d_model)
    values = read_from_stream(model, 1, "v", x)
    ours = torch.einsum("rd,hde->hre", x, folded_weights(model, 1).W_V[..., : values.shape[-1]])
    cosine = torch.cosine_similarity(values.transpose(0, 1).flatten(1), ours.transpose(0, 1).flatten(1))
    torch.testing.assert_close(cosine, torch.ones(20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["K", "Q", "V"])
@pytest.mark.parametrize("name", ["DeepseekV3", "Gemma4Text", "MiMoV2Flash"])
@torch.no_grad()
def test_composition_and_eigenvalues_are_those_of_the_wide_matrices(name, kind):
    model = model_of(name)
    folded = FoldedWeights(model)
    found = composition_scores(model, kind, subtract_baseline=False, folded=folded)
    first, second = folded.layer(0), folded.layer(1)
    for head in range(model.n_heads):
        key, other = (head * len(layer.W_K) // model.n_heads for layer in (first, second))
        writes = first.W_V[key] @ first.W_O[head]
        reads = {
            "K": second.W_K[other] @ second.W_Q[head].T,
            "Q": second.W_Q[head] @ second.W_K[other].T,
            "V": second.W_V[other] @ second.W_O[head],
        }[kind]
        expected = (writes @ reads).norm() / writes.norm() / reads.norm()
        torch.testing.assert_close(found[0, head, 1, head], expected, atol=1e-5, rtol=1e-4)
    written = folded.rows() @ (first.W_V[0] @ first.W_O[0]).double().float()
    wide = torch.linalg.eigvals((written @ folded.readers.T).double())
    ours = ov_eigenvalues(model, heads="L0H0", folded=folded)[0, 0]
    n = model.anatomy.head_widths(0)[1]
    largest = wide.abs().sort(descending=True).values[:n]
    torch.testing.assert_close(ours.abs().sort(descending=True).values[:n], largest, atol=1e-4, rtol=1e-3)
    assert float(ours.abs().sort(descending=True).values[n:].sum()) < 1e-6 * float(largest[0])


@pytest.mark.parametrize("name", ["Youtu", "Gemma4UnifiedText"])
def test_circuits_and_scores_of_weights_are_had(name):
    model = model_of(name)
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    edges = find_circuit(model, prompts).edges
    assert edges.select_dtypes("number").notna().all(axis=None) and len(edges) == 16
    assert {"prefix_matching", "ov_copying", "copying"} <= set(score_heads(model, prompts).scores)


def test_shares_of_scores_fit_heads_of_several_widths_and_are_refused_of_latents():
    model = model_of("Gemma4Text")
    shares = score_shares(model, repeated_tokens(model, n_prompts=1, period=4), "L1H1")
    assert float(shares["share"].sum()) == pytest.approx(1, abs=1e-4)
    latent = model_of("Youtu")
    with pytest.raises(ValueError, match="not one linear map"):
        score_shares(latent, repeated_tokens(latent, n_prompts=1, period=4), "L1H1")


def mixes_places(model):
    """Keys that read the place before, which a token alone does not show."""
    down = model.network.model.layers[1].self_attn.kv_a_proj_with_mqa
    down.register_forward_hook(lambda _, __, output: output + output.roll(1, 1))


def gates(model):
    up = model.network.model.layers[1].self_attn.kv_b_proj
    up.register_forward_hook(lambda _, __, output: output * output.sigmoid())


@pytest.mark.parametrize("spoil", [mixes_places, gates])
def test_what_is_not_linear_at_its_place_is_refused(spoil):
    model = model_of("DeepseekV3")
    spoil(model)
    with pytest.raises(ValueError, match="Layer 1 of DeepseekV3 makes its queries, keys or values in a way"):
        folded_weights(model, 1)


@pytest.mark.parametrize("name", ["MegatronBert", "ModernBertDecoder", "Xmod"])
def test_what_stands_before_the_unembedding_is_not_taken_for_nothing(name):
    """A layer of the head of masked language models: what heads write goes through it, so no logit is `x W_U`."""
    model = model_of(name)
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    with pytest.raises(ValueError, match="projects its stream before the unembedding"):
        ov_copying(model)
    found = find_circuit(model, prompts)
    assert (
        found.edges["ov_copying"].isna().all() and "projects its stream" in found.provenance["left_out"]["ov_copying"]
    )
    assert found.edges[["K", "Q", "V", "qk_matching"]].notna().all(axis=None)
    assert not {"ov_copying", "copying", "logit_attribution"} & set(score_heads(model, prompts).scores)
