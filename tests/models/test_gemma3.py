"""A second real language model: windows, norms after attention, one key-value head, dimensions that are always zero."""

import pytest
import torch

from induction_lab import (
    capture,
    find_circuit,
    input_shares,
    patch_paths,
    repeated_tokens,
    score_heads,
    score_shares,
)


def test_its_patterns_are_its_own_and_its_induction_heads_are_known(gemma3):
    prompts = repeated_tokens(gemma3, n_prompts=2, period=20)
    with torch.no_grad():
        gemma3.network.config._attn_implementation = "eager"
        own = gemma3.network(prompts.tokens, output_attentions=True).attentions
    seen = capture(gemma3, prompts, "pattern")
    for layer, pattern in enumerate(own):
        torch.testing.assert_close(seen["pattern", layer], pattern, atol=3e-5, rtol=0)
    scores = score_heads(gemma3, prompts, scores=["prefix_matching", "logit_attribution"])
    assert [str(head) for head, _ in scores.top("prefix_matching", 2)] == ["L5H1", "L11H2"]
    assert scores.loss_by_copy[1] < scores.loss_by_copy[0] / 4


def test_its_circuit_is_read_where_dimensions_of_keys_are_zero(gemma3):
    edges = find_circuit(gemma3, repeated_tokens(gemma3, n_prompts=2, period=20), n=5).edges
    assert edges["induction"][0] == "L11H2" and edges["qk_matching"][0] == pytest.approx(1, abs=0.1)


def test_its_previous_token_head_writes_the_keys_of_its_induction_head(gemma3):
    """Though what a layer's heads write passes a norm together."""
    prompts = repeated_tokens(gemma3, n_prompts=2, period=20)
    cut = patch_paths(gemma3, prompts, "L5H1", "k", senders=["L3H1", "L4H0", "L4H1"])
    assert cut.top(1)[0][0] == "L4H1" and cut.of("L4H1")["effect"] > 10 * abs(cut.of("L4H0")["effect"])
    for function in (input_shares, score_shares):
        shares = function(gemma3, prompts, "L5H1").set_index("sender")["share"]
        assert shares.index[0] == "L4H1" and shares["L4H1"] > 0.7 and shares.sum() == pytest.approx(1, abs=1e-5)
    assert abs(shares["bias"]) < 1e-5  # keys have none: the senders make the whole score


def test_it_reads_english(gemma3):
    tokens = gemma3.tokenizer("The capital of France is Paris. The capital of Italy is", return_tensors="pt").input_ids
    best = gemma3.logits(tokens)[0, -1].argmax()
    assert gemma3.tokenizer.decode(best).strip() == "Rome"
