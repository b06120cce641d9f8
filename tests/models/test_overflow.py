"""Models whose numbers grow too large for their dtype are refused by name of layer, not measured as NaN."""

import pytest
import torch
from families import random_network

from induction_lab import (
    HookedModel,
    Prompts,
    ablation_sweep,
    lag_profile,
    repeated_tokens,
    score_heads,
)


def large(family: str, layer: int) -> torch.nn.Module:
    """Whose stream leaves float16's range in one layer, and not float32's."""
    network = random_network(family)
    with torch.no_grad():
        blocks = network.model.layers if family == "llama" else network.transformer.h
        part = blocks[layer].mlp.down_proj if family == "llama" else blocks[layer].mlp.dense_4h_to_h
        part.weight *= 1e6
    return network


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_what_overflows_in_float16_is_said_with_the_layer_and_what_helps(family, layer):
    model = HookedModel(large(family, layer), name="large")
    prompts = repeated_tokens(model, n_prompts=2, period=6)
    model.network.half()
    message = f"float16 overflows in layer {layer} of large.*dtype='bfloat16'.*'float32'"
    for measure in (score_heads, lag_profile, *([ablation_sweep] if family == "llama" else [])):
        with pytest.raises(ValueError, match=message):
            measure(model, prompts)
    with pytest.raises(ValueError, match=message):
        HookedModel(model.network, name="large")
    for dtype in (torch.bfloat16, torch.float32):
        wide = HookedModel(large(family, layer).to(dtype), name="large")
        assert score_heads(wide, prompts, scores=["prefix_matching"])["prefix_matching"].isfinite().all()


def test_weights_that_are_no_numbers_are_said_to_be_none(command):
    network = random_network("llama")
    with torch.no_grad():
        network.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    model = HookedModel(network, name="broken")
    for scores in (None, ["previous_token"]):
        with pytest.raises(ValueError, match="broken gives numbers in layer 1 that are not finite"):
            score_heads(model, repeated_tokens(model, n_prompts=2, period=6), scores=scores)
    network.save_pretrained("broken")
    code, out, err = command("score", "broken", "--no-figures", "--prompts", "2")
    assert code == 2 and "not finite" in err and not out


def test_padding_that_no_prompt_reaches_is_no_fault(llama):
    tokens = repeated_tokens(llama, n_prompts=2, period=6).tokens
    assert score_heads(llama, Prompts(tokens, torch.tensor([11, 10])), scores=["previous_token"]).loss
