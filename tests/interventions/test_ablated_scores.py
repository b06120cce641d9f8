"""Scores of an ablated model are of the ablated model, also where the ablation runs the clean one in between."""

import pytest
import torch
from by_hand import model_of, tokens_of
from families import random_network

from induction_lab import HookedModel, ablate, ov_copying, repeated_tokens, score_heads
from induction_lab.interventions.ablation_methods import METHODS

HEADS = [(0, 1), (0, 2), (1, 0)]


def slow_scores(model, tokens):
    """Attention to oneself from whole patterns, as TransformerLens' hooks show them."""
    _, cache = model.hooked.run_with_cache(tokens)
    patterns = torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.n_layers)])
    return patterns.diagonal(dim1=-2, dim2=-1)[..., 1:].mean((1, 3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["small", "llama", "gpt2", "gemma2"])
def test_scores_are_those_of_the_ablated_model_however_early_a_run_may_end(name, method):
    model = model_of(name)
    tokens = tokens_of(model)
    clean = score_heads(model, tokens, scores="current_token", loss=False)["current_token"]
    with ablate(model, HEADS, method=method):
        early, whole = (score_heads(model, tokens, scores="current_token", loss=loss) for loss in (False, True))
        slow = slow_scores(model, tokens)
        written = score_heads(model, tokens, scores=["copying", "logit_attribution"])
    torch.testing.assert_close(early["current_token"], whole["current_token"], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(early["current_token"], slow, atol=1e-5, rtol=1e-4)
    assert written.scores == ("copying", "logit_attribution")
    if method != "pattern_preserving":  # which leaves every other head's pattern as it is
        assert float((early["current_token"][1:] - clean[1:]).abs().max()) > 1e-4


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
@pytest.mark.parametrize("first", ["projection", "hooked", "circuit"])
def test_what_a_network_is_built_of_is_found_inside_an_ablation_as_outside(family, first):
    inside, outside = (HookedModel(random_network(family), name=family) for _ in range(2))
    prompts = repeated_tokens(inside, n_prompts=3, period=8)
    ask = {
        "projection": lambda model: model.anatomy.projection(0, "o")[0],
        "hooked": lambda model: model.hooked is not None,
        "circuit": lambda model: ov_copying(model),
    }[first]

    def answer(model):
        try:
            return ask(model)
        except ValueError as error:
            return str(error)

    with ablate(inside, ["L0H1", "L1H2"], method="zero"):
        inside.hidden(prompts.tokens)
        found = answer(inside)
    expected = answer(outside)
    if isinstance(expected, torch.Tensor):
        torch.testing.assert_close(found, expected, equal_nan=True)
    else:
        assert found == expected
