"""Projections and norms that are found by what flows through modules, against the bridge's and against a run."""

import pytest
import torch
import transformers as hf
from families import D_VOCAB, FAMILIES, LLAMA_LIKE, random_network
from torch import nn

from induction_lab import HookedModel, capture, find_circuit, ov_copying, repeated_tokens, score_heads
from induction_lab.internals.reading import read_attention
from induction_lab.models.head_weights import head_weights

_MOE = dict(LLAMA_LIKE, num_experts_per_tok=1, moe_intermediate_size=32)
UNBRIDGED = {  # TransformerLens has no adapter for these
    "biogpt": hf.BioGptConfig(
        vocab_size=D_VOCAB, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    ),
    "persimmon": hf.PersimmonConfig(  # one fused projection, norms of queries and keys
        **{name: value for name, value in LLAMA_LIKE.items() if name != "num_key_value_heads"}
    ),
    "helium": hf.HeliumConfig(**LLAMA_LIKE, head_dim=12),
    "ministral": hf.MinistralConfig(**LLAMA_LIKE, head_dim=12),
    "cwm": hf.CwmConfig(**LLAMA_LIKE, head_dim=12),
    "dots1": hf.Dots1Config(**_MOE, head_dim=12, n_routed_experts=4, n_shared_experts=1, n_group=1, topk_group=1),
    "granitemoeshared": hf.GraniteMoeSharedConfig(
        **LLAMA_LIKE, num_local_experts=2, num_experts_per_tok=1, shared_intermediate_size=32, residual_multiplier=0.5
    ),
    "cohere2_moe": hf.Cohere2MoeConfig(**_MOE, num_experts=4),
}
FUSED = {
    "falcon": hf.FalconConfig(
        vocab_size=D_VOCAB, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, new_decoder_architecture=False,
        multi_query=False,
    ),
    "codegen": hf.CodeGenConfig(
        vocab_size=D_VOCAB, n_embd=48, n_layer=2, n_head=4, n_positions=64, rotary_dim=6, bos_token_id=0
    ),
}  # fmt: skip


def built(config, seed=0):
    """A random network whose norms and biases matter."""
    torch.manual_seed(seed)
    network = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            elif parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.normal_(0.0, 0.25)
    return network


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_the_bridge_s_bit_for_bit_and_norms_its_modules(family):
    model = HookedModel(random_network(family))
    anatomy, bridge = model.anatomy, model.hooked

    def part(layer, name):
        block = bridge.blocks[layer]
        bridged = getattr(block, name, None)
        return None if bridged is None else model.network.get_submodule(f"{block.name}.{bridged.name}")

    for layer in range(model.n_layers):
        attention = bridge.blocks[layer].attn
        for name, weights in head_weights(model, layer)._asdict().items():
            assert torch.equal(weights, getattr(attention, name)), (layer, name)
        for name, bias in anatomy.head_biases(layer)._asdict().items():
            theirs = getattr(attention, name, None)
            assert bias is theirs is None or torch.equal(bias, theirs), (layer, name)
        before = anatomy.norm_before(layer)
        assert part(layer, "ln1") is (None if type(before) is nn.Identity else before)
        assert part(layer, "ln1_post") is anatomy.norm_after(layer)
        for component in ("q", "k"):
            assert anatomy.head_norm(layer, component) is getattr(part(layer, "attn"), f"{component}_norm", None)
        assert anatomy.blocks[layer] is model.network.get_submodule(bridge.blocks[layer].name)
        assert not anatomy.is_gated(layer) and anatomy.head_norm(layer, "z") is None
    assert anatomy.final_norm is model.network.get_submodule(bridge.ln_final.name)
    assert anatomy.has_mlps == ("blocks.0.hook_mlp_out" in bridge.hook_dict)


@pytest.mark.parametrize("name", [*UNBRIDGED, *FUSED])
def test_weights_make_the_values_and_outputs_of_a_run(name):
    """Streams and patterns are transformers' own; from them, values, heads and what the layer adds are made anew."""
    model = HookedModel(built((UNBRIDGED | FUSED)[name]))
    tokens = repeated_tokens(model, n_prompts=2, period=6).tokens
    added = []
    projections = [model.anatomy.output_projection(layer) for layer in range(model.n_layers)]
    hooks = [each.register_forward_hook(lambda _, __, output: added.append(output)) for each in projections]
    with torch.no_grad():
        run = model.network(tokens, output_attentions=True, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    for layer in range(model.n_layers):
        (_, _, W_V, W_O), biases = head_weights(model, layer), model.anatomy.head_biases(layer)
        read = model.anatomy.norm_before(layer)(run.hidden_states[layer])
        v = torch.einsum("bpd,hde->bhpe", read, W_V) + (0 if biases.b_V is None else biases.b_V[:, None])
        z = run.attentions[layer] @ v.repeat_interleave(model.n_heads // model.n_kv_heads, 1)
        ours = torch.einsum("bhpe,hed->bpd", z, W_O) + (0 if biases.b_O is None else biases.b_O)
        torch.testing.assert_close(ours, added[layer], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", UNBRIDGED)
def test_weights_make_the_queries_and_keys_that_attention_is_given_where_nothing_is_rotated(name):
    from induction_lab.weights.queries_keys import read_from_stream

    model = HookedModel(built(UNBRIDGED[name]))
    tokens = torch.arange(3, 9)[:, None]
    streams, seen = {}, {}
    for layer, block in enumerate(model.anatomy.blocks):
        block.register_forward_pre_hook(
            lambda _, args, kwargs, layer=layer: streams.__setitem__(layer, (args or [kwargs["hidden_states"]])[0]),
            with_kwargs=True,
        )
    read_attention(model, tokens, lambda attention: seen.__setitem__(attention.layer, attention))
    for layer, attention in seen.items():
        for component in ("q", "k"):
            ours = read_from_stream(model, layer, component, streams[layer][:, 0]).transpose(0, 1)
            given = getattr(attention, component)[:, :, 0]
            factor = (given * ours).sum() / ours.square().sum()  # OPT and its like scale their queries
            torch.testing.assert_close(factor * ours, given, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", UNBRIDGED)
def test_circuits_are_found_without_a_bridge(name):
    model = HookedModel(built(UNBRIDGED[name]))
    with pytest.raises(ValueError, match="cannot hook"):
        _ = model.hooked
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    assert {"logit_attribution", "ov_copying", "copying"} <= set(score_heads(model, prompts).scores)
    assert ov_copying(model).isfinite().all() and len(find_circuit(model, prompts).edges) == 16
    with pytest.raises(ValueError, match="cannot hook"):
        capture(model, prompts, ["pattern", "mlp_out"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_other_number_formats_show_the_same_parts(family, dtype):
    if family == "gpt_oss" and dtype == torch.float64:
        pytest.skip("its experts do not run in double precision")
    model, other = HookedModel(random_network(family)), HookedModel(random_network(family).to(dtype))
    for layer in range(model.n_layers):
        for ours, theirs in zip(head_weights(model, layer), head_weights(other, layer), strict=True):
            assert theirs.dtype == dtype and torch.equal(ours.to(dtype), theirs)
        for norm in ("norm_before", "norm_after"):
            assert type(getattr(model.anatomy, norm)(layer)) is type(getattr(other.anatomy, norm)(layer))
        for component in ("q", "k", "v", "z"):
            norms = [each.anatomy.head_norm(layer, component) for each in (model, other)]
            assert type(norms[0]) is type(norms[1])
    assert model.anatomy.has_mlps == other.anatomy.has_mlps
    assert len(find_circuit(other, repeated_tokens(other, n_prompts=2, period=8)).edges) >= 16


def test_a_rescaled_stream_is_refused_and_looking_still_scored():
    model = HookedModel(built(hf.DogeConfig(**LLAMA_LIKE, head_dim=12)))
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    assert score_heads(model, prompts, scores="prefix_matching", loss=False)["prefix_matching"].isfinite().all()
    assert isinstance(model.anatomy.output_projection(0), nn.Module)  # which ablation needs
    for ask in (head_weights, lambda model, _: ov_copying(model), lambda model, _: find_circuit(model, prompts)):
        with pytest.raises(ValueError, match="a residual stream that goes on as it is"):
            ask(model, 0)
