import pytest
import torch

from induction_lab import HookedModel, lag_profile, repeated_tokens
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


def test_the_profile_is_what_a_loop_over_queries_says(bundled):
    prompts = repeated_tokens(bundled, n_prompts=5, period=6, n_repeats=3)
    found = lag_profile(bundled, prompts, lags=(-2, 0, 1)).set_index("lag")
    probabilities = bundled.logits(prompts.tokens).softmax(-1)
    for lag in (-2, 0, 1):
        means = []
        for row in range(5):
            values = []
            for query in range(1, prompts.tokens.shape[1]):
                before = [s for s in range(1, query) if prompts.tokens[row, s] == prompts.tokens[row, query]]
                if before and 1 <= before[-1] + lag <= query:
                    values.append(float(probabilities[row, query, prompts.tokens[row, before[-1] + lag]]))
            means.append(sum(values) / len(values))
        assert found.loc[lag, "probability"] == pytest.approx(sum(means) / 5, abs=1e-5)
        assert found.loc[lag, "standard_error"] == pytest.approx(float(torch.tensor(means).std()) / 5**0.5, abs=1e-5)


def test_an_induction_circuit_expects_lag_one_and_random_weights_expect_nothing(circuit):
    prompts = repeated_tokens(circuit, n_prompts=4, period=20)
    found = lag_profile(circuit, prompts).set_index("lag")["probability"]
    assert found.idxmax() == 1 and found[1] > 0.9 and found.drop(1).max() < 0.05
    random = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=128, n_ctx=128)))
    assert lag_profile(random, prompts)["probability"].max() < 0.1


def test_padding_and_places_outside_the_prompt_are_left_out(bundled):
    tokens = torch.tensor([[0, 5, 6, 5, 9, 9], [0, 5, 6, 7, 8, 9]])
    found = lag_profile(bundled, tokens, lags=(-5, 1)).set_index("lag")
    assert found.loc[-5, "n_prompts"] == 0 and found.loc[1, "n_prompts"] == 1


def test_what_cannot_be_read_is_refused(bundled):
    with pytest.raises(ValueError, match="second time"):
        lag_profile(bundled, torch.tensor([[0, 1, 2, 3]]))
    with pytest.raises(ValueError, match="lag is wanted"):
        lag_profile(bundled, repeated_tokens(bundled, n_prompts=1), lags=())
