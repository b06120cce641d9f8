"""Weights are what the forward pass does: adapters, hooks and narrow numbers on projections are seen, or refused."""

import peft
import pytest
import torch
from families import D_VOCAB, random_network
from torch import nn

from induction_lab import HookedModel, attribute_logits, capture, find_circuit, ov_copying, repeated_tokens, score_heads
from induction_lab.models.head_weights import head_weights

TOKENS = torch.randint(3, D_VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
NAMES = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "gpt2": ("c_attn", "c_proj"),
    "gpt_neox": ("query_key_value",),
}


def shake(network, seed=1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def assert_weights_make_the_run(model):
    """What each layer's heads read gives their values, and what their projection gives, by weights and biases alone."""
    acts, seen, hooks = capture(model, TOKENS, ["v", "z"]), {}, []  # the engine's

    def keep(key):
        return lambda _, args, kwargs, output: seen.__setitem__(key, ((*args, kwargs.get("hidden_states"))[0], output))

    for layer, block in enumerate(model.anatomy.blocks):
        for key, module in (("stream", block), ("added", model.anatomy.output_projection(layer))):
            hooks.append(module.register_forward_hook(keep((key, layer)), with_kwargs=True))
    model.hidden(TOKENS)
    for hook in hooks:
        hook.remove()
    for layer in range(model.n_layers):
        (_, _, W_V, W_O), biases = head_weights(model, layer), model.anatomy.head_biases(layer)
        with torch.no_grad():
            read = model.anatomy.norm_before(layer)(seen["stream", layer][0])
        v = torch.einsum("bpd,hde->bphe", read, W_V) + (0 if biases.b_V is None else biases.b_V)
        torch.testing.assert_close(v, acts["v", layer], atol=1e-4, rtol=1e-4)
        added = torch.einsum("bphe,hed->bpd", acts["z", layer], W_O) + (0 if biases.b_O is None else biases.b_O)
        torch.testing.assert_close(added, seen["added", layer][1], atol=1e-4, rtol=1e-4)


def everything(model):
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    scores = score_heads(model, prompts, scores=["prefix_matching", "logit_attribution"], loss=False)
    edges = find_circuit(model, prompts).edges.select_dtypes("number")
    return {"looking": scores["prefix_matching"], "writing": scores["logit_attribution"], "ov": ov_copying(model),
            "circuit": torch.tensor(edges.to_numpy())}  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True], ids=["injected", "PeftModel"])
@pytest.mark.parametrize("family", NAMES)
def test_an_adapter_is_in_the_weights_as_it_is_in_the_run_and_as_if_it_were_merged(family, wrapped):
    config = peft.LoraConfig(target_modules=list(NAMES[family]), r=4, lora_dropout=0.5, fan_in_fan_out=family == "gpt2")
    network = random_network(family)
    model = HookedModel(network)
    before = everything(model)
    adapted = peft.get_peft_model(network, config) if wrapped else peft.inject_adapter_in_model(config, network)
    shake(network)
    if wrapped:
        model = HookedModel(adapted.base_model.model)
    with_adapter = everything(model)
    assert_weights_make_the_run(model)
    for name, values in with_adapter.items():
        assert (values - before[name]).abs().max() > 1e-3, name
    peft.tuners.lora.LoraModel.merge_and_unload(adapted.base_model) if wrapped else merge(network)
    for name, values in everything(model).items():
        torch.testing.assert_close(values, with_adapter[name], atol=2e-4, rtol=1e-3, msg=name)


def merge(network):
    for module in list(network.modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            module.merge()


@pytest.mark.parametrize("name", NAMES["llama"])
def test_a_hook_that_changes_what_a_projection_gives_linearly_is_in_its_weights(name):
    model = HookedModel(random_network("llama"))
    module = getattr(model.network.model.layers[1].self_attn, name)
    before = ov_copying(model), head_weights(model, 1)
    handle = module.register_forward_hook(lambda _, __, output: 2 * output - output.roll(1, -1))
    assert_weights_make_the_run(model)
    handle.remove()
    assert torch.equal(ov_copying(model), before[0])
    for mine, was in zip(head_weights(model, 1), before[1], strict=True):
        assert torch.equal(mine, was)


@pytest.mark.parametrize("name", NAMES["llama"])
@pytest.mark.parametrize("bend", [torch.tanh, lambda x: x.round(decimals=1)], ids=["tanh", "rounding"])
def test_a_hook_or_a_layer_that_bends_is_refused_by_name_and_looking_still_scored(name, bend):
    model = HookedModel(random_network("llama"))
    attention = model.network.model.layers[1].self_attn
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    setattr(attention, name, nn.Sequential(getattr(attention, name), Bent(bend)))
    for ask in (lambda: head_weights(model, 1), lambda: ov_copying(model), lambda: find_circuit(model, prompts)):
        with pytest.raises(ValueError, match="does not multiply what it reads by a matrix"):
            ask()
    scores = score_heads(model, prompts, loss=False)
    assert "prefix_matching" in scores.scores
    assert ("logit_attribution" in scores.scores) == (name != "o_proj")


def test_a_hook_on_attention_as_a_whole_is_refused_where_it_changes_something_and_no_matter_where_it_looks():
    model = HookedModel(random_network("llama"))
    attention, before = model.network.model.layers[1].self_attn, ov_copying(model)
    looking = attention.register_forward_hook(lambda *_: None)
    assert torch.equal(ov_copying(model), before)
    for change in (
        lambda _, __, output: (2 * output[0], *output[1:]),
        lambda _, __, output: (output[0].tanh(), *output[1:]),
    ):
        handle = attention.register_forward_hook(change)
        with pytest.raises(ValueError, match="has no one projection of what its heads put out"):
            ov_copying(model)
        handle.remove()
    looking.remove()
    assert torch.equal(ov_copying(model), before)


class Bent(nn.Module):
    def __init__(self, bend):
        super().__init__()
        self.bend = bend

    def forward(self, x):
        return self.bend(x)


def test_parametrised_weights_are_seen_as_they_are():
    model = HookedModel(random_network("llama"))
    module = model.network.model.layers[0].self_attn.v_proj
    nn.utils.parametrizations.weight_norm(module)
    with torch.no_grad():
        module.parametrizations.weight.original0.mul_(3.0)
    assert_weights_make_the_run(model)


def quantised(family, kind):
    network = random_network(family)
    if kind == "torch, dynamic":
        return torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    how = pytest.importorskip("torchao.quantization")
    how.quantize_(
        network, how.Int8WeightOnlyConfig() if kind == "weights" else how.Int8DynamicActivationInt8WeightConfig()
    )
    return network


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_weights_of_fewer_bits_are_read_as_they_act(family):
    model = HookedModel(quantised(family, "weights"))
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    with torch.no_grad():
        wanted = model.network(prompts.tokens, output_attentions=True, use_cache=False).attentions
    found = capture(model, prompts, "pattern")
    for layer, pattern in enumerate(wanted):
        torch.testing.assert_close(found["pattern", layer], pattern, atol=1e-5, rtol=1e-4)
    whole = everything(HookedModel(random_network(family)))
    for name, values in everything(model).items():
        assert values.isfinite().all() and not torch.equal(values, whole[name])
        torch.testing.assert_close(values, whole[name], atol=0.1 * float(whole[name].abs().max()), rtol=0.1, msg=name)
    assert_weights_make_the_run(model)


@pytest.mark.parametrize("kind", ["weights and activations", "torch, dynamic"])
def test_layers_that_round_what_they_read_are_refused_and_looking_still_scored(kind):
    model = HookedModel(quantised("llama", kind))
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    for ask in (ov_copying, lambda model: find_circuit(model, prompts), attribute_logits):
        with pytest.raises(ValueError, match="does not multiply what it reads by a matrix|cannot hook"):
            ask(model) if ask is not attribute_logits else ask(model, prompts)
    scores = score_heads(model, prompts, loss=False)
    assert "prefix_matching" in scores.scores and "logit_attribution" in scores.provenance["left_out"]
