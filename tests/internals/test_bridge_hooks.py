import pytest
import torch
import transformers as hf
from families import D_VOCAB, LLAMA_LIKE

from induction_lab import (
    HookedModel,
    attribute_logits,
    capture,
    ov_copying,
    patch_paths,
    repeated_tokens,
    score_heads,
)
from induction_lab.internals.bridge_hooks import by_head


def test_heads_side_by_side_and_by_head_are_the_same_view():
    x = torch.randn(2, 5, 3, 4)
    expected = torch.stack([torch.stack([x[b, :, h] for h in range(3)]) for b in range(2)])
    assert torch.equal(by_head(x, 3), expected) and torch.equal(by_head(x.reshape(2, 5, 12), 3), expected)
    by_head(x, 3)[0, 1, 2] = 7.0  # a view, so that what is written into it is seen
    assert (x[0, 2, 1] == 7.0).all()


TOKENS = torch.randint(3, D_VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
SMALL = dict(vocab_size=D_VOCAB, n_positions=64, n_embd=48, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)


def network_of(config):
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "wte" not in name and "embed" not in name:
                parameter.normal_(0.0, 0.25)
            elif parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("choice", ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"])
def test_a_bridge_that_does_not_compute_what_the_network_does_is_refused_and_the_engine_still_right(choice):
    network = network_of(hf.GPT2Config(**SMALL, **{choice: choice != "scale_attn_weights"}))
    model = HookedModel(network)
    with torch.no_grad():
        wanted = network(TOKENS, output_attentions=True, use_cache=False)
    found = capture(model, TOKENS, "pattern")
    for layer, pattern in enumerate(wanted.attentions):
        torch.testing.assert_close(found["pattern", layer], pattern, atol=1e-5, rtol=1e-4)
    try:
        acts = capture(model, TOKENS, ["pattern", "resid_pre", "logits"])
    except ValueError as error:
        assert "its logits would differ by" in str(error)
        assert choice == "scale_attn_weights"
    else:
        torch.testing.assert_close(acts["pattern", 1], wanted.attentions[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(acts["logits"], wanted.logits, atol=1e-4, rtol=1e-4)
    assert ov_copying(model).isfinite().all()


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_bridge_that_shows_other_patterns_is_refused_though_its_logits_agree(spoilt, monkeypatch):
    from transformer_lens.model_bridge import sources

    network, build = network_of(hf.GPT2Config(**SMALL)), sources.build_bridge_from_module

    def spoil(*args, **kwargs):
        bridge = build(*args, **kwargs)
        if spoilt:
            bridge.blocks[1].attn.hook_pattern.register_forward_hook(lambda _, __, output: output.flip(1))
        return bridge

    with torch.no_grad():  # so that patterns of layer 1 change nothing
        network.transformer.h[1].attn.c_proj.weight.zero_()
    monkeypatch.setattr(sources, "build_bridge_from_module", spoil)
    model = HookedModel(network)
    if not spoilt:
        assert model.hooked is not model.network
        return
    with pytest.raises(ValueError, match="cannot hook GPT2LMHeadModel: its pattern in layer 1 would differ by"):
        _ = model.hooked
    assert capture(model, TOKENS, "pattern")["pattern", 1].isfinite().all()


BETWEEN = {  # what stands between what heads put out and their projection
    "norm": hf.BitNetConfig(**LLAMA_LIKE),
    "gate": hf.AfmoeConfig(
        **LLAMA_LIKE, head_dim=12, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, num_dense_layers=2,
        layer_types=["full_attention"] * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BETWEEN)
def test_z_is_what_heads_put_out_in_whatever_company_it_is_asked_for(kind):
    model = HookedModel(network_of(BETWEEN[kind]))
    alone, beside = capture(model, TOKENS, ["z", "pattern", "v"]), capture(model, TOKENS, ["z", "resid_pre"])
    for layer in range(model.n_layers):
        v = alone["v", layer].transpose(1, 2).repeat_interleave(model.n_heads // model.n_kv_heads, 1)
        mixed = (alone["pattern", layer] @ v).transpose(1, 2)
        torch.testing.assert_close(alone["z", layer], mixed, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(beside["z", layer], mixed, atol=1e-5, rtol=1e-4)


def test_what_heads_add_to_logits_is_the_same_by_score_and_by_attribution_through_a_norm_of_what_they_put_out():
    model = HookedModel(network_of(BETWEEN["norm"]))
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    score = score_heads(model, prompts, scores="logit_attribution", loss=False)["logit_attribution"]
    torch.testing.assert_close(score, attribute_logits(model, prompts).heads(), atol=1e-6, rtol=1e-4)
    results = capture(model, prompts, ["result", "attn_out"], layers=1)
    torch.testing.assert_close(results["result"].sum(2), results["attn_out"], atol=1e-5, rtol=1e-4)


def test_what_single_heads_write_through_a_gate_is_refused_by_scores_and_followed_by_attribution():
    model = HookedModel(network_of(BETWEEN["gate"]))
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    left_out = score_heads(model, prompts, loss=False).provenance["left_out"]
    assert all("by a gate" in left_out[score] for score in ("logit_attribution", "copying"))
    assert attribute_logits(model, prompts).heads().isfinite().all()
    with pytest.raises(ValueError, match="by a gate"):
        patch_paths(model, prompts, "L1H0")
