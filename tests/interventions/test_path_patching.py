import copy

import pytest
import torch
import transformers as hf
from by_hand import changes_at_held_norms, hooks_of, losses, model_of, others_mean, own_model, passed, tokens_of, z_of
from families import random_network, shake_norms
from transformer_lens.patching import get_act_patch_direct_path

from induction_lab import HookedModel
from induction_lab.attribution.shares import input_shares
from induction_lab.interventions import path_patching, prepared
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.path_patching import patch_paths


def copy_loss(logits, tokens):
    return losses(logits, tokens)[:, 10:].mean()


def ungrouped(network):
    """The same network with keys and values copied out, a head for each query head."""
    config = copy.deepcopy(network.config)
    group = config.num_attention_heads // config.num_key_value_heads
    config.num_key_value_heads = config.num_attention_heads
    new = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    weights = {
        name: x.unflatten(0, (-1, config.head_dim)).repeat_interleave(group, 0).flatten(0, 1)
        if ".k_proj." in name or ".v_proj." in name
        else x
        for name, x in network.state_dict().items()
    }
    new.load_state_dict(weights)
    return HookedModel(new, name="ungrouped")


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "qwen3"])
@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_paths_between_heads_are_those_of_transformerlens(family, component):
    """Which refuses keys and values of grouped-query models: it is shown the same network with them copied out."""
    network = random_network(family)
    model = HookedModel(network, name=family)
    whole = ungrouped(network) if model.n_kv_heads < model.n_heads else model
    tokens, others = tokens_of(model), tokens_of(model, seed=5)
    ours = {
        m.name: patch_paths(m, tokens, "L1H2", component, method="resample", reference=others) for m in (model, whole)
    }
    bridge = whole.hooked
    with torch.inference_mode():
        (logits, clean), (_, other) = bridge.run_with_cache(tokens), bridge.run_with_cache(others)
        how = (other, clean, lambda logits: copy_loss(logits, tokens), 0)
        theirs = [
            float(get_act_patch_direct_path(bridge, tokens, *how, head, component, verbose=False)[1, 2])
            for head in range(4)
        ]
    for effects in ours.values():
        assert [effects.of(f"L0H{head}")["changed"] for head in range(4)] == pytest.approx(theirs, abs=1e-4)
    assert max(abs(x - float(copy_loss(logits, tokens))) for x in theirs) > 2e-4  # the control
    if whole is not model and component != "q":
        with pytest.raises((ValueError, NotImplementedError)), torch.inference_mode():
            _, clean = model.hooked.run_with_cache(tokens)
            get_act_patch_direct_path(model.hooked, tokens, clean, clean, *how[2:], 0, component, verbose=False)


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("method", ["mean", "zero", "resample"])
def test_a_receiver_hears_nothing_but_the_senders_change_and_later_ones_compute_the_rest_anew(method, component):
    """Two receivers in different layers, written out with hooks on an own model."""
    model = own_model(n_layers=3, d_mlp=32)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    network, z = model.network, z_of(model, tokens)
    reference = None if method == "mean" else others
    if method == "mean":
        instead = {layer: others_mean(x) for layer, x in z.items()}
    else:
        instead = (
            z_of(model, others) if method == "resample" else {layer: torch.zeros_like(x) for layer, x in z.items()}
        )
    streams = {}
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(3)]
    with torch.no_grad():
        network.run_with_hooks(
            tokens, fwd_hooks=[(n, lambda x, hook: streams.update({hook.layer(): x})) for n in names]
        )

    def slow(sender):
        layer, head = sender
        W = {"q": "W_Q", "k": "W_K", "v": "W_V"}[component]
        change = (instead[layer] - z[layer])[:, :, head] @ network.blocks[layer].attn.W_O[head]

        def tell(x, hook):
            to = hook.layer()
            if to <= layer:
                return x
            receiver = {1: 0, 2: 2}[to]
            x = x.clone()
            heard = network.blocks[to].ln1(streams[to] + change)
            x[:, :, receiver] = heard @ getattr(network.blocks[to].attn, W)[receiver]
            return x

        hooks = [(f"blocks.{to}.attn.hook_{component}", tell) for to in (1, 2)]
        with torch.no_grad():
            return float(copy_loss(network.run_with_hooks(tokens, fwd_hooks=hooks), tokens))

    effects = patch_paths(model, tokens, ["L1H0", "L2H2"], component, method=method, reference=reference)
    senders = [(layer, head) for layer in range(2) for head in range(3)]
    for layer, head in senders:
        row = effects.of(f"L{layer}H{head}")
        assert row["changed"] == pytest.approx(slow((layer, head)), abs=1e-4)
    assert effects.table["effect"].abs().max() > 1e-2
    assert effects.table["label"].tolist()[0] == "embed" and "MLP1" in set(effects.table["label"])
    assert not set(effects.table["label"]) & {"L2H0", "MLP2"}


@pytest.mark.parametrize(
    ("family", "component"),
    [("gemma2", "q"), ("gemma2", "k"), ("gemma2", "v"), ("gemma3", "q"), ("gemma3", "k"), ("olmo2", "q")],
)
def test_heads_whose_sum_is_normalised_are_patched_with_that_norm_held_as_it_is(family, component):
    """Written out with the network's own modules; a receiver's queries, keys or values are put in by hooks."""
    network = shake_norms(random_network(family))
    model = HookedModel(network if family == "olmo2" else ungrouped(network).network, name=family)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    effects = patch_paths(model, tokens, "L1H1", component, method="resample", reference=others)
    changes = changes_at_held_norms(model, tokens, others)
    assert set(effects.table["label"]) == set(changes)
    block = model.network.model.layers[1]
    projection = getattr(block.self_attn, f"{component}_proj")
    norm = getattr(block.self_attn, f"{component}_norm", None) if family == "olmo2" else None  # of all heads together
    stream, mine = passed(model.network, tokens)["model.layers.1"][0], slice(12, 24)
    for sender, change in changes.items():
        with torch.inference_mode():
            read = stream + change if family == "olmo2" else block.input_layernorm(stream + change)
            told = projection(read) if norm is None else norm(projection(read))

            def tell(module, args, output, told=told):
                output = output.clone()
                output[..., mine] = told[..., mine]
                return output

            handle = (projection if norm is None else norm).register_forward_hook(tell)
            slow = float(copy_loss(model.network(tokens, use_cache=False).logits, tokens))
            handle.remove()
        assert effects.of(sender)["changed"] == pytest.approx(slow, abs=1e-5)
    assert effects.table["effect"].abs().max() > 1e-3


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2"])
@pytest.mark.parametrize("method", ["mean", "zero"])
def test_heads_whose_sum_is_normalised_tell_the_logits_their_share_of_it(family, method):
    model = HookedModel(shake_norms(random_network(family)), name=family)
    tokens, layer = tokens_of(model), model.n_layers - 1
    seen = passed(model.network, tokens)
    block, end = f"model.layers.{layer}", seen["model.norm"][0]
    mlp, written = seen[f"{block}.post_feedforward_layernorm"][1], seen[f"{block}.self_attn.o_proj"]
    norm = model.network.get_submodule(f"{block}.post_attention_layernorm")
    gain = norm.weight.detach() + (family != "olmo2")
    z = written[0].unflatten(-1, (4, 12))[:, :, 2]
    W_O = model.network.get_submodule(f"{block}.self_attn.o_proj").weight.detach()[:, 24:36]
    with torch.inference_mode():
        scale = written[1].square().mean(-1, keepdim=True).add(1e-6).sqrt()
        instead = {"mean": others_mean, "zero": torch.zeros_like}[method]
        changes = {f"L{layer}H2": (instead(z) - z) @ W_O.T * gain / scale, f"MLP{layer}": instead(mlp) - mlp}
        effects = patch_paths(model, tokens, None, method=method)
        for sender, change in changes.items():
            slow = float(copy_loss(model.unembed(model.final_norm(end + change)), tokens))
            assert effects.of(sender)["changed"] == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("name", ["small", "llama", "gpt2", "granite"])
def test_what_a_head_tells_the_logits_is_its_output_taken_out_of_the_streams_end(name):
    model = model_of(name)
    tokens = tokens_of(model)
    z = z_of(model, tokens)
    effects = patch_paths(model, tokens, None, method="mean")
    kept = []
    handle = model.final_norm.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model.hidden(tokens)
    handle.remove()
    factor = getattr(getattr(model.network, "config", None), "residual_multiplier", 1.0)
    for layer, head in ((0, 1), (1, 0)):
        change = (others_mean(z[layer]) - z[layer])[:, :, head] @ model.hooked.blocks[layer].attn.W_O[head] * factor
        with torch.inference_mode():
            logits = model.unembed(model.final_norm(kept[0] + change))
        assert effects.of(f"L{layer}H{head}")["changed"] == pytest.approx(float(copy_loss(logits, tokens)), abs=1e-4)
    assert effects.table["effect"].abs().max() > 1e-4
    assert len(effects.table) == 1 + model.n_layers * (model.n_heads + has_mlps(model))


def has_mlps(model):
    return not getattr(model.hooked.cfg, "attn_only", False)


def test_in_the_hand_built_circuit_the_previous_token_head_speaks_to_the_induction_heads_keys_alone(circuit):
    """Its keys read `previous`, which L0H0 alone writes; its queries and values read `token`, from the embedding.

    The embedding also says where BOS is, on which the head rests: without it the keys still find the copy.
    """
    tokens = tokens_of(circuit)
    with ablate(circuit, "L0H0", method="zero"):
        lost = copy_loss(circuit.logits(tokens), tokens) - 0.0
    lost = float(lost - copy_loss(circuit.logits(tokens), tokens))
    assert lost > 3
    effects = {c: patch_paths(circuit, tokens, "L1H0", c, method="zero") for c in ("q", "k", "v")}
    assert effects["k"].of("L0H0")["effect"] == pytest.approx(lost, rel=1e-4)
    assert effects["k"].of("L0H1")["effect"] == pytest.approx(0.0, abs=1e-4)
    for component in ("q", "v"):
        for sender in ("L0H0", "L0H1"):
            assert effects[component].of(sender)["effect"] == pytest.approx(0.0, abs=1e-4)
    assert effects["q"].of("embed")["effect"] > 3
    assert effects["v"].of("embed")["effect"] > 3
    assert effects["k"].of("embed")["effect"] < 0.1
    shares = input_shares(circuit, tokens, "L1H0", "q", method="mean").set_index("sender")["share"]
    assert shares["embed"] == pytest.approx(1.0, abs=1e-4)
    to_logits = patch_paths(circuit, tokens, None, method="zero")
    assert to_logits.top(1)[0][0] == "L1H0"
    assert to_logits.of("L0H0")["effect"] == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("receivers", ["L1H0", None])
@pytest.mark.parametrize("method", ["mean", "resample"])
def test_in_how_many_batches_paths_are_patched_does_not_matter(receivers, method, monkeypatch):
    model = own_model()
    tokens = tokens_of(model, n_prompts=5)
    at_once = patch_paths(model, tokens, receivers, method=method).table
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 40)
    monkeypatch.setattr(path_patching, "TOKENS_A_RUN", 80)
    in_batches = patch_paths(model, tokens, receivers, method=method).table
    for column in ("clean", "changed", "standard_error"):
        assert in_batches[column].tolist() == pytest.approx(at_once[column].tolist(), abs=1e-5)


def test_chosen_senders_alone_are_patched_and_several_receivers_of_a_layer_hear_them_together():
    model = model_of("llama")
    tokens = tokens_of(model)
    both = patch_paths(model, tokens, ["L1H2", "L1H0"], "v")
    some = patch_paths(model, tokens, ["L1H2", "L1H0"], "v", senders=["L0H3", "L0H0"])
    assert some.table["label"].tolist() == ["L0H0", "L0H3"]
    assert some.of("L0H3")["changed"] == pytest.approx(both.of("L0H3")["changed"], abs=1e-5)
    alone = patch_paths(model, tokens, "L1H2", "v", senders="L0H3")
    assert abs(alone.of("L0H3")["changed"] - both.of("L0H3")["changed"]) > 1e-4


def test_paths_can_be_patched_beside_a_head_with_an_ideal_pattern():
    model = own_model()
    tokens = tokens_of(model)
    plain = patch_paths(model, tokens, "L1H1", "k", method="zero")
    with ablate(model, "L1H0", method="ideal_induction"):
        inside = patch_paths(model, tokens, "L1H1", "k", method="zero")
        clean = float(copy_loss(model.logits(tokens), tokens))
    assert inside.of("L0H0")["clean"] == pytest.approx(clean, abs=1e-4)
    assert abs(inside.of("L0H0")["changed"] - plain.of("L0H0")["changed"]) > 1e-3


REFUSED = {
    "a component that is none": (dict(receivers="L1H0", component="z"), "must be one of q, k, v, got 'z'"),
    "a receiver that is not there": (dict(receivers="L5H0"), "L5H0 is not there"),
    "receivers twice": (dict(receivers=["L1H0", "L1H0"]), "may be given once, got L1H0"),
    "no receivers": (dict(receivers=[]), "Receivers are wanted, got none; for the logits give None"),
    "a sender that is not below": (dict(receivers="L1H0", senders="L1H1"), "below a receiver .layer 1., got L1H1"),
    "no senders": (dict(receivers="L1H0", senders=[]), "below a receiver .layer 1., got none"),
    "a method of patterns": (dict(receivers="L1H0", method="ideal_induction"), "got 'ideal_induction'"),
    "an unknown metric": (dict(receivers="L1H0", metric="accuracy"), "got 'accuracy'"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what, llama):
    given, message = REFUSED[what]
    tokens = tokens_of(llama)
    clean, before = llama.logits(tokens), hooks_of(llama)
    with pytest.raises(ValueError, match=message):
        patch_paths(llama, tokens, **given)
    assert hooks_of(llama) == before and torch.equal(llama.logits(tokens), clean)


def test_refuses_models_whose_heads_cannot_be_told_apart():
    model = model_of("bloom")
    tokens = tokens_of(model)
    for function in (patch_paths, input_shares):
        with pytest.raises(ValueError, match="attends out of sight.*`ablate` works"):
            function(model, tokens, "L1H0")
    with ablate(model, "L1H0"):
        assert torch.isfinite(model.logits(tokens)).all()
