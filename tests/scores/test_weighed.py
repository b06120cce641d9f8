"""Attention weighed by values against the definition, written out on whole matrices."""

import pytest
import torch
from families import FAMILIES, random_network

from induction_lab import HookedModel, ablate, repeated_tokens, score_heads, temper
from induction_lab.attention.grouped import to_query_heads
from induction_lab.internals.reading import read_attention
from induction_lab.models.attention_only.by_hand import head_gallery
from induction_lab.scores.attention_scores import ATTENTION_SCORES, attention_targets


def by_definition(model, prompts):
    """`A[t, s] ‖v_s W_O‖ / sum`, `v_s W_O` through the output projection itself and the norm behind it."""
    targets, found = attention_targets(prompts.tokens), []

    def look(attention):
        v = to_query_heads(attention.v, model.n_heads, dim=1)
        W_O, _ = model.anatomy.projection(attention.layer, "o")
        written = torch.einsum("bnkh,nhd->bnkd", v, W_O)
        norm = model.anatomy.norm_after(attention.layer)
        if norm is not None:  # RMSNorm of every family here: at one scale for all keys of a query
            rms = written.square().mean(-1, keepdim=True).sqrt()
            written = norm(1e4 * written) * rms  # large, so that epsilon vanishes
        moved = attention.pattern() * written.norm(dim=-1)[:, :, None]
        moved = moved / moved.sum(-1, keepdim=True)
        read = moved[targets.prompt, :, targets.query, targets.key]
        found.append({name: targets.score(name, read).mean(0) for name in ATTENTION_SCORES})

    with torch.no_grad():
        read_attention(model, prompts.tokens, look)
    return {name: torch.stack([layer[name] for layer in found]) for name in ATTENTION_SCORES}


@pytest.mark.parametrize("family", FAMILIES)
def test_weighed_scores_are_those_of_the_definition(family):
    model = HookedModel(random_network(family), name=family)
    prompts = repeated_tokens(model, n_prompts=3, period=12)
    expected = by_definition(model, prompts)
    scores = score_heads(model, prompts, scores=ATTENTION_SCORES, weigh="values", batch_size=2, loss=False)
    for name in ATTENTION_SCORES:
        torch.testing.assert_close(scores[name], expected[name], atol=2e-5, rtol=1e-4)
    assert scores.about("resting").title == "Resting, by values" and scores.provenance["weigh"] == "values"
    plain = score_heads(model, prompts, scores="resting", loss=False)
    assert (plain["resting"] - scores["resting"]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt2"])
@pytest.mark.parametrize("change", ["temper", "temper hard", "mean", "pattern_preserving", "zero"])
def test_of_a_model_that_is_changed_meanwhile_it_is_the_changed_one_that_is_weighed(family, change):
    model = HookedModel(random_network(family), name=family)
    prompts = repeated_tokens(model, n_prompts=3, period=12)
    heads = ["L0H1", "L1H2"]
    betas = {"temper": 2.0, "temper hard": float("inf")}
    context = temper(model, heads, betas[change]) if change in betas else ablate(model, heads, method=change)
    untouched = score_heads(model, prompts, scores=ATTENTION_SCORES, weigh="values", loss=False)
    with context:
        expected = by_definition(model, prompts)
        scores = score_heads(model, prompts, scores=ATTENTION_SCORES, weigh="values", loss=False)
    for name in ATTENTION_SCORES:
        torch.testing.assert_close(scores[name], expected[name], atol=2e-5, rtol=1e-4)
    assert (scores["previous_token"] - untouched["previous_token"]).abs().max() > 1e-4


def test_attention_to_a_sink_that_writes_nothing_disappears():
    gallery = HookedModel(head_gallery())
    plain, weighed = (score_heads(gallery, scores="resting", weigh=how) for how in (None, "values"))
    induction, previous = (1, 0), (0, 0)
    assert plain["resting"][induction] > 0.999  # BOS is copied to nothing
    assert weighed["resting"][induction] < 1e-3
    kept = score_heads(gallery, scores=["prefix_matching", "previous_token"], weigh="values")
    assert kept["prefix_matching"][induction] > 0.999 and kept["previous_token"][previous] > 0.999


def test_the_null_is_weighed_as_well():
    gallery = HookedModel(head_gallery())
    prompts = repeated_tokens(gallery, n_prompts=8, period=20, distinct=True)
    scores = score_heads(gallery, prompts, scores="prefix_matching", weigh="values", chance_test=True)
    assert [str(head) for head in scores.significant("prefix_matching")] == ["L1H0", "L1H3"]


def test_what_is_no_way_to_weigh_is_refused(small):
    with pytest.raises(ValueError, match="weighed by 'values', or not at all"):
        score_heads(small, weigh="norms")


def test_scores_that_read_no_attention_are_left_alone(small):
    prompts = repeated_tokens(small, n_prompts=2, period=10)
    plain, weighed = (score_heads(small, prompts, scores="logit_attribution", weigh=how) for how in (None, "values"))
    assert torch.equal(plain["logit_attribution"], weighed["logit_attribution"])
    assert weighed.about("logit_attribution").title == plain.about("logit_attribution").title
