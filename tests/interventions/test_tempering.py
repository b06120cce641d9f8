import math

import pytest
import torch
from families import random_network
from torch import nn

from induction_lab import (
    HookedModel,
    ablate,
    capture,
    clamp_heads,
    distinct_tokens,
    logit_lens,
    score_heads,
    temper,
)
from induction_lab.attention.hooks import has_edits
from induction_lab.internals.reading import read_attention
from induction_lab.interventions.tempering import sharpened

BETAS = [0.0, 0.3, 2.0, math.inf]
FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "qwen3"]


def a_model(name: str) -> HookedModel:
    from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer

    if name == "own":
        network = AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=100), seed=3)
        with torch.no_grad():
            network.blocks[0].attn.W_Q.mul_(4)  # far from even
        return HookedModel(network, name="own")
    return HookedModel(random_network(name), name=name)


def seen(model, tokens):
    found = {}
    read_attention(model, tokens, lambda attention: found.update({attention.layer: attention}))
    return found


def row_by_hand(attention, prompt: int, head: int, t: int, beta: float) -> list[float]:
    """`softmax(beta * scores)` of one query, written out; what a sink takes is lost."""
    scores = [float(x) for x in attention.scores()[prompt, head, t]]
    sink = None if attention.sinks is None else attention.sinks[head].item()
    there = [x if x > -1e30 else -math.inf for x in scores] + ([] if sink is None else [sink])
    most = max(there)
    if beta == math.inf:
        weights = [float(i == there.index(most)) for i in range(len(there))]
    else:
        weights = [0.0 if x == -math.inf else math.exp(beta * (x - most)) for x in there]
    return [w / sum(weights) for w in weights][: len(scores)]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", ["own", *FAMILIES])
def test_a_tempered_head_attends_and_puts_out_what_the_slow_way_says_and_the_others_keep_theirs(name, beta):
    model = a_model(name)
    tokens = distinct_tokens(model, n_prompts=2, length=14).tokens
    clean = seen(model, tokens)
    with temper(model, "L0H1 L0H2", beta):
        tempered = seen(model, tokens)
    group = model.n_heads // model.n_kv_heads
    for prompt, head, t in [(0, 1, 14), (1, 2, 9), (0, 2, 1), (1, 1, 5)]:
        row = torch.tensor(row_by_hand(clean[0], prompt, head, t, beta))
        torch.testing.assert_close(tempered[0].pattern()[prompt, head, t], row, atol=2e-5, rtol=1e-4)
        z = row @ clean[0].v[prompt, head // group]
        torch.testing.assert_close(tempered[0].z[prompt, head, t], z, atol=2e-5, rtol=1e-3)
        at = torch.tensor([prompt]), torch.tensor([t]), torch.tensor([t // 2])
        torch.testing.assert_close(tempered[0].probabilities(*at)[0, head], row[t // 2], atol=2e-5, rtol=1e-4)
    assert torch.equal(tempered[0].z[:, [0, 3]], clean[0].z[:, [0, 3]])
    assert not torch.allclose(tempered[0].z[:, 1], clean[0].z[:, 1], atol=1e-4)
    assert not torch.allclose(tempered[1].z, clean[1].z, atol=1e-4)  # later layers hear of it


@pytest.mark.parametrize("name", ["own", "llama", "gemma2"])
def test_a_factor_of_one_changes_nothing_and_everything_is_as_before_afterwards(name):
    model = a_model(name)
    tokens = distinct_tokens(model, n_prompts=2, length=10).tokens
    before, hooks = model.logits(tokens), count_hooks(model)
    with temper(model, "L0H0 L1H1", 1):
        assert torch.equal(model.logits(tokens), before)
    for beta in (0, 3, math.inf):
        with pytest.raises(RuntimeError, match="in the middle"), temper(model, "L0H0 L1H1", beta):
            assert not torch.allclose(model.logits(tokens), before, atol=1e-4)
            raise RuntimeError("in the middle")
        assert torch.equal(model.logits(tokens), before)
        assert count_hooks(model) == hooks and not any(has_edits(module) for module in model.network.modules())


def count_hooks(model) -> int:
    surfaces = [model.network, model.hooked]
    modules = {
        id(module): module for surface in surfaces for module in surface.modules() if isinstance(module, nn.Module)
    }
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules.values())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("name", ["own", "llama", "gpt2", "gpt_neox"])
def test_the_hooked_surface_is_tempered_alike(name, beta):
    model = a_model(name)
    tokens = distinct_tokens(model, n_prompts=2, length=10).tokens
    plain = model.logits(tokens)
    with temper(model, ["L0H1", "L1H3"], beta):
        network, hooked = model.logits(tokens), model.hooked(tokens)
        by_engine = capture(model, tokens, "pattern", layers=1)["pattern", 1]
        with torch.inference_mode():
            _, cache = model.hooked.run_with_cache(tokens, names_filter=["blocks.1.attn.hook_pattern"])
    torch.testing.assert_close(hooked.detach(), network, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(cache["blocks.1.attn.hook_pattern"], by_engine, atol=2e-5, rtol=1e-3)
    assert not torch.allclose(network, plain, atol=1e-3)
    assert torch.allclose(model.hooked(tokens).detach(), plain, atol=1e-4)


def test_factors_of_nested_contexts_multiply_and_clamped_heads_stay_tempered(bundled):
    tokens = distinct_tokens(bundled, n_prompts=2, length=20).tokens
    with temper(bundled, "L0H0", 0.5), temper(bundled, "L0H0", 3.0):
        nested = bundled.logits(tokens)
    with temper(bundled, "L0H0", 1.5):
        assert torch.allclose(bundled.logits(tokens), nested, atol=1e-4)
    with clamp_heads(bundled.network, {"L0H3": "previous_token"}), temper(bundled, "L0H3", 0.0):
        pattern = seen(bundled, tokens)[0].pattern()[0, 3]
    assert pattern[9, 8] == pytest.approx(1.0)  # of a pattern with one entry nothing but that entry is left


def test_of_one_head_the_inner_context_has_its_way(bundled):
    tokens = distinct_tokens(bundled, n_prompts=3, length=20).tokens
    with ablate(bundled, "L0H3", method="zero"), temper(bundled, "L0H3", 0.0):
        inner = bundled.logits(tokens)
    with temper(bundled, "L0H3", 0.0):
        torch.testing.assert_close(inner, bundled.logits(tokens), atol=1e-4, rtol=1e-4)


def test_hard_addressing_leaves_a_perfect_circuit_alone_and_even_reading_destroys_it(circuit):
    from induction_lab import repeated_tokens

    prompts = repeated_tokens(circuit, n_prompts=3, period=15)
    heads = [f"L{layer}H{head}" for layer in range(circuit.n_layers) for head in range(circuit.n_heads)]
    clean = score_heads(circuit, prompts, scores=["prefix_matching"]).loss_by_copy[1]
    with temper(circuit, heads, math.inf):
        assert score_heads(circuit, prompts, scores=["prefix_matching"]).loss_by_copy[1] < clean + 0.05
    with temper(circuit, heads, 0.0):
        assert score_heads(circuit, prompts, scores=["prefix_matching"]).loss_by_copy[1] > clean + 1


def test_the_logit_lens_reads_the_tempered_model(llama):
    prompts = distinct_tokens(llama, n_prompts=2, length=12)
    plain = logit_lens(llama, prompts)
    with temper(llama, "L0H1", 0.0):
        changed = logit_lens(llama, prompts)
    wide = {
        name: t[t["quantity"] == "log_probability"].set_index("layer")["value"]
        for name, t in [("p", plain), ("c", changed)]
    }
    assert wide["p"][-1] == pytest.approx(wide["c"][-1]) and wide["p"][0] != pytest.approx(wide["c"][0], abs=1e-4)


def test_a_row_is_sharpened_by_powers_and_ties_go_to_the_earliest():
    p = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.4, 0.2, 0.4, 0.0]])
    squares = p.square() / p.square().sum(-1, keepdim=True)
    torch.testing.assert_close(sharpened(p.log(), 2.0), squares)
    assert sharpened(p.log(), 0.0)[:, 3].tolist() == [0.0, 0.0]  # what may not be looked at stays out
    assert sharpened(p.log(), math.inf).tolist() == [[1, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("heads", "beta", "message"),
    [
        ([], 2, "Heads are wanted"),
        ("L9H0", 2, "is not there"),
        ("L0H0 L0H0", 2, "more than once"),
        ("L0H0", -1, "at least 0"),
        ("L0H0", math.nan, "at least 0"),
    ],
)
def test_bad_input_is_refused(bundled, heads, beta, message):
    with pytest.raises(ValueError, match=message), temper(bundled, heads, beta):
        pass


def test_a_model_that_attends_out_of_sight_is_refused():
    model = HookedModel(random_network("bloom"), name="bloom")
    with pytest.raises(ValueError, match="out of sight"), temper(model, "L0H0", 2):
        pass
