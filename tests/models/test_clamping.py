import copy
import gc
from dataclasses import replace

import pytest
import torch
from by_hand import ideal_by_hand
from killing import RECIPE

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel, Prompts, ablate, score_heads
from induction_lab.attention.hooks import has_edits, reading
from induction_lab.data.occurrences import ideal_pattern
from induction_lab.data.prompts import repeated_tokens
from induction_lab.internals.editing import is_edited, unhooked
from induction_lab.interventions.path_patching import patch_paths
from induction_lab.models.attention_only.clamping import check_clamps, clamp_for_good, clamp_heads
from induction_lab.training.one_run import train_run

KINDS = ["previous_token", "induction"]
TOKENS = torch.randint(1, 9, (3, 10), generator=torch.Generator().manual_seed(0)).index_fill(1, torch.tensor(0), 0)


def tiny(positions="rotary") -> AttentionOnlyTransformer:
    shape = AttentionOnlyConfig(n_heads=3, d_model=12, d_head=4, d_vocab=9, n_ctx=12, positions=positions)
    return AttentionOnlyTransformer(shape, seed=1)


def seen_attention(network, tokens=TOKENS) -> dict:
    found = {}
    with torch.no_grad(), reading(lambda attention: found.update({attention.layer: attention})):
        network(tokens)
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_clamped_head_moves_its_values_by_the_ideal_and_the_others_keep_their_bits(kind, layer):
    network = tiny()
    clean, ideal = seen_attention(network), ideal_by_hand(TOKENS, kind)
    with clamp_heads(network, {f"L{layer}H1": kind}):
        clamped = seen_attention(network)
    here = clamped[layer]
    torch.testing.assert_close(here.z[:, 1], ideal @ clean[layer].v[:, 1])
    assert torch.equal(here.z[:, [0, 2]], clean[layer].z[:, [0, 2]])
    assert not torch.allclose(here.z[:, 1], clean[layer].z[:, 1], atol=1e-3)
    torch.testing.assert_close(here.pattern()[:, 1], ideal)
    torch.testing.assert_close(here.pattern()[:, [0, 2]], clean[layer].pattern()[:, [0, 2]])
    assert torch.equal(clamped[0].q, clean[0].q)


def test_all_ways_to_read_a_clamped_pattern_agree():
    network = tiny()
    with clamp_heads(network, {"L0H2": "previous_token", "L0H0": "induction"}):
        attention = seen_attention(network)[0]
        _, cache = network.run_with_cache(TOKENS)
    pattern = attention.pattern()
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"], pattern, atol=1e-6, rtol=1e-5)
    prompt, query, key = torch.ones(10, 10, 10).nonzero()[:300].T
    torch.testing.assert_close(
        attention.probabilities(prompt % 3, query, key), pattern[prompt % 3, :, query, key], atol=1e-6, rtol=1e-5
    )
    heads, queries = torch.tensor([2, 1]), torch.tensor([3, 9])
    torch.testing.assert_close(attention.pattern(heads=heads, queries=queries), pattern[:, heads][:, :, queries])
    torch.testing.assert_close(attention.mix(), attention.z, atol=1e-6, rtol=1e-5)
    v = torch.randn(3, 3, 10, 4)
    torch.testing.assert_close(attention.mix(v=v), pattern @ v, atol=1e-6, rtol=1e-5)
    changed = attention.mix(heads=heads, q=torch.randn(3, 2, 10, 4))  # its head 2 takes no heed, its head 1 does
    torch.testing.assert_close(changed[:, 0], attention.z[:, 2], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(changed[:, 1], attention.z[:, 1], atol=1e-3)


def test_in_training_a_clamped_head_learns_values_alone():
    network = tiny()
    with clamp_heads(network, {"L0H1": "previous_token", "L1H0": "induction"}):
        network(TOKENS).square().sum().backward()
    for layer, clamped in [(0, 1), (1, 0)]:
        attention = network.blocks[layer].attn
        for head in range(3):
            for weights in (attention.W_Q, attention.W_K):
                assert (weights.grad[head].abs().sum() == 0) == (head == clamped)
            for weights in (attention.W_V, attention.W_O):
                assert weights.grad[head].abs().sum() > 0


def test_gradients_of_values_are_those_of_the_ideal_pattern_by_hand():
    network, value = tiny(), []
    with clamp_heads(network, {"L1H0": "induction"}):
        hook = network.blocks[1].attn.hook_v.register_forward_hook(lambda module, args, v: value.append(v))
        with reading(lambda attention: value.append(attention.z) if attention.layer == 1 else None):
            network(TOKENS)
    hook.remove()
    (gradient,) = torch.autograd.grad(value[1][:, 0].sum(), value[0])
    ideal = ideal_by_hand(TOKENS, "induction")
    torch.testing.assert_close(gradient[:, :, 0], ideal.sum(1)[..., None].expand(3, 10, 4))
    assert gradient[:, :, 1:].abs().sum() == 0


def test_afterwards_outputs_have_their_old_bits_even_after_an_error():
    network = tiny()
    before = network(TOKENS)
    with pytest.raises(KeyError), clamp_heads(network, {"L0H0": "previous_token"}):
        assert not torch.equal(network(TOKENS), before)
        raise KeyError
    assert torch.equal(network(TOKENS), before)
    assert not has_edits(network.blocks[0].attn) and not network._forward_pre_hooks
    with clamp_heads(network, {}):
        assert torch.equal(network(TOKENS), before)


def test_a_clamp_follows_the_tokens_however_they_are_given():
    network, other = tiny(), TOKENS.flip(0)[:, :7]
    with clamp_heads(network, {"L0H0": "induction"}):
        rows = network(TOKENS)
        torch.testing.assert_close(network(tokens=other), rows.flip(0)[:, :7], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_a_network_clamped_for_good_stays_so_and_goes_quietly():
    network = tiny()
    before = network(TOKENS)
    with clamp_heads(network, {"L0H0": "previous_token"}):
        inside = network(TOKENS)
    clamp_for_good(network, {"L0H0": "previous_token"})
    gc.collect()
    assert torch.equal(network(TOKENS), inside) and not torch.equal(inside, before)
    del network
    gc.collect()


def test_a_twin_that_nobody_edits_is_clamped_all_the_same():
    model = HookedModel(tiny())
    clean = model.logits(TOKENS)
    clamp_for_good(model.network, {"L0H0": "previous_token"})
    clamped = model.logits(TOKENS)
    assert torch.equal(unhooked(model).logits(TOKENS), clamped) and not torch.equal(clean, clamped)
    assert not is_edited(model)
    assert torch.equal(copy.deepcopy(model.network).W_Q, model.network.W_Q)


def test_a_clamped_head_can_be_ablated_and_its_keys_take_no_heed_of_paths():
    model = HookedModel(tiny())
    clamp_for_good(model.network, {"L1H0": "induction", "L0H0": "previous_token"})
    with ablate(model, "L0H0", method="zero"):
        assert seen_attention(model.network)[0].z[:, 0].abs().sum() == 0
    with ablate(model, "L1H1", method="ideal_previous_token"):
        pattern = seen_attention(model.network)[1].pattern()
    torch.testing.assert_close(pattern[:, 0], ideal_by_hand(TOKENS, "induction"))
    torch.testing.assert_close(pattern[:, 1], ideal_by_hand(TOKENS, "previous_token"))
    with ablate(model, "L0H0", method="pattern_preserving"):
        assert seen_attention(model.network)[0].z[:, 0].abs().sum() == 0
    prompts = repeated_tokens(model, period=4, n_repeats=2, n_prompts=4)
    keys = patch_paths(model, prompts, "L1H0", "k", senders=["L0H0", "L0H1"])
    values = patch_paths(model, prompts, "L1H0", "v", senders=["L0H0", "L0H1"])
    assert all(abs(effect) < 1e-6 for _, effect in keys.top(2))
    assert any(abs(effect) > 1e-6 for _, effect in values.top(2))


def test_a_run_that_was_trained_clamped_is_loaded_clamped_and_scores_as_such(tmp_path):
    recipe = replace(RECIPE, clamps={"L0H1": "previous_token", "L1H0": "induction"})
    model = train_run(recipe, tmp_path / "clamped", device="cpu").model()
    gc.collect()
    prompts = repeated_tokens(model, period=5, n_prompts=4)
    scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token"])
    assert scores.of("L1H0")["prefix_matching"] == pytest.approx(1, abs=1e-6)
    assert scores.of("L0H1")["previous_token"] == pytest.approx(1, abs=1e-6)
    assert scores.of("L0H0")["previous_token"] < 0.9 and scores.of("L1H1")["prefix_matching"] < 0.9
    assert not torch.equal(
        model.logits(prompts.tokens),
        AttentionOnlyTransformer.load(tmp_path / "clamped/checkpoints/step-00000005")(prompts.tokens),
    )
    plain = train_run(RECIPE, tmp_path / "plain", device="cpu").model()
    assert not torch.equal(plain.network.W_V, model.network.W_V)
    start = AttentionOnlyTransformer(RECIPE.model)
    shrunk = start.W_Q[0, 1] * model.network.W_Q[0, 1].sum() / start.W_Q[0, 1].sum()
    torch.testing.assert_close(model.network.W_Q[0, 1], shrunk, atol=1e-6, rtol=1e-4)  # by weight decay alone


def test_heads_that_are_not_there_and_other_patterns_are_refused():
    network = tiny()
    for clamps, message in [
        ({"L2H0": "induction"}, "L2H0 is not there"),
        ({"L0H0": "copying"}, "previous_token or induction"),
        ({"L0H0": "induction", "0.0": "previous_token"}, "may be clamped once"),
    ]:
        with pytest.raises(ValueError, match=message), clamp_heads(network, clamps):
            pass
        with pytest.raises(ValueError, match=message):
            clamp_for_good(network, clamps)
    assert check_clamps({"0.1": "induction"}, n_layers=1, n_heads=2) == {(0, 1): "induction"}
    assert Prompts(TOKENS).tokens.shape == (3, 10)


def test_a_clamp_follows_the_tokens_of_runs_with_hooks_too():
    network = AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=1), seed=0)
    first, second = torch.randint(1, 64, (2, 1, 20)).unbind()
    with clamp_heads(network, {"L0H1": "previous_token"}):
        network(first)
        _, cache = network.run_with_cache(second[:, :9])
    pattern = cache["blocks.0.attn.hook_pattern"][0, 1]
    torch.testing.assert_close(pattern, ideal_pattern(second[:, :9], "previous_token")[0])
