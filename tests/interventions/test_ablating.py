import pytest
import torch
from by_hand import (
    EVERY,
    OWN,
    hooked_logits,
    hooks_of,
    model_of,
    others_mean,
    own_model,
    patterns_of,
    tokens_of,
    with_z,
    z_of,
)
from families import INTERFACE, random_network

from induction_lab import HookedModel, capture, score_heads, term_importance
from induction_lab.data.prompts import Prompts
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.ablation_methods import METHODS
from induction_lab.interventions.each_head import ablation_sweep
from induction_lab.models.attention_only.network import AttentionOnlyTransformer

HEADS = [(0, 1), (1, 0)]


def replaced(model, tokens, z):
    """Logits where the heads put out `z`, wherever it comes from."""
    return with_z(model, tokens, {(layer, head): z[layer][:, :, head] for layer, head in HEADS})


def bridged(model, tokens):
    with torch.inference_mode():
        return model.hooked(tokens)


@pytest.mark.parametrize("name", EVERY)
def test_mean_zero_and_resample_are_what_a_hook_on_z_does_by_hand_on_network_and_bridge(name):
    model = model_of(name)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    clean, clean_bridge = model.logits(tokens), bridged(model, tokens)
    own, reference = z_of(model, tokens), z_of(model, others)
    before = hooks_of(model)
    wanted = {
        ("zero", None): {layer: torch.zeros_like(z) for layer, z in own.items()},
        ("mean", None): {layer: others_mean(z) for layer, z in own.items()},
        ("mean", others): {layer: z.mean(0, keepdim=True) for layer, z in reference.items()},
        ("resample", others): reference,
    }
    for (method, given), z in wanted.items():
        slow = replaced(model, tokens, z)
        with ablate(model, HEADS, method=method, reference=given) as inside:
            assert inside is model
            torch.testing.assert_close(model.logits(tokens), slow, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(bridged(model, tokens), slow, atol=1e-4, rtol=1e-4)
        assert float((slow - clean).abs().max()) > 5e-3, method  # the control: there is something to get right
        assert torch.equal(model.logits(tokens), clean)
        assert torch.equal(bridged(model, tokens), clean_bridge)
    assert hooks_of(model) == before
    assert name in OWN or model.network.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_resampling_takes_another_prompts_outputs_for_every_prompt(name):
    model = model_of(name)
    tokens = tokens_of(model)
    z = z_of(model, tokens)
    shifted = [replaced(model, tokens, {layer: x.roll(shift, 0) for layer, x in z.items()}) for shift in range(3)]
    for seed in range(4):
        with ablate(model, HEADS, method="resample", seed=seed):
            got = model.logits(tokens)
        agrees = [torch.allclose(got, wanted, atol=1e-4, rtol=1e-4) for wanted in shifted]
        assert sum(agrees) == 1 and not agrees[0]
    few = tokens_of(model, n_prompts=2, seed=5)
    reference = z_of(model, few)
    with ablate(model, HEADS, method="resample", reference=few):
        got = model.logits(tokens)
    each = [replaced(model, tokens, {layer: z[i : i + 1] for layer, z in reference.items()}) for i in range(2)]
    for prompt in range(3):
        assert any(torch.allclose(got[prompt], wanted[prompt], atol=1e-4, rtol=1e-4) for wanted in each)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "opt", "gpt_oss", *OWN])
def test_network_and_bridge_agree_inside_and_are_bit_for_bit_as_before_afterwards(name, method):
    model = model_of(name)
    tokens = tokens_of(model)
    clean, clean_bridge, before = model.logits(tokens), bridged(model, tokens), hooks_of(model)
    with ablate(model, HEADS, method=method):
        torch.testing.assert_close(model.logits(tokens), bridged(model, tokens), atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="inside"), ablate(model, HEADS, method=method):
        model.logits(tokens)
        raise RuntimeError("inside")
    assert torch.equal(model.logits(tokens), clean)
    assert torch.equal(bridged(model, tokens), clean_bridge)
    assert hooks_of(model) == before


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "bundled"])
@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
@pytest.mark.parametrize("given", [False, True])
def test_one_context_in_another_is_one_context_with_both_heads(name, method, given):
    model = model_of(name)
    tokens = tokens_of(model)
    how = {"method": method, "reference": tokens_of(model, seed=1) if given else None}
    with ablate(model, HEADS, **how):
        wanted, wanted_bridge = model.logits(tokens), bridged(model, tokens)
    for first, second in (HEADS, HEADS[::-1]):
        with ablate(model, first, **how):
            alone = model.logits(tokens)
            with ablate(model, second, **how):
                torch.testing.assert_close(model.logits(tokens), wanted, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(bridged(model, tokens), wanted_bridge, atol=1e-5, rtol=1e-5)
            assert torch.equal(model.logits(tokens), alone)
        assert not torch.allclose(alone, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "bundled"])
def test_of_one_head_the_inner_context_has_its_way(name):
    model = model_of(name)
    tokens = tokens_of(model)
    with ablate(model, "L1H0", method="zero"):
        zero, zero_bridge = model.logits(tokens), bridged(model, tokens)
        with ablate(model, "L1H0", method="mean"):
            mean = model.logits(tokens)
    with ablate(model, "L1H0", method="mean"):
        torch.testing.assert_close(model.logits(tokens), mean)
        with ablate(model, "L1H0", method="zero"):
            torch.testing.assert_close(model.logits(tokens), zero)
            torch.testing.assert_close(bridged(model, tokens), zero_bridge)
    assert not torch.allclose(mean, zero, atol=1e-4)


@pytest.mark.parametrize("name", OWN)
def test_without_any_head_nothing_of_attention_is_left_in_an_own_model(name):
    model = model_of(name)
    tokens = tokens_of(model)
    network = model.network
    stream = network.W_E[tokens]
    if network.cfg.positions == "learned":
        stream = stream + network.pos_embed.W_pos[: tokens.shape[1]]
    with torch.no_grad():
        wanted = network.ln_final(stream) @ network.W_U
    every = [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)]
    with ablate(model, every, method="zero"):
        torch.testing.assert_close(model.logits(tokens), wanted, atol=1e-5, rtol=1e-5)


def test_without_any_head_llama_is_llama_with_its_attention_modules_silenced(llama):
    tokens = tokens_of(llama)
    silent = [
        layer.self_attn.register_forward_hook(lambda module, args, output: (output[0] * 0, *output[1:]))
        for layer in llama.network.model.layers
    ]
    wanted = llama.logits(tokens)
    for handle in silent:
        handle.remove()
    with ablate(llama, [(layer, head) for layer in range(2) for head in range(4)], method="zero"):
        torch.testing.assert_close(llama.logits(tokens), wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(llama.logits(tokens), wanted, atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_another_model_is_not_touched(name):
    model = model_of(name)
    network = AttentionOnlyTransformer(model.network.cfg) if name == "bundled" else random_network(name, seed=1)
    other = HookedModel(network)
    tokens = tokens_of(model)
    clean = other.logits(tokens)
    with ablate(model, "L0H1", method="zero"):
        ablated = model.logits(tokens)
        torch.testing.assert_close(other.logits(tokens), clean, atol=0, rtol=0)
        with ablate(other, "L0H0", method="zero"):
            assert not torch.allclose(other.logits(tokens), clean, atol=1e-4)
            assert torch.equal(model.logits(tokens), ablated)
    assert torch.equal(other.logits(tokens), clean)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "bundled"])
def test_what_is_captured_inside_is_the_ablated_model(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean = capture(model, tokens, ["z", "v", "resid_pre", "logits"])
    with ablate(model, "L0H1", method="zero"):
        acts = capture(model, tokens, ["z", "v", "resid_pre", "logits"])
        logits = model.logits(tokens)
    torch.testing.assert_close(acts["logits"], logits, atol=1e-4, rtol=1e-4)
    z, whole = (x["z", 0].flatten(2).unflatten(2, (model.n_heads, -1)) for x in (acts, clean))
    assert not z[:, :, 1].any() and whole[:, :, 1].any()
    torch.testing.assert_close(z[:, :, 0], whole[:, :, 0], atol=1e-5, rtol=1e-5)
    assert torch.allclose(acts["resid_pre", 0], clean["resid_pre", 0], atol=1e-5)
    assert not torch.allclose(acts["resid_pre", 1], clean["resid_pre", 1], atol=1e-3)


@pytest.mark.parametrize("name", [*INTERFACE, *OWN])
def test_forced_patterns_are_what_one_sees(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean = patterns_of(model, tokens)
    ideal = torch.cat([torch.eye(19)[:1], torch.eye(19)[:-1]])  # query t on key t - 1, BOS on itself
    with ablate(model, "L1H0", method="ideal_previous_token"):
        seen = capture(model, tokens, "pattern")["pattern", 1]
        scores = score_heads(model, Prompts(tokens), scores=["previous_token"], loss=False)
    torch.testing.assert_close(seen[:, 0], ideal.expand(3, -1, -1), atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[:, 1:], clean[1][:, 1:], atol=1e-4, rtol=1e-4)
    assert float(scores["previous_token"][1, 0]) == pytest.approx(1.0, abs=1e-6)
    without = score_heads(model, Prompts(tokens), scores=["previous_token"], loss=False)
    assert float(without["previous_token"][1, 0]) < 0.9
    torch.testing.assert_close(scores["previous_token"][0], without["previous_token"][0], atol=1e-5, rtol=1e-5)
    with ablate(model, HEADS, method="pattern_preserving"):
        for layer, pattern in enumerate(clean):
            seen = capture(model, tokens, "pattern", layers=layer)["pattern", layer]
            torch.testing.assert_close(seen, pattern, atol=1e-4, rtol=1e-4)


def gradient(model, tokens, logits_of):
    parameters = [model.network.W_E] if hasattr(model.network, "W_E") else [next(model.hooked.parameters())]
    logits = logits_of(tokens)
    return torch.autograd.grad(logits.square().sum(), parameters)[0]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_through_an_ablated_own_model_as_by_hand(method):
    model = own_model()
    tokens = tokens_of(model)
    others = tokens_of(model, seed=1)
    with torch.no_grad():
        reference, clean = z_of(model, others), patterns_of(model, tokens)
    clean = [pattern.clone() for pattern in clean]  # fit for a backward pass
    instead = {layer: z.mean(0, keepdim=True) if method == "mean" else z for layer, z in reference.items()}
    previous, induction = torch.zeros(2, 3, 19, 19)
    for t in range(19):
        previous[:, t, max(t - 1, 0)] = induction[:, t, t - 8 if t > 9 else 0] = 1.0

    def change(layer, z, v):
        if method == "pattern_preserving":
            z = torch.einsum("bhqk,bkhd->bqhd", clean[layer], v)
        for at, head in HEADS:
            if at == layer:
                pattern = previous if method == "ideal_previous_token" else induction
                outputs = pattern @ v[:, :, head] if method.startswith("ideal") else instead[layer][:, :, head]
                z[:, :, head] = 0.0 if method in ("zero", "pattern_preserving") else outputs
        return z

    wanted = gradient(model, tokens, lambda tokens: hooked_logits(model, tokens, change))
    how = {"method": method, "reference": others if method in ("mean", "resample") else None}
    with ablate(model, HEADS, **how):
        torch.testing.assert_close(gradient(model, tokens, model.hooked), wanted, atol=1e-3, rtol=1e-3)
        with torch.no_grad():
            assert torch.isfinite(model.hooked(tokens)).all()
    assert not torch.allclose(gradient(model, tokens, model.hooked), wanted, atol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_flow_through_the_bridge_of_an_ablated_llama(method, llama):
    tokens = tokens_of(llama)
    with ablate(llama, HEADS, method=method):
        torch.testing.assert_close(llama.hooked(tokens).detach(), llama.logits(tokens), atol=1e-4, rtol=1e-4)
        assert float(gradient(llama, tokens, llama.hooked).abs().sum()) > 0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_that_is_built_for_the_context_keeps_nothing_of_it(family):
    """It is a copy of the network: what is done to the network at that time must not be copied with it."""
    model, other = HookedModel(random_network(family)), HookedModel(random_network(family))
    tokens = tokens_of(model)
    with ablate(model, "L0H1", method="mean"):
        model.logits(tokens)
    bridged(model, tokens)
    bridged(other, tokens)
    assert hooks_of(model) == hooks_of(other)
    configs = [getattr(module, "config", None) for module in model.hooked.modules()]
    assert {getattr(config, "_attn_implementation", "eager") for config in configs} == {"eager"}


def test_an_ablated_model_can_be_swept_and_the_sweeps_batches_do_not_matter():
    """Side by side the same prompts run once for each head; the outer context must not take them for other prompts."""
    model = own_model()
    tokens = tokens_of(model)
    with ablate(model, "L1H2", method="mean"):
        together = ablation_sweep(model, tokens, method="zero")
        for label in ("L0H0", "L0H2", "L1H0"):
            alone = ablation_sweep(model, tokens, heads=[label], method="zero").of(label)
            with ablate(model, label, method="zero"):
                slow = model.logits(tokens)
            slow = torch.nn.functional.cross_entropy(slow[:, 10:-1].flatten(0, 1), tokens[:, 11:].flatten())
            assert together.of(label)["changed"] == pytest.approx(float(slow), abs=1e-5)
            assert alone["changed"] == pytest.approx(float(slow), abs=1e-5)


REFUSED = {
    "a head that is not there": (dict(heads="L7H0"), "L7H0 is not there: the model has layers 0 to 1"),
    "heads given twice": (dict(heads=["L0H0", (0, 0)]), "may be given once, got L0H0"),
    "no head": (dict(heads=[]), "Heads are wanted, got none"),
    "unknown method": (dict(heads="L0H0", method="median"), "must be one of mean, zero.*got 'median'"),
    "a reference out of the vocabulary": (dict(heads="L0H0", reference=torch.full((2, 19), 999)), "Tokens must lie in"),
}


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
@pytest.mark.parametrize("what", REFUSED)
def test_refuses(name, what):
    model, (given, message) = model_of(name), REFUSED[what]
    tokens = tokens_of(model)
    clean, before = model.logits(tokens), hooks_of(model)
    with pytest.raises(ValueError, match=message), ablate(model, **given):
        pass
    assert hooks_of(model) == before and torch.equal(model.logits(tokens), clean)


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_refuses_inside_what_cannot_be_ablated_and_leaves_nothing_behind(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean, before = model.logits(tokens), hooks_of(model)
    for method in ("mean", "resample"):
        with (
            pytest.raises(ValueError, match="of 12 tokens, (the model was run on 3|those measured on have 19)"),
            ablate(model, "L0H0", method=method, reference=tokens[:, :12]),
        ):
            model.logits(tokens)
        assert hooks_of(model) == before and torch.equal(model.logits(tokens), clean)
    with ablate(model, "L0H0", method="mean", reference=tokens):  # a mean serves one prompt as well
        assert torch.isfinite(model.logits(tokens[:1])).all()


@pytest.mark.parametrize("family", ["bloom", "gptj", "gpt_neo", "mpt"])
@pytest.mark.parametrize("method", ["pattern_preserving", "ideal_previous_token", "ideal_induction"])
def test_refuses_to_change_patterns_that_are_out_of_sight(family, method):
    model = model_of(family)
    before = hooks_of(model)
    with pytest.raises(ValueError, match="can be neither held nor changed in \\w+.*out of sight"):
        ablate(model, "L0H0", method=method).__enter__()
    assert hooks_of(model) == before


@pytest.mark.parametrize("method", [method for method in METHODS if method != "zero"])
def test_refuses_to_generate_from_a_cache_which_would_ablate_by_the_wrong_positions(method, llama):
    tokens = tokens_of(llama)
    how = {"max_new_tokens": 3, "do_sample": False}
    with ablate(llama, "L0H1", method=method):
        with pytest.raises(ValueError, match="1 tokens after 19.*use_cache=False"):
            llama.network.generate(tokens, **how)
        whole = llama.network.generate(tokens, use_cache=False, **how)
        assert torch.equal(whole[:, -1], llama.logits(whole[:, :-1])[:, -1].argmax(-1))
    with ablate(llama, "L0H1", method="zero"):
        assert torch.equal(
            llama.network.generate(tokens, **how), llama.network.generate(tokens, use_cache=False, **how)
        )


def test_refuses_embeddings_also_after_tokens(llama):
    tokens = tokens_of(llama)
    with ablate(llama, "L0H1", method="mean"):
        llama.logits(tokens)
        with pytest.raises(ValueError, match="must know the tokens"):
            llama.network(inputs_embeds=llama.network.get_input_embeddings()(tokens))


def test_patterns_are_held_before_heads_are_ablated_not_after():
    model = own_model()
    tokens = tokens_of(model)
    with (
        ablate(model, "L1H0", method="zero"),
        pytest.raises(ValueError, match="would undo the ablation that is in force"),
    ):
        with ablate(model, "L1H1", method="pattern_preserving"):
            pass
    with ablate(model, "L1H1", method="pattern_preserving"), ablate(model, "L1H0", method="zero"):
        both = model.logits(tokens)
    with ablate(model, ["L1H0", "L1H1"], method="pattern_preserving"):
        torch.testing.assert_close(model.logits(tokens), both, atol=1e-5, rtol=1e-4)
    with ablate(model, "L0H1", method="ideal_induction"), pytest.raises(ValueError, match="would undo the ablation"):
        term_importance(model, tokens)
