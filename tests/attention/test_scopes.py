"""One network in many threads and tasks, inside other programs, and compiled."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from families import random_network
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from induction_lab import HookedModel, ablate, ablation_sweep, repeated_tokens, score_heads, temper
from induction_lab.attention.scopes import Scope, alone
from induction_lab.internals.editing import edit_attention

SCORES = ["prefix_matching", "previous_token"]


def scored(model: HookedModel):
    return score_heads(model, repeated_tokens(model, n_prompts=4, period=12), scores=SCORES)


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in SCORES)


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("handles", [1, 3])
def test_threads_that_share_a_network_score_it_alike_and_leave_it_as_it_was(family, handles):
    network = random_network(family)
    models = [HookedModel(network) for _ in range(handles)]
    alone_scored, hooks = scored(models[0]), sum(len(m._forward_hooks) for m in network.modules())
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: scored(models[i % handles]), range(8)))
    assert all(same(each, alone_scored) for each in found)
    assert network.config._attn_implementation == "eager"
    assert sum(len(m._forward_hooks) for m in network.modules()) == hooks


def test_threads_score_different_models_at_once():
    models = [HookedModel(random_network("llama", seed=seed)) for seed in range(4)]
    expected = [scored(model) for model in models]
    with ThreadPoolExecutor(4) as pool:
        assert all(map(same, pool.map(scored, models), expected))


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("changed", ["ablate", "temper"])
def test_what_one_thread_changes_no_other_sees(family, changed):
    model = HookedModel(random_network(family))
    if changed == "temper" and family == "bloom":
        pytest.skip("attends outside the interface: cannot be tempered")
    tokens = repeated_tokens(model, n_prompts=4, period=12).tokens
    untouched, before = scored(model), model.hidden(tokens)
    begin, found = threading.Event(), {}

    def elsewhere():
        begin.wait(60)
        found.update(scores=scored(model), hidden=model.hidden(tokens), plain=model.network(tokens).logits.detach())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    plain = model.network(tokens).logits.detach()
    context = ablate(model, ["L0H0"], method="zero") if changed == "ablate" else temper(model, ["L0H0"], 3.0)
    with context:
        begin.set()
        thread.join(60)
        inside = model.hidden(tokens)
    assert same(found["scores"], untouched) and torch.equal(found["hidden"], before)
    assert torch.equal(found["plain"], plain)
    assert not torch.equal(inside, before) and torch.equal(model.hidden(tokens), before)


def test_tasks_that_run_in_turn_keep_their_own_ablations():
    model = HookedModel(random_network("llama"))
    tokens = repeated_tokens(model, n_prompts=2, period=9).tokens
    expected = {}
    for head in ("L0H0", "L1H2"):
        with ablate(model, head, method="zero"):
            expected[head] = model.hidden(tokens)

    async def without(head):
        with ablate(model, head, method="zero"):
            await asyncio.sleep(0.01)
            found = await asyncio.to_thread(model.hidden, tokens)
            await asyncio.sleep(0.01)
            return torch.equal(found, model.hidden(tokens)) and torch.equal(found, expected[head])

    async def both():
        return await asyncio.gather(without("L0H0"), without("L1H2"))

    assert asyncio.run(both()) == [True, True]


@pytest.mark.parametrize("how", ["whole", "layers", "wrapped"])
def test_compiled_networks_are_scored_ablated_and_swept(how):
    plain, network = (random_network("llama", attention="sdpa") for _ in "ab")
    given = network
    if how == "whole":
        network.compile(backend="eager")
    elif how == "layers":
        for layer in network.model.layers:
            layer.compile(backend="eager")
    else:
        given = torch.compile(network, backend="eager")
    usual, model = HookedModel(plain), HookedModel(given)
    prompts = repeated_tokens(model, n_prompts=4, period=12)
    with torch.no_grad():
        given(prompts.tokens)  # compiled now
    assert same(scored(model), scored(usual))
    with torch.no_grad(), ablate(model, "L1H1", method="zero"), ablate(usual, "L1H1", method="zero"):
        torch.testing.assert_close(given(prompts.tokens).logits, plain(prompts.tokens).logits, atol=1e-5, rtol=0)
    ours, theirs = (ablation_sweep(each, prompts, heads=["L1H1"]).to_dataframe() for each in (model, usual))
    assert ours["effect"][0] == pytest.approx(theirs["effect"][0], abs=1e-5) and ours["effect"][0] != 0
    torch.testing.assert_close(given(prompts.tokens).logits, plain(prompts.tokens).logits, atol=1e-5, rtol=0)


def test_an_edit_that_is_never_asked_is_an_error(monkeypatch):
    model = HookedModel(random_network("llama"))
    tokens = repeated_tokens(model, n_prompts=2, period=9).tokens
    with pytest.raises(ValueError, match="ran without being edited"):
        with edit_attention(model, lambda attention: attention):
            monkeypatch.setattr("induction_lab.attention.hooks.said", lambda of: [])
            model.hidden(tokens)


def test_attention_of_somebody_s_own_is_refused():
    def mine(module, *args, **kwargs):
        return sdpa_attention_forward(module, *args, **kwargs)

    AttentionInterface.register("mine", mine)
    network = random_network("llama")
    network.config._attn_implementation = "mine"
    model = HookedModel(network)
    with pytest.raises(ValueError, match="attends by 'mine'"):
        scored(model)
    assert network.config._attn_implementation == "mine"


def test_kernels_that_are_not_installed_are_one_error():
    network = random_network("llama")
    network.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="does not run here"):
        HookedModel(network)


def test_autocast_is_refused():
    model = HookedModel(random_network("llama"))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="Autocast is on"):
        scored(model)


def test_a_training_loop_goes_on_as_if_nothing_had_been_measured():
    def losses(measured: bool) -> list[float]:
        network = random_network("llama").train()
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        tokens = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(0))
        torch.manual_seed(5)
        found = []
        for _ in range(3):
            loss = network(tokens, labels=tokens).loss
            loss.backward()
            if measured:
                gradients = [p.grad.clone() for p in network.parameters()]
                model = HookedModel(network)
                scored(model)
                with ablate(model, "L0H0"):
                    model.hidden(repeated_tokens(model, n_prompts=2, period=9).tokens)
                assert network.training and all(module.training for module in network.modules())
                assert all(map(torch.equal, gradients, (p.grad for p in network.parameters())))
                assert all(p.requires_grad for p in network.parameters()) and torch.is_grad_enabled()
            optimizer.step()
            optimizer.zero_grad()
            found.append(float(loss))
        return [*found, float(torch.rand(()))]

    assert losses(True) == losses(False)


def test_scopes_hold_where_they_were_opened_only():
    module, seen = torch.nn.Linear(2, 2), []
    with Scope() as scope:
        scope.before(module, lambda module, args: seen.append("hook"))
        module(torch.zeros(1, 2))
        thread = threading.Thread(target=lambda: module(torch.zeros(1, 2)))
        thread.start()
        thread.join()
        with alone(module), alone(module):
            module(torch.zeros(1, 2))
    module(torch.zeros(1, 2))
    assert seen == ["hook", "hook"] and not module._forward_pre_hooks
