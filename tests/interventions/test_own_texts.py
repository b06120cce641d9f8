"""Texts of a user's own: one alone, and texts of unlike length, of which each gets the numbers that it has alone."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from by_hand import with_z, z_of
from worded import SAID, worded

from induction_lab import (
    HookedModel,
    ablate,
    ablation_sweep,
    attribution_patching,
    compare_predictions,
    distinct_tokens,
    input_shares,
    patch_paths,
    score_heads,
    self_repair,
    text_prompts,
)
from induction_lab.data.prompts import Prompts, as_prompts
from induction_lab.interventions.outputs import REFERENCE, random_reference

FOX, BIRD, NUMBERS = SAID


@pytest.fixture(scope="module", params=["llama", "own"])
def model(request) -> HookedModel:
    return worded(request.param)


def of_paths(model, texts, **how):
    return patch_paths(model, texts, ["L1H2", "L1H3"], "k", **how)


def numbers(found) -> np.ndarray:
    """What an analysis found, in the order of its labels."""
    if isinstance(found, pd.DataFrame) and "sender" in found:
        return found.sort_values("sender")["share"].to_numpy()
    return np.asarray(
        found[["direct_effect", "total_effect"]] if isinstance(found, pd.DataFrame) else found.table.effect
    )


ANALYSES = {
    "ablation_sweep": ablation_sweep,
    "loss": lambda model, texts, **how: ablation_sweep(model, texts, metric="loss", **how),
    "attribution_patching": attribution_patching,
    "patch_paths": of_paths,
    "self_repair": self_repair,
    "input_shares": lambda model, texts, **how: input_shares(model, texts, "L1H2", **how),
}


@pytest.mark.parametrize("method", ["mean", "zero"])
@pytest.mark.parametrize("name", ANALYSES)
def test_texts_of_unlike_length_have_the_numbers_of_each_alone(model, name, method):
    together = numbers(ANALYSES[name](model, [FOX, BIRD], method=method))
    alone = [numbers(ANALYSES[name](model, text, method=method)) for text in (FOX, BIRD)]
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3  # the control: texts differ


@pytest.mark.parametrize("name", ANALYSES)
def test_each_text_is_resampled_from_its_partner_however_long_that_is(model, name):
    others = as_prompts(model, [[0, *range(5, 40)], [0, *range(45, 10, -1)]])
    together = numbers(ANALYSES[name](model, [FOX, BIRD], method="resample", reference=others))
    alone = [
        numbers(ANALYSES[name](model, text, method="resample", reference=others[i : i + 1]))
        for i, text in enumerate((FOX, BIRD))
    ]
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-5)


def test_one_text_is_given_means_over_random_tokens_as_by_hand(model):
    tokens = text_prompts(model, FOX).tokens
    others = distinct_tokens(model, n_prompts=REFERENCE, length=tokens.shape[1] - 1)
    instead = z_of(model, others.tokens)[0][:, :, 1].mean(0, keepdim=True)
    slow = with_z(model, tokens, {(0, 1): instead})
    with ablate(model, "L0H1"):
        torch.testing.assert_close(model.logits(tokens), slow, atol=1e-5, rtol=1e-5)
    loss = torch.nn.functional.cross_entropy(slow[0, :-1], tokens[0, 1:])
    assert ablation_sweep(model, FOX, metric="loss").of("L0H1")["changed"] == pytest.approx(float(loss), abs=1e-5)
    found = compare_predictions(model, FOX, "L0H1")
    want = slow[0, -1].softmax(-1)[found["token_id"].tolist()]
    torch.testing.assert_close(torch.tensor(found["without"].tolist()), want, atol=1e-6, rtol=1e-5)


def test_the_record_says_what_was_put_in(model):
    facts = ablation_sweep(model, FOX).provenance["reference"]
    assert (facts["kind"], facts["n_prompts"], facts["n_tokens"]) == ("distinct", REFERENCE, 18)
    assert of_paths(model, FOX).provenance["reference"] == facts
    assert ablation_sweep(model, [BIRD, NUMBERS + " three"]).provenance["reference"] is None  # as long


@pytest.mark.parametrize("method", ["mean", "resample", "zero"])
def test_inside_ablate_padding_lends_nothing(model, method):
    both = as_prompts(model, [FOX, BIRD])
    how = {"method": method, "seed": 1}
    if method == "resample":  # one to one
        how["reference"] = as_prompts(model, [[0, *range(5, 40)], [0, *range(45, 10, -1)]])
    with ablate(model, ["L0H1", "L1H2"], **how):
        together = model.logits(both.tokens)
        scores = score_heads(model, both, scores=["prefix_matching"])
    alone = []
    for i, length in enumerate(both.real_lengths.tolist()):
        one = how | ({"reference": how["reference"][i : i + 1]} if "reference" in how else {})
        with ablate(model, ["L0H1", "L1H2"], **one):
            logits = model.logits(both.tokens[i : i + 1, :length])
            alone.append(score_heads(model, (FOX, BIRD)[i], scores=["prefix_matching"])["prefix_matching"])
        torch.testing.assert_close(together[i, :length], logits[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scores["prefix_matching"], torch.stack(alone).mean(0), atol=1e-5, rtol=1e-5)


def test_inside_ablate_a_mask_says_what_is_padding_and_padding_on_the_left_is_refused():
    model = worded()
    both = as_prompts(model, [FOX, BIRD])
    tokens, mask = both.tokens.clone(), both.real.long()
    tokens[~both.real] = 7  # as of a tokenizer whose padding is another token
    with ablate(model, "L1H2"), torch.inference_mode():
        wanted = model.logits(both.tokens)
        got = model.network(input_ids=tokens, attention_mask=mask).logits
        torch.testing.assert_close(got[both.real], wanted[both.real], atol=1e-4, rtol=1e-4)
        with pytest.raises(ValueError, match="padded on the left.*padding_side = 'right'"):
            model.network(input_ids=tokens.flip(1), attention_mask=mask.flip(1))
    with ablate(model, "L1H2", method="zero"), torch.inference_mode():
        model.network(input_ids=tokens.flip(1), attention_mask=mask.flip(1))  # of which positions do not matter


def test_a_mean_is_over_the_texts_of_the_reference_that_reach_the_position(model):
    reference = as_prompts(model, [FOX, BIRD + " and " + NUMBERS])
    tokens = text_prompts(model, NUMBERS + " " + BIRD).tokens
    n_pos = tokens.shape[1]
    z = [
        z_of(model, reference.tokens[i : i + 1, :n])[0][0, :, 1] for i, n in enumerate(reference.real_lengths.tolist())
    ]
    instead = torch.stack([torch.stack([x[t] for x in z if t < len(x)]).mean(0) for t in range(n_pos)])
    slow = with_z(model, tokens, {(0, 1): instead[None]})
    loss = torch.nn.functional.cross_entropy(slow[0, :-1], tokens[0, 1:])
    found = ablation_sweep(model, tokens, heads=["L0H1"], metric="loss", reference=reference).of("L0H1")
    assert found["changed"] == pytest.approx(float(loss), abs=1e-5)
    with ablate(model, "L0H1", reference=reference):
        torch.testing.assert_close(model.logits(tokens), slow, atol=1e-5, rtol=1e-5)


def test_a_text_longer_than_the_vocabulary_has_tokens_is_ablated_too():
    model = worded("own", n_other_words=0)
    text = " ".join([FOX, BIRD, NUMBERS])
    prompts = as_prompts(model, text)
    reference = random_reference(model, prompts)
    assert reference.tokens.shape == (REFERENCE, prompts.tokens.shape[1]) and prompts.tokens.shape[1] > model.d_vocab
    assert not (reference.tokens[:, 1:] == 0).any() and (reference.tokens[:, 0] == 0).all()
    one, two = (ablation_sweep(model, some, metric="loss") for some in (text, [text, FOX]))
    other = ablation_sweep(model, FOX, metric="loss")
    means = (one.table["effect"] + other.table["effect"]) / 2
    np.testing.assert_allclose(two.table["effect"], means, atol=1e-5)


@pytest.mark.parametrize("method", ["mean", "resample"])
def test_a_reference_that_is_too_short_is_refused_with_advice_that_works(model, method):
    short = as_prompts(model, [[0, 5, 6, 7]])
    for measure in ANALYSES.values():
        with pytest.raises(ValueError, match="of 4 tokens, those measured on have 18") as refused:
            measure(model, FOX, method=method, reference=short)
        measure(model, FOX, method=method, reference=advised(model, str(refused.value)))
        measure(model, FOX, method=method)  # "or none"
    tokens = text_prompts(model, FOX).tokens
    with (
        pytest.raises(ValueError, match="of 4 tokens") as refused,
        ablate(model, "L0H1", method=method, reference=short),
    ):
        model.logits(tokens)
    with ablate(model, "L0H1", method=method, reference=advised(model, str(refused.value))):
        model.logits(tokens)


def test_a_padded_reference_for_resampling_is_refused_with_advice_that_works(model):
    padded = as_prompts(model, [FOX, BIRD])
    with pytest.raises(ValueError, match="end at different places. Use `mean`, or") as refused:
        ablation_sweep(model, [BIRD, FOX], method="resample", reference=padded)
    ablation_sweep(model, [BIRD, FOX], method="resample", reference=advised(model, str(refused.value)))
    ablation_sweep(model, [BIRD, FOX], method="mean", reference=padded)
    ablation_sweep(model, BIRD, method="resample", reference=padded)  # of which both are long enough


def advised(model, message: str) -> Prompts:
    """The reference that a message tells to give."""
    (call,) = re.findall(r"reference=(distinct_tokens\(model, length=\d+\))", message)
    return eval(call, {"distinct_tokens": distinct_tokens, "model": model})
