"""Induction at any offset: against whole matrices, heads by hand at other offsets, and noise."""

import pytest
import torch

from induction_lab import HookedModel, capture, repeated_tokens, score_heads
from induction_lab.models.attention_only.by_hand import head_gallery, induction_circuit
from induction_lab.models.attention_only.network import AttentionLayer
from induction_lab.scores.kinds.displaced import LAGS, DisplacedInduction


def slow(model, prompts):
    """`[prompt, layer, head, lag]` from whole patterns, one query at a time."""
    kept = capture(model, prompts.tokens, "pattern")
    found = torch.zeros(len(prompts), model.n_layers, model.n_heads, len(LAGS))
    for layer in range(model.n_layers):
        patterns = kept["pattern", layer]
        for p, row in enumerate(prompts.tokens.tolist()):
            queries = [t for t in range(1, len(row)) if row[t] in row[1:t]]
            for t in queries:
                for s in (s for s in range(1, t) if row[s] == row[t]):
                    for i, lag in enumerate(LAGS):
                        if 1 <= s + lag < t:
                            found[p, layer, :, i] += patterns[p, :, t, s + lag] / len(queries)
    return found


def test_values_are_those_of_whole_patterns(small):
    prompts = repeated_tokens(small, n_prompts=4, period=11, n_repeats=3)
    values = slow(small, prompts)
    scores = score_heads(small, prompts, scores=["displaced_induction", "induction_lag"], batch_size=3)
    best = values.mean(0).argmax(-1)
    torch.testing.assert_close(scores["induction_lag"], torch.tensor(LAGS, dtype=torch.float32)[best])
    halves = []
    for own, other in ((values[::2], values[1::2]), (values[1::2], values[::2])):
        chosen = other.mean(0).argmax(-1)
        halves.append(own.gather(-1, chosen.expand(len(own), -1, -1)[..., None])[..., 0])
    torch.testing.assert_close(scores["displaced_induction"], torch.cat(halves).mean(0), atol=1e-5, rtol=1e-4)


def test_every_head_of_the_gallery_is_found_at_its_own_offset():
    scores = score_heads(HookedModel(head_gallery()), scores=["displaced_induction", "induction_lag"])
    lag = scores["induction_lag"]
    assert (lag[1, 0], lag[1, 2], lag[0, 2]) == (1, -1, 0)  # induction, anti-induction, duplicate token
    value = scores["displaced_induction"]
    assert value[1, 0] > 0.999 and value[1, 2] > 0.97 and value[0, 2] > 0.999  # nothing precedes the first token
    assert value[1, 1] < 1e-3 and value[0, 1] < 0.03  # resting, uniform


def test_a_circuit_with_another_offset_is_seen_where_prefix_matching_is_blind():
    network = induction_circuit(d_vocab=64, n_ctx=64)
    with torch.no_grad():  # the first head carries the token of three back, so the second looks three behind
        layer = next(module for module in network.modules() if isinstance(module, AttentionLayer))
        W_Q = layer.W_Q[0]
        positions = slice(3 * 64, 4 * 64)
        W_Q[positions] = W_Q[positions].roll(2, 0)
        W_Q[positions][:3] = 0
    scores = score_heads(
        HookedModel(network),
        repeated_tokens(HookedModel(network), n_prompts=4, period=25),
        scores=["prefix_matching", "displaced_induction", "induction_lag"],
    )
    assert scores["prefix_matching"][1, 0] < 0.1
    assert scores["induction_lag"][1, 0] == 3 and scores["displaced_induction"][1, 0] > 0.85


def test_the_choice_of_the_offset_does_not_raise_the_value_of_noise():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(200, 2, 3, len(LAGS), generator=generator)
    settled = DisplacedInduction().settled(noise)
    assert settled.mean().item() == pytest.approx(0.5, abs=0.02)
    assert noise.amax(-1).mean() > 0.9


def test_text_without_repeats_has_no_value(small):
    from induction_lab import distinct_tokens

    with pytest.raises(ValueError, match="displaced_induction reads nothing on these prompts"):
        score_heads(small, distinct_tokens(small, n_prompts=2, length=20), scores="displaced_induction")
