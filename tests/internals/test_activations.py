from contextlib import nullcontext

import pytest
import torch
from families import D_VOCAB, FAMILIES, random_network
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from induction_lab import HookedModel, ablate, capture
from induction_lab.internals.activations import NAMES

TOKENS = torch.randint(3, D_VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
PARALLEL = {"gpt_neox", "phi", "cohere", "gptj"}  # attention and MLP side by side: no stream between
ROTARY = {"gpt_neox", "llama", "mistral", "gemma2", "gemma3", "qwen3", "phi", "cohere"}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "mistral", "gemma3", "qwen3", "phi", "opt", "cohere"])
def test_what_is_captured_is_what_transformers_computes(family, attention):
    model = HookedModel(random_network(family, attention=attention))
    plain = random_network(family)
    with torch.no_grad():
        wanted = plain(TOKENS, output_attentions=True, output_hidden_states=True, use_cache=False)
    acts = capture(model, TOKENS, ["q", "k", "v", "attn_scores", "pattern", "z", "result", "resid_pre", "logits"])
    group = model.n_heads // model.n_kv_heads
    for layer in range(model.n_layers):
        torch.testing.assert_close(acts["pattern", layer], wanted.attentions[layer], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(acts["attn_scores", layer].softmax(-1), acts["pattern", layer], atol=1e-5, rtol=1e-4)
        v = acts["v", layer].transpose(1, 2).repeat_interleave(group, 1)
        z = (acts["pattern", layer] @ v).transpose(1, 2)
        torch.testing.assert_close(acts["z", layer], z, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(acts["resid_pre", layer], wanted.hidden_states[layer], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(acts["logits"], wanted.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"gptj", "gpt_neo"}))  # refused, see below
def test_scores_are_what_the_softmax_makes_the_pattern_of_not_the_pattern(family):
    acts = capture(HookedModel(random_network(family)), TOKENS, ["attn_scores", "pattern"], layers=0)
    pattern = acts["pattern"] / acts["pattern"].sum(-1, keepdim=True)  # a sink is no key
    torch.testing.assert_close(acts["attn_scores"].softmax(-1), pattern, atol=1e-5, rtol=1e-4)
    assert (acts["attn_scores"] < 0).any()


@pytest.mark.parametrize("family", sorted(ROTARY))
def test_rotated_queries_and_keys_make_the_scores(family):
    model = HookedModel(random_network(family))
    acts = capture(model, TOKENS, ["rot_q", "rot_k", "pattern"], layers=0)
    q, k = acts["rot_q"].transpose(1, 2), acts["rot_k"].transpose(1, 2)
    scale = getattr(model.network.base_model.layers[0], "self_attn", None)
    scale = getattr(scale, "scaling", model.d_head**-0.5)
    scores = q @ k.repeat_interleave(model.n_heads // model.n_kv_heads, 1).mT * scale
    if family == "gemma2":
        scores = 2.0 * torch.tanh(scores / 2.0)
    window = 7 if family in ("mistral", "gemma2", "gemma3") else 20
    distance = torch.arange(20)[:, None] - torch.arange(20)
    pattern = scores.masked_fill((distance < 0) | (distance >= window), -torch.inf).softmax(-1)
    torch.testing.assert_close(pattern, acts["pattern"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "opt"])
def test_results_sum_to_what_attention_adds(family):
    model = HookedModel(random_network(family))
    acts = capture(model, TOKENS, ["result", "attn_out"])
    bias = getattr(model.hooked, "b_O", None)
    for layer in range(model.n_layers):
        total = acts["result", layer].sum(2) + (0 if bias is None else bias[layer])
        torch.testing.assert_close(total, acts["attn_out", layer], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_stream_adds_up_and_the_hooks_are_transformerlens(llama):
    acts = capture(llama, TOKENS, ["embed", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q"])
    _, cache = llama.hooked.run_with_cache(TOKENS)
    total = acts["embed"]
    for layer in range(llama.n_layers):
        torch.testing.assert_close(acts["resid_pre", layer], total)
        torch.testing.assert_close(acts["resid_mid", layer], total + acts["attn_out", layer])
        total = total + acts["attn_out", layer] + acts["mlp_out", layer]
        torch.testing.assert_close(acts["resid_post", layer], total, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(acts["q", layer], cache[f"blocks.{layer}.attn.hook_q"])
    llama.release()


@pytest.mark.parametrize("name", ["q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result"])
def test_chosen_heads_and_positions_are_cuts_of_the_whole(llama, name):
    whole = capture(llama, TOKENS, name)
    some = capture(llama, TOKENS, name, heads=["L1H3", "L0H1", "L1H0"], positions=[2, -1])
    assert [str(head) for head in some.heads[1]] == ["L1H3", "L1H0"]
    axis = 1 if name in ("attn_scores", "pattern") else 2
    at = 2 if axis == 1 else 1
    for layer, heads in {0: [1], 1: [3, 0]}.items():
        full = whole[name, layer]
        group = llama.n_heads // full.shape[axis]
        cut = full.index_select(axis, torch.tensor([head // group for head in heads]))
        cut = cut.index_select(at, torch.tensor([2, 19]))
        torch.testing.assert_close(some[name, layer], cut, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss", "gpt2"])  # grouped, window, cap, sinks
def test_chosen_rows_of_the_matrices_are_those_of_transformers(family):
    network = random_network(family)
    with torch.no_grad():
        wanted = network(TOKENS, output_attentions=True, use_cache=False).attentions
    acts = capture(
        HookedModel(network), TOKENS, ["pattern", "attn_scores"], heads=["L1H3", "L0H1", "L1H0"], positions=[2, -1]
    )
    for layer, heads in {0: [1], 1: [3, 0]}.items():
        pattern = wanted[layer][:, heads][:, :, [2, 19]]
        torch.testing.assert_close(acts["pattern", layer], pattern, atol=1e-5, rtol=1e-4)
        pattern = pattern / pattern.sum(-1, keepdim=True)  # a sink is no key
        torch.testing.assert_close(acts["attn_scores", layer].softmax(-1), pattern, atol=1e-5, rtol=1e-4)


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor holds that anything makes inside."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


@pytest.mark.parametrize("name", ["pattern", "attn_scores"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_no_matrix_is_made_for_a_few_rows_of_it(family, name):
    model, tokens = HookedModel(random_network(family)), torch.randint(3, D_VOCAB, (1, 256))
    with Largest() as some:
        capture(model, tokens, name, heads=["L0H1", "L1H3"], positions=[100, 255])
    with Largest() as whole:
        capture(model, tokens, name)
    assert some.numel < 256 * 256 and whole.numel == model.n_heads * 256 * 256


def test_only_what_was_asked_for_is_kept(llama):
    acts = capture(llama, TOKENS, "pattern", heads="L1H2", positions=slice(5, 8))
    assert list(acts) == [("pattern", 1)] and acts["pattern"].shape == (2, 1, 3, 20)
    assert acts["pattern"].untyped_storage().nbytes() == 2 * 3 * 20 * 4  # a copy, not a view of the whole


def test_one_position_may_be_given_as_a_number(llama):
    assert capture(llama, TOKENS, "z", layers=0, positions=-1)["z"].shape == (2, 1, 4, 12)


def test_nothing_above_the_last_layer_runs_unless_logits_are_wanted(llama):
    ran = []
    handle = llama.hooked.blocks[1].register_forward_hook(lambda *_: ran.append(1))
    try:
        capture(llama, TOKENS, "q", layers=0)
        assert not ran
        capture(llama, TOKENS, ["q", "logits"], layers=0)
        assert ran
    finally:
        handle.remove()


def test_no_hook_is_left(llama):
    before = sum(len(point.fwd_hooks) for point in llama.hooked.hook_dict.values())
    capture(llama, TOKENS)
    assert sum(len(point.fwd_hooks) for point in llama.hooked.hook_dict.values()) == before


def test_our_own_models_show_everything(small):
    acts = capture(
        small, TOKENS[:, :9] % 100, [name for name in NAMES if name not in ("pos_embed", "resid_mid", "mlp_out")]
    )
    assert acts["result", 1].shape == (2, 9, 4, 64) and acts["logits"].shape == (2, 9, 100)
    torch.testing.assert_close(acts["logits"], small.logits(TOKENS[:, :9] % 100), atol=1e-5, rtol=1e-4)


def patterns(model, **how):
    """Of our own model by the engine, and by hooks, which other names need."""
    tokens = TOKENS[:, :9] % 100
    return [capture(model, tokens, ["pattern", "v", *more], **how) for more in ([], ["resid_pre"])]


@pytest.mark.parametrize("how", [{}, {"heads": ["L1H3", "L0H0"]}, {"positions": [2, 5]}, {"layers": 1}])
@pytest.mark.parametrize("method", [None, "zero", "ideal_previous_token"])
def test_patterns_and_values_of_our_own_models_are_those_at_their_hooks(small, how, method):
    with nullcontext() if method is None else ablate(small, ["L0H0", "L1H3"], method=method):
        by_engine, by_hooks = patterns(small, **how)
    assert all(name in ("pattern", "v") for name, _ in by_engine)
    for key in by_engine:
        torch.testing.assert_close(by_engine[key], by_hooks[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["v", "pattern"])
def test_what_a_user_s_hook_changes_is_what_is_captured(small, name):
    def silenced(tensor, hook):
        return torch.zeros_like(tensor)

    with small.hooked.hooks(fwd_hooks=[(f"blocks.0.attn.hook_{name}", silenced)]):
        by_engine, by_hooks = patterns(small)
    assert not by_hooks[name, 0].any() and by_hooks[name, 1].any()
    for key in by_engine:
        torch.testing.assert_close(by_engine[key], by_hooks[key], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("gpt2", "rot_q", "rotary"),
        ("gpt_neox", "resid_mid", "one after the other"),
        ("llama", "pos_embed", "pos_embed"),
        ("gptj", "attn_scores", "attends by itself"),
        ("gpt_neo", "attn_scores", "attends by itself"),
    ],
)
def test_what_an_architecture_lacks_is_refused_not_left_out(family, name, reason):
    with pytest.raises(ValueError, match=reason):
        capture(HookedModel(random_network(family)), TOKENS, name)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(names="queries"), "there are q, k, v"),
        (dict(names=[]), "Unknown activations"),
        (dict(layers=2), "0 … 1"),
        (dict(layers=[]), "0 … 1"),
        (dict(heads="L0H4"), "heads 0 to 3"),
        (dict(heads="L0H1", layers=0), "not both"),
        (dict(positions=[20]), "0 … 19"),
    ],
)
def test_bad_requests_are_refused(llama, asked, message):
    with pytest.raises(ValueError, match=message):
        capture(llama, TOKENS, **asked)


def test_a_missing_key_says_what_is_there(llama):
    acts = capture(llama, TOKENS, ["q"], layers=[0, 1])
    with pytest.raises(KeyError, match="was not captured; there is"):
        acts["q"]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "qwen3", "gemma2", "opt", "phi3"])
def test_without_a_bridge_the_network_s_own_modules_show_the_same(family, monkeypatch):
    model = HookedModel(random_network(family))
    names, choice = (
        ["q", "k", "v", "pattern", "resid_pre", "resid_post"],
        {"heads": ["L0H1", "L1H2"], "positions": [3, -1]},
    )
    bridged = [capture(model, TOKENS, names, **choice), capture(model, TOKENS, [*names, "logits"])]
    monkeypatch.setattr(HookedModel, "bridge", None)
    for before, asked in zip(bridged, ({"names": names, **choice}, {"names": [*names, "logits"]}), strict=True):
        found = capture(model, TOKENS, **asked)
        assert list(found) == list(before)
        for key, tensor in before.items():
            torch.testing.assert_close(found[key].reshape(tensor.shape), tensor, atol=1e-4, rtol=1e-4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.network.modules())
