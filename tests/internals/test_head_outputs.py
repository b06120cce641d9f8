import pytest
import torch
from families import FAMILIES, random_network

from induction_lab import HookedModel, repeated_tokens
from induction_lab.internals.head_outputs import heads_along


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
