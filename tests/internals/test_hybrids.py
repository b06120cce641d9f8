"""Models that mix softmax attention with layers of other kinds, and models without any."""

import pytest
import torch
import transformers as hf
from by_hand import passed
from families import LLAMA_LIKE

from experiments.benchmarks.small_decoders import small_network
from induction_lab import (
    FoldedWeights,
    HeadScores,
    HookedModel,
    ablate,
    ablation_sweep,
    capture,
    composition_scores,
    explain,
    find_circuit,
    input_shares,
    ov_copying,
    patch_paths,
    positional_preference,
    repeated_tokens,
    score_heads,
    score_shares,
    temper,
)
from induction_lab.internals.reading import attention_layers
from induction_lab.weights.probes_over_training import weight_probes
from induction_lab.weights.queries_keys import queries_and_keys

HYBRIDS = {
    "lfm2": lambda: hf.Lfm2Config(
        **dict(LLAMA_LIKE, num_hidden_layers=3), layer_types=["conv", "full_attention", "conv"]
    ),
    "jamba": lambda: hf.JambaConfig(
        **dict(LLAMA_LIKE, num_hidden_layers=4), attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False,
        num_experts=2, mamba_d_state=8,
    ),
    "qwen3_next": lambda: hf.Qwen3NextConfig(
        **dict(LLAMA_LIKE, num_hidden_layers=2), head_dim=12, num_experts=2, num_experts_per_tok=1,
        layer_types=["linear_attention", "full_attention"], linear_num_key_heads=2, linear_num_value_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, moe_intermediate_size=16, shared_expert_intermediate_size=16,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=HYBRIDS)
def hybrid(request) -> HookedModel:
    return hybrid_of(request.param)


def hybrid_of(name: str) -> HookedModel:
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(HYBRIDS[name](), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(0.0, 0.25)
    return HookedModel(network)


@pytest.mark.parametrize("loss", [True, False])
def test_layers_of_hybrids_that_attend_are_scored_under_their_own_numbers(hybrid, loss, tmp_path):
    tokens = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    tokens[:, 0] = 1
    found = score_heads(hybrid, tokens, scores=["previous_token", "prefix_matching"], loss=loss)
    with torch.no_grad():
        own = [each for each in hybrid.network(tokens, output_attentions=True).attentions if each is not None]
    layers = attention_layers(hybrid)
    assert found.layers == layers and len(own) == len(layers) < hybrid.n_layers
    for layer in range(hybrid.n_layers):
        values = found["previous_token"][layer]
        if layer in layers:
            expected = own[layers.index(layer)].diagonal(-1, 2, 3)[..., 1:].mean((0, 2))
            torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
        else:
            assert values.isnan().all()
    assert set(found.to_dataframe()["layer"]) == set(layers)
    assert {head.layer for head, _ in found.top("prefix_matching", 99)} == set(layers)
    loaded = HeadScores.load(found.save(tmp_path / "scores.csv"))
    torch.testing.assert_close(loaded["prefix_matching"], found["prefix_matching"], equal_nan=True)


def test_heads_of_layers_that_do_not_attend_are_refused_by_name(hybrid):
    layers = attention_layers(hybrid)
    absent = min(set(range(hybrid.n_layers)) - set(layers))
    tokens = torch.randint(3, 300, (2, 9))
    for refused in (
        lambda: ablate(hybrid, [(absent, 1)]).__enter__(),
        lambda: ablation_sweep(hybrid, tokens, heads=[(absent, 1)]),
        lambda: capture(hybrid, tokens, "pattern", heads=[(absent, 1)]),
        lambda: temper(hybrid, [(absent, 1)], 2.0).__enter__(),
    ):
        with pytest.raises(ValueError, match=f"L{absent}H1 is not there: layers .* attend"):
            refused()


def test_heads_of_hybrids_are_ablated_and_swept(hybrid):
    tokens = torch.randint(3, 300, (3, 9), generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    effects = ablation_sweep(hybrid, tokens, method="zero", metric="loss").to_dataframe()
    assert set(effects["layer"]) == set(attention_layers(hybrid))
    row = effects.iloc[0]
    with ablate(hybrid, row["label"], method="zero"):
        without = losses(hybrid, tokens)
    assert row["effect"] == pytest.approx(float((without - losses(hybrid, tokens)).mean()), abs=1e-4)


@pytest.mark.parametrize("name", ["lfm2", "jamba"])
def test_layers_without_heads_are_one_sender_of_paths(name):
    """All that such a layer adds to the stream. Two receivers share a value head, which is put in by a hook."""
    model = hybrid_of(name)
    tokens, others = (repeated_tokens(model, n_prompts=3, period=9, seed=seed).tokens for seed in (0, 1))
    own, other = (passed(model.network, x) for x in (tokens, others))
    blocks, layer = [f"model.layers.{i}" for i in range(model.n_layers)], max(attention_layers(model))
    change = [other[blocks[layer - 1]][i] - own[blocks[layer - 1]][i] for i in (0, 1)]
    with torch.inference_mode():
        read = model.anatomy.norm_before(layer)(own[blocks[layer]][0] + change[1] - change[0])
        values = model.network.get_submodule(f"{blocks[layer]}.self_attn.v_proj")
        told = values(read)[..., :12]
        handle = values.register_forward_hook(lambda module, args, output: torch.cat([told, output[..., 12:]], -1))
        slow = losses(model, tokens).mean()
        handle.remove()
    receivers = [(layer, 0), (layer, 1)]
    how = {"method": "resample", "reference": others}
    found = patch_paths(model, tokens, receivers, "v", metric="loss", **how).of(f"MLP{layer - 1}")
    assert found["changed"] == pytest.approx(float(slow), abs=1e-5) and abs(found["effect"]) > 1e-4
    assert input_shares(model, tokens, receivers[0], **how)["share"].sum() == pytest.approx(1, abs=1e-5)
    assert abs(score_shares(model, tokens, receivers[0]).set_index("sender")["share"]["bias"]) < 1e-5


def test_hybrids_are_explained_by_their_heads(hybrid):
    found = explain(hybrid, repeated_tokens(hybrid, n_prompts=2, period=6), n_random=1)
    assert set(found.heads["layer"]) == set(attention_layers(hybrid)) and "paths" not in found.provenance["left_out"]
    assert len(found.heads) == hybrid.n_heads * len(attention_layers(hybrid))
    assert found.heads[["effect", "prefix_matching"]].notna().all(axis=None)


def losses(model: HookedModel, tokens: torch.Tensor) -> torch.Tensor:
    log_p = model.logits(tokens)[:, :-1].log_softmax(-1)
    return -log_p.gather(2, tokens[:, 1:, None])[..., 0].mean(1)


@torch.no_grad()
def test_circuits_of_hybrids_run_between_the_layers_that_attend():
    config = hf.Lfm2Config(
        **dict(LLAMA_LIKE, num_hidden_layers=5), layer_types=["conv", "full_attention"] * 2 + ["conv"]
    )
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config).eval())
    K = composition_scores(model, "K", subtract_baseline=False)
    earlier, later = (FoldedWeights(model).layer(layer) for layer in (1, 3))
    for one, other in [(0, 0), (3, 2)]:
        OV = earlier.W_V[one // 2] @ earlier.W_O[one]
        QK = later.W_Q[other] @ later.W_K[other // 2].T
        expected = (OV @ QK.T).norm() / OV.norm() / QK.norm()
        assert float(K[1, one, 3, other]) == pytest.approx(float(expected), rel=1e-4)
    absent = [0, 2, 4]
    assert K[absent].isnan().all() and K[:, :, absent].isnan().all() and not K[1, :, 3].isnan().any()
    edges = find_circuit(model, repeated_tokens(model, n_prompts=2, period=9)).edges
    assert len(edges) == 16 and set(edges["previous"].str[:2]) == {"L1"} and set(edges["induction"].str[:2]) == {"L3"}
    assert edges.notna().all(axis=None)
    assert ov_copying(model)[absent].isnan().all() and not ov_copying(model)[[1, 3]].isnan().any()


@pytest.mark.parametrize("config", [hf.MambaConfig, hf.RwkvConfig, hf.FalconMambaConfig])
def test_models_without_attention_heads_are_refused(config):
    with pytest.raises(ValueError, match="has no attention heads"):
        HookedModel(small_network(config, hf.AutoModelForCausalLM._model_mapping[config]))


@pytest.mark.parametrize("name", ["lfm2", "qwen3_next"])  # rotary
def test_what_is_asked_of_every_layer_is_refused_where_some_have_no_heads_and_left_out_of_probes(name):
    hybrid = hybrid_of(name)
    with pytest.raises(ValueError, match="Layer 0 of .* has no heads of its own"):
        positional_preference(hybrid, range(3))
    attends = attention_layers(hybrid)[0]
    q, k = queries_and_keys(hybrid, attends, torch.randn(2, hybrid.d_model), torch.randn(3, hybrid.d_model))
    assert q.shape[1] == 2 and k.shape[1] == 3
    left_out = weight_probes(hybrid, ["preferred_offset"]).left_out
    assert "has no heads of its own" in left_out["preferred_offset"]
