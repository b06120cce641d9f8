import pytest
import torch
from families import random_network

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel, capture, positional_preference


@pytest.mark.parametrize("family", ["gpt_neox", "llama", "qwen3", "small"])
@torch.no_grad()
def test_positional_preference_is_the_mean_score_over_all_pairs_of_tokens(family, small):
    """The slow way: every pair of tokens as a prompt of its own, the model's own scores of the first layer."""
    model = small if family == "small" else HookedModel(random_network(family))
    offset, some = 2, 30
    rows = torch.arange(3, 3 + some)
    pairs = torch.cartesian_prod(rows, rows)  # key token, query token
    tokens = torch.stack([pairs[:, 0], torch.full((len(pairs),), 3), pairs[:, 1]], 1)
    scores = capture(model, tokens, "attn_scores", layers=0)["attn_scores", 0][:, :, 2, 0]
    vectors = model.hooked.W_E[3 : 3 + some].detach()
    found = positional_preference(model, [0, offset], source=vectors)[1, 0]
    torch.testing.assert_close(found, scores.mean(0), rtol=1e-4, atol=1e-4)


def test_the_bundled_previous_token_head_prefers_one_back(bundled):
    preference = positional_preference(bundled, range(20))[:, 0]
    assert int(preference[:, 3].argmax()) == 1
    assert preference[1, 3] > preference[[0, *range(2, 20)], 3].max() + 2  # nats


def test_only_rotary_models_have_one():
    learned = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(positions="learned")))
    with pytest.raises(ValueError, match="is not rotary"):
        positional_preference(learned, [1])
