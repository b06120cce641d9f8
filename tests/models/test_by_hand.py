import math

import pytest
import torch

from induction_lab import distinct_tokens, repeated_tokens, score_heads
from induction_lab.models.attention_only.by_hand import (
    ANTI_INDUCTION,
    CONFIDENCE,
    CURRENT_TOKEN,
    DUPLICATE_TOKEN,
    INDUCTION,
    PREVIOUS_TOKEN,
    RESTING,
    SUPPRESSOR,
    UNIFORM,
    induction_circuit,
)
from induction_lab.scores.attention_scores import ATTENTION_SCORES
from induction_lab.scores.registry import SCORES

IDEAL = {
    "prefix_matching": INDUCTION,
    "induction_stripe": INDUCTION,
    "previous_token": PREVIOUS_TOKEN,
    "duplicate_token": DUPLICATE_TOKEN,
    "resting": RESTING,
    "current_token": CURRENT_TOKEN,
    "anti_induction": ANTI_INDUCTION,
}


@pytest.fixture(scope="module")
def scores(gallery):
    return score_heads(gallery, repeated_tokens(gallery, period=25))


@pytest.mark.parametrize("name", ATTENTION_SCORES)
def test_each_attention_score_says_one_for_its_ideal_head(scores, name):
    assert scores[name][IDEAL[name]] >= 0.999


def test_no_score_calls_another_kind_of_head_ideal(scores):
    """The negative control: 1 only where it must, with the few coincidences that repeats bring."""
    expected = {
        "prefix_matching": {INDUCTION, SUPPRESSOR},
        "induction_stripe": {INDUCTION, SUPPRESSOR},
        "previous_token": {PREVIOUS_TOKEN},
        "duplicate_token": {DUPLICATE_TOKEN},
        "resting": {RESTING, INDUCTION, SUPPRESSOR, DUPLICATE_TOKEN, ANTI_INDUCTION},  # nothing to find: they rest
        "current_token": {CURRENT_TOKEN},
        "anti_induction": {ANTI_INDUCTION},
    }
    for name, heads in expected.items():
        assert set(scores.above(name, 0.5)) == heads, name


@pytest.mark.parametrize("name", ATTENTION_SCORES)
def test_uniform_attention_scores_the_chance_level(scores, name):
    assert float(scores[name][UNIFORM]) == pytest.approx(scores.uniform[name], abs=1e-6)


@pytest.mark.parametrize(("period", "n_repeats"), [(2, 2), (5, 3), (25, 4), (20, 6)])
def test_prefix_matching_is_one_at_any_number_of_copies_and_the_stripe_only_at_two(gallery, period, n_repeats):
    scores = score_heads(
        gallery, repeated_tokens(gallery, period=period, n_repeats=n_repeats), scores=ATTENTION_SCORES[:2]
    )
    assert scores["prefix_matching"][INDUCTION] >= 0.999
    even = sum(1 / m for m in range(1, n_repeats)) / (n_repeats - 1)  # copy m + 1 shares among m earlier ones
    assert float(scores["induction_stripe"][INDUCTION]) == pytest.approx(even, abs=1e-3)


def test_copies_with_a_gap_are_found_all_the_same(gallery):
    scores = score_heads(gallery, repeated_tokens(gallery, period=20, gap=9))
    for name in ("prefix_matching", "duplicate_token", "anti_induction"):
        assert scores[name][IDEAL[name]] >= 0.999


def test_only_the_output_circuits_that_copy_are_called_copying(scores):
    for name in ("copying", "ov_copying"):
        assert float(scores[name][INDUCTION]) == pytest.approx(1.0, abs=1e-4)
        assert float(scores[name][SUPPRESSOR]) == pytest.approx(-1.0, abs=1e-4)
    assert scores["ov_copying"][PREVIOUS_TOKEN] == 0  # writes where the unembedding does not read
    assert scores["copying"][RESTING] == -1


def test_logit_attribution_is_the_logit_that_was_written_in(scores):
    share = 1 - 1 / 128  # against the mean over the vocabulary
    assert float(scores["logit_attribution"][INDUCTION]) == pytest.approx(CONFIDENCE * share, rel=1e-4)
    assert float(scores["logit_attribution"][SUPPRESSOR]) == pytest.approx(-CONFIDENCE * share / 4, rel=1e-4)
    assert scores["logit_attribution"][PREVIOUS_TOKEN] == 0


def test_the_circuit_is_ignorant_on_the_first_copy_and_certain_on_the_second(circuit):
    first, second = score_heads(circuit, repeated_tokens(circuit, period=20)).loss_by_copy
    assert first == pytest.approx(math.log(128), rel=1e-5)
    assert second < 1e-4


def test_without_the_previous_token_head_the_circuit_cannot_copy(circuit):
    tokens = repeated_tokens(circuit, period=20, n_prompts=4).tokens

    def remove(z, hook):
        z[:, :, PREVIOUS_TOKEN.head] = 0

    logits = circuit.hooked.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_z", remove)])
    answers = logits[:, :-1].gather(-1, tokens[:, 1:, None])[:, 21:]
    assert (
        answers.abs().max() < 0.1 and circuit.logits(tokens)[:, :-1].gather(-1, tokens[:, 1:, None])[:, 21:].min() > 19
    )


def test_where_nothing_repeats_repeat_scores_say_so_and_the_others_stand(gallery):
    prompts = distinct_tokens(gallery, length=40)
    scores = score_heads(gallery, prompts)
    assert set(scores.scores) == set(SCORES) - {
        "prefix_matching", "induction_stripe", "duplicate_token", "anti_induction", "logit_attribution",
    }  # fmt: skip
    assert scores["previous_token"][PREVIOUS_TOKEN] >= 0.999 and scores["resting"][INDUCTION] >= 0.999
    with pytest.raises(ValueError, match="prefix_matching reads nothing on these prompts"):
        score_heads(gallery, prompts, scores=["prefix_matching"])


def test_the_chance_test_calls_the_heads_that_were_built_and_no_other(gallery):
    scores = score_heads(gallery, repeated_tokens(gallery, period=20), scores=["prefix_matching"], chance_test=True)
    assert set(scores.significant("prefix_matching")) == {INDUCTION, SUPPRESSOR}


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        induction_circuit(d_vocab=1)


def test_every_weight_has_a_reader_and_a_writer(circuit):
    """The construction's parts do not overlap: K-composition alone links the two heads."""
    W_OV = circuit.hooked.W_V[0, 0] @ circuit.hooked.W_O[0, 0]
    W_Q, W_K, W_V = (getattr(circuit.hooked, name)[1, 0] for name in ("W_Q", "W_K", "W_V"))
    assert (W_OV @ W_K).norm() > 1 and (W_OV @ W_Q).norm() == 0 and (W_OV @ W_V).norm() == 0
    assert torch.linalg.matrix_rank(W_OV @ W_K) == 128
