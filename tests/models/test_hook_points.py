"""A network of ours becomes TransformerLens' `HookedRootModule` when its hooks are first used, and stays the same."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint as TheirHookPoint

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel
from induction_lab.models.attention_only.as_transformer_lens import OF_HOOKS
from induction_lab.models.attention_only.hook_points import HookPoint

CONFIG = AttentionOnlyConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, d_vocab=11, n_ctx=16, layer_norm=True)
TOKENS = torch.arange(10)[None]


@pytest.fixture
def network():
    return AttentionOnlyTransformer(CONFIG, seed=3)


def test_what_makes_a_network_hooked_is_whatever_hooked_root_modules_have(network):
    root = HookedRootModule()
    root.setup()
    theirs = {name for name in dir(root) if not name.startswith("_")} - set(dir(nn.Module()))
    assert theirs == OF_HOOKS
    for name in theirs:
        assert not isinstance(network, HookedRootModule)
        assert hasattr(network, name) and isinstance(network, HookedRootModule), name
        network = AttentionOnlyTransformer(CONFIG)
    for absent in ("get_base_model", "config", "clamps"):
        assert not hasattr(network, absent) and not isinstance(network, HookedRootModule)


@pytest.mark.parametrize("name", sorted(set(dir(TheirHookPoint())) - set(dir(HookPoint()))))
def test_a_hook_point_is_theirs_once_it_is_asked_for_what_theirs_has(name):
    point, seen = HookPoint(), []
    point.register_forward_hook(lambda *given: seen.append(given[2]))
    assert not point.has_hooks() and type(point) is HookPoint
    getattr(point, name)
    assert type(point) is TheirHookPoint and not point.has_hooks()
    assert point(TOKENS) is TOKENS and seen == [TOKENS]  # a module's own hook is kept


def test_hooked_is_the_same_network_of_the_same_parts_with_the_same_numbers(network):
    parts, before = dict(network.named_modules()), network(TOKENS)
    model = HookedModel(network)
    assert model.bridge is None and not isinstance(network, HookedRootModule)
    hooked = model.hooked
    assert hooked is network and isinstance(hooked, HookedRootModule | AttentionOnlyTransformer)
    assert type(hooked).__name__ == "AttentionOnlyTransformer"
    assert all(part is parts[name] and getattr(part, "name", "") == name for name, part in hooked.named_modules())
    points = {name: part for name, part in parts.items() if isinstance(part, TheirHookPoint)}
    assert hooked.hook_dict == points and len(points) == 2 * 13 + 5
    assert not any(isinstance(part, HookPoint) for part in parts.values())
    assert torch.equal(network(TOKENS), before)


def test_hooks_change_what_the_network_puts_out_and_are_gone_afterwards(network):
    before = network(TOKENS)
    silenced = network.run_with_hooks(TOKENS, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: z * 0)])
    assert not torch.equal(silenced, before) and torch.equal(network(TOKENS), before)
    network.blocks[0].attn.hook_pattern.add_hook(lambda pattern, hook: pattern * 0)
    assert not torch.equal(network(TOKENS), before)


def test_one_hook_point_may_be_used_before_the_rest(network):
    seen = []
    network.blocks[1].attn.hook_z.add_hook(lambda z, hook: seen.append(hook.name))
    network(TOKENS)
    assert seen == ["blocks.1.attn.hook_z"] and not isinstance(network, HookedRootModule)
    copied = HookedModel(network).anatomy.copy_without_hooks()
    copied(TOKENS)
    assert len(seen) == 2  # by `HookedModel`, which tries the network, and not by the copy
    network.reset_hooks()
    network(TOKENS)
    assert len(seen) == 2


@pytest.mark.parametrize("hooked", [False, True])
def test_copies_and_pickled_networks_are_what_they_were(hooked, network):
    if hooked:
        network.setup()
    several = [copy.deepcopy(network), copy.copy(network), pickle.loads(pickle.dumps(network))]
    for again in several:
        assert type(again) is type(network) and torch.equal(again(TOKENS), network(TOKENS))
        assert isinstance(again, HookedRootModule) == hooked
    for again in several[::2]:
        assert set(again.hook_dict) == set(network.hook_dict)
        assert again.hook_dict["hook_embed"] is again.hook_embed is not network.hook_embed


def test_a_class_of_ones_own_stays_one():
    class Halved(AttentionOnlyTransformer):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs) / 2

    network = Halved(CONFIG, seed=3)
    whole = AttentionOnlyTransformer(CONFIG, seed=3)(TOKENS)
    logits, cache = network.run_with_cache(TOKENS)
    assert isinstance(network, Halved) and isinstance(network, HookedRootModule)
    assert torch.allclose(logits, whole / 2, atol=1e-6) and cache["z", 0].shape == (1, 10, 2, 4)


def test_neither_transformer_lens_nor_transformers_is_loaded_before():
    code = (
        "import sys, torch; from induction_lab import load_model; model = load_model(); "
        "model.logits(torch.tensor([[0, 1]])); print('transformer_lens' in sys.modules); "
        "print('transformers' in sys.modules); model.hooked; print('transformer_lens' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
