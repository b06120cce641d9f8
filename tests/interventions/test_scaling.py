import pytest
import torch
from by_hand import EVERY, model_of, tokens_of, with_z, z_of

from induction_lab import ablate, mean_outputs, scale_heads
from induction_lab.data.prompts import Prompts

HEADS = [(0, 0), (0, 1)]


def bridged(model, tokens):
    with torch.inference_mode():
        return model.hooked(tokens)


@pytest.mark.parametrize("name", EVERY)
def test_scaled_heads_put_out_a_multiple_and_by_nothing_they_are_silent(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean, own = model.logits(tokens), z_of(model, tokens)
    slow = with_z(model, tokens, {(0, head): 2 * own[0][:, :, head] for _, head in HEADS})
    assert name == "circuit" or float((slow - clean).abs().max()) > 5e-3  # which is certain whatever feeds it
    with scale_heads(model, HEADS, 2.0):
        torch.testing.assert_close(model.logits(tokens), slow, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(bridged(model, tokens), slow, atol=1e-4, rtol=1e-4)
    with ablate(model, HEADS, method="zero"):
        silent = model.logits(tokens)
    with scale_heads(model, HEADS, 0):
        torch.testing.assert_close(model.logits(tokens), silent)
    with scale_heads(model, HEADS, 1.0):
        torch.testing.assert_close(model.logits(tokens), clean, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.logits(tokens), clean)
    with pytest.raises(ValueError, match="`by` must be a finite number"), scale_heads(model, HEADS, float("nan")):
        pass


@pytest.mark.parametrize("name", EVERY)
def test_means_that_are_known_are_those_that_would_be_found(name):
    model = model_of(name)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    known = mean_outputs(model, Prompts(others))
    with ablate(model, HEADS, reference=others):
        found = model.logits(tokens)
    with ablate(model, HEADS, reference=known):
        assert torch.equal(model.logits(tokens), found)
    with pytest.raises(ValueError, match="`mean` takes them"), ablate(model, HEADS, method="zero", reference=known):
        pass
