import pytest
import torch
import transformers as hf
from by_hand import passed
from families import FAMILIES, LLAMA_LIKE, random_network, shake_norms

from induction_lab import HookedModel, repeated_tokens
from induction_lab.internals.head_outputs import heads_along, written_by_heads, written_together
from induction_lab.internals.residual_stream import residual_streams


@pytest.mark.parametrize("at_hand", [True, False], ids=["added at hand", "norm run anew"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_shares_of_heads_and_bias_add_up_to_what_the_layer_adds(family, at_hand):
    network = random_network(family)
    for parameter in network.parameters():  # gains away from 1, biases away from 0
        if parameter.ndim == 1:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model = HookedModel(network)
    tokens = repeated_tokens(model, n_prompts=2, period=8).tokens
    names = [f"blocks.1.{name}" for name in ("attn.hook_z", "hook_attn_out", "hook_resid_pre", "hook_resid_mid")]
    _, cache = model.hooked.run_with_cache(tokens, names_filter=names)
    z, added = cache["blocks.1.attn.hook_z"], cache["blocks.1.hook_attn_out"]
    if "blocks.1.hook_resid_mid" in cache:
        torch.testing.assert_close(cache["blocks.1.hook_resid_pre"] + added, cache["blocks.1.hook_resid_mid"])
    directions = torch.randn(*tokens.shape, model.d_model, generator=torch.Generator().manual_seed(2))
    heads, bias = heads_along(model, 1, z, directions, added=added if at_hand else None)
    assert heads.shape == (*tokens.shape, model.n_heads)
    torch.testing.assert_close(heads.sum(-1) + bias, (added * directions).sum(-1), atol=1e-4, rtol=1e-4)
    some = heads_along(model, 1, z[0, 3:5], directions[0, 3:5])[0]  # at a few places the shares are the same
    torch.testing.assert_close(some, heads[0, 3:5], atol=1e-4, rtol=1e-4)


def bitnet():
    torch.manual_seed(0)
    config = hf.BitNetConfig(**LLAMA_LIKE)
    return hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "granite", "llama", "bitnet"])
@torch.no_grad()
def test_heads_write_what_their_modules_write_and_each_its_own_share_of_it(family):
    model = HookedModel(shake_norms(bitnet() if family == "bitnet" else random_network(family)), name=family)
    tokens = repeated_tokens(model, n_prompts=2, period=8).tokens
    layer = model.n_layers - 1
    last = "post_attention_layernorm" if family in ("gemma2", "gemma3", "olmo2") else "self_attn.o_proj"
    own = passed(model.network, tokens)[f"model.layers.{layer}.{last}"][1] * (0.5 if family == "granite" else 1)
    z = residual_streams(model, tokens).attention[layer].z
    torch.testing.assert_close(written_together(model, layer, z), own, atol=1e-5, rtol=1e-5)
    parts = written_by_heads(model, layer, z, at=z)
    torch.testing.assert_close(parts.sum(1), own, atol=1e-5, rtol=1e-5)
    other = torch.randn(z.shape, generator=torch.Generator().manual_seed(2))
    changed = written_by_heads(model, layer, 2 * z + other, at=z)
    torch.testing.assert_close(changed, 2 * parts + written_by_heads(model, layer, other, at=z), atol=1e-4, rtol=1e-4)
    other[:, [0, 2, 3]] = 0
    alone = written_by_heads(model, layer, other, at=z)
    assert not alone[:, [0, 2, 3]].any() and alone[:, 1].abs().max() > 1e-2
    nothing = torch.zeros_like(z)
    assert not written_by_heads(model, layer, nothing, at=nothing).any()  # a norm of nothing has no scale
