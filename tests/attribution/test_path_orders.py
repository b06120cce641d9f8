import copy

import pytest
import torch
from families import random_network

from induction_lab import HookedModel, ablation_sweep, expand_paths, repeated_tokens, term_importance
from induction_lab.attribution.path_orders import frozen_norms
from induction_lab.behaviour.losses import loss_per_token
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


def test_each_order_is_the_loss_of_the_sum_of_paths_through_at_most_so_many_heads(bundled):
    network = copy.deepcopy(bundled.network)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "ln" in name and name.endswith(".b"):
                parameter.zero_()  # `expand_paths` counts biases as constant, though heads pass them on
    model = HookedModel(network)
    prompts = repeated_tokens(model, n_prompts=3)
    assert_orders_are_sums_of_paths(model, prompts)


def assert_orders_are_sums_of_paths(model, prompts):
    values = term_importance(model, prompts, metric="loss").set_index("order")["value"]
    terms = expand_paths(model, prompts)
    for order in range(model.n_layers + 1):
        logits = sum((terms[path] for path in terms if len(path) <= order), terms.constant)
        slow = loss_per_token(torch.as_tensor(logits), prompts.tokens).mean()
        assert values[order] == pytest.approx(float(slow), abs=1e-4)


def test_three_layers_have_orders_up_to_three():
    config = AttentionOnlyConfig(n_layers=3, d_vocab=60, positions="learned", layer_norm=False)
    model = HookedModel(AttentionOnlyTransformer(config, seed=1))
    prompts = repeated_tokens(model, n_prompts=3, period=10)
    assert_orders_are_sums_of_paths(model, prompts)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2", "olmo2", "qwen3", "gpt_oss"])
@pytest.mark.parametrize("freeze_norms", [True, False])
def test_the_highest_order_is_the_whole_model(family, freeze_norms):
    model = HookedModel(random_network(family), name=family)
    prompts = repeated_tokens(model, n_prompts=2, period=8)
    values = term_importance(model, prompts, metric="loss", freeze_norms=freeze_norms)["value"]
    whole = loss_per_token(model.logits(prompts.tokens), prompts.tokens).mean()
    assert values.iloc[-1] == pytest.approx(float(whole), abs=1e-4)
    assert abs(values.iloc[0] - float(whole)) > 1e-3  # the negative control: no head at all


def test_held_norms_change_nothing_in_a_clean_run_and_something_in_another(llama):
    tokens = repeated_tokens(llama, n_prompts=2, period=8).tokens
    streams, other = residual_streams(llama, tokens), tokens.flip(0)
    before = hooks_of(llama)
    with frozen_norms(llama, streams):
        torch.testing.assert_close(llama.hidden(tokens), streams.normalised, atol=1e-5, rtol=1e-4)
        held = llama.hidden(other)
    assert not torch.allclose(held, llama.hidden(other), atol=1e-3)
    assert torch.equal(llama.hidden(tokens), llama.hidden(tokens))
    assert hooks_of(llama) == before


def hooks_of(model):
    return [len(module._forward_hooks) for module in model.network.modules()]  # transformers leaves some of its own


def test_the_circuit_by_hand_needs_one_head_and_no_virtual_one(circuit):
    prompts = repeated_tokens(circuit, n_prompts=3)
    table = term_importance(circuit, prompts).set_index("order")
    assert table.loc[0, "value"] > 4 and table.loc[1, "value"] < 1e-3
    assert abs(table.loc[2, "adds"]) < 1e-3
    kept = ablation_sweep(circuit, prompts, heads=["L0H0", "L1H0"], method="pattern_preserving")
    assert abs(kept.of("L0H0")["effect"]) < 1e-3 < kept.of("L1H0")["effect"]


def test_orders_are_checked(circuit):
    prompts = repeated_tokens(circuit, n_prompts=2)
    assert list(term_importance(circuit, prompts, orders=1)["order"]) == [0, 1]
    with pytest.raises(ValueError, match="`orders` must not be negative, got -1"):
        term_importance(circuit, prompts, orders=-1)
    bloom = HookedModel(random_network("bloom"), name="bloom")
    with pytest.raises(ValueError, match="attends out of sight"):
        term_importance(bloom, repeated_tokens(bloom, n_prompts=2, period=5))
