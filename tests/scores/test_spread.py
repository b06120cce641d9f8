import math

import pytest
import torch
from families import random_network

from induction_lab import HookedModel, attention_spread, distinct_tokens, repeated_tokens
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import read_attention
from induction_lab.scores.spread import queries_read, spread_per_query


def whole_patterns(model, tokens):
    found = {}
    read_attention(model, tokens, lambda attention: found.update({attention.layer: attention.pattern().float()}))
    return found


def by_hand(row: list[float]) -> dict[str, float]:
    """One query's row, added up number by number."""
    total, t = sum(row), len(row) - 1
    row = [p / total for p in row]
    entropy = -sum(p * math.log(p) for p in row if p > 0)
    distance = sum(p * (t - s) for s, p in enumerate(row))
    return {
        "entropy": entropy,
        "addresses": math.exp(entropy),
        "evenness": entropy / math.log(t + 1),
        "largest": max(row),
        "first": row[0],
        "distance": distance,
        "distance_past_first": sum(p * (t - s) for s, p in enumerate(row) if s) / sum(row[1:]),
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "gpt_oss", "bloom"])
def test_blocks_of_queries_read_what_the_whole_matrix_says(family, monkeypatch):
    monkeypatch.setattr("induction_lab.scores.spread.BLOCK", 5)  # several blocks, the last one short
    model = HookedModel(random_network(family), name=family)
    prompts = distinct_tokens(model, n_prompts=2, length=12)
    patterns = whole_patterns(model, prompts.tokens)
    found = spread_per_query(model, prompts)
    for layer, pattern in patterns.items():
        for prompt, head, t in [(0, 0, 1), (0, 3, 12), (1, 1, 7), (1, 2, 5), (0, 2, 11)]:
            expected = by_hand(pattern[prompt, head, t, : t + 1].tolist())
            for quantity, value in expected.items():
                got = float(found[quantity][layer, prompt, head, t])
                assert got == pytest.approx(value, rel=2e-4, abs=2e-5), quantity


def test_the_table_is_the_mean_over_queries_then_prompts_without_padding(llama):
    whole = distinct_tokens(llama, n_prompts=3, length=9)
    lengths = torch.tensor([10, 4, 7])
    prompts = Prompts(whole.tokens, lengths=lengths)
    patterns = whole_patterns(llama, whole.tokens)
    table = attention_spread(llama, prompts, batch_size=2).set_index(["label", "quantity"])
    means = [
        [by_hand(patterns[1][p, 2, t, : t + 1].tolist())["addresses"] for t in range(1, int(lengths[p]))]
        for p in range(3)
    ]
    per_prompt = torch.tensor([sum(each) / len(each) for each in means])
    row = table.loc[("L1H2", "addresses")]
    assert row["value"] == pytest.approx(float(per_prompt.mean()), rel=1e-4)
    assert row["standard_error"] == pytest.approx(float(per_prompt.std()) / 3**0.5, rel=1e-3)
    assert row["uniform"] == pytest.approx((6.0 + 3.0 + 4.5) / 3)  # means of 2 … 10, 2 … 4, 2 … 7
    assert not queries_read(prompts)[1, 4:].any() and not queries_read(prompts)[:, 0].any()


def test_what_rests_on_the_first_token_does_not_count_as_distance(llama):
    prompts = distinct_tokens(llama, n_prompts=1, length=9)
    pattern = whole_patterns(llama, prompts.tokens)[0][0, 1]
    t, s = torch.meshgrid(torch.arange(10), torch.arange(10), indexing="ij")
    past = (pattern * (t - s) * (s > 0))[1:].sum() / (pattern * (s > 0))[1:].sum()
    table = attention_spread(llama, prompts).set_index(["label", "quantity"])
    assert table.loc[("L0H1", "distance_past_first"), "value"] == pytest.approx(float(past), rel=1e-4)
    assert math.isnan(table.loc[("L0H1", "distance_past_first"), "standard_error"])


def test_written_by_hand_a_previous_token_head_reads_one_address_one_token_away(gallery):
    table = attention_spread(gallery, repeated_tokens(gallery, n_prompts=2, period=20)).set_index(["label", "quantity"])
    value = table["value"]
    hard = [label for label, quantity in value.index if quantity == "largest" and value[label, quantity] > 0.99]
    assert any(value[label, "distance_past_first"] == pytest.approx(1.0, abs=0.01) for label in hard)
    assert all(value[label, "addresses"] < 1.1 for label in hard)


def test_a_head_without_queries_and_keys_reads_evenly(small):
    with torch.no_grad():
        small.network.blocks[0].attn.W_Q[1] = 0
    table = attention_spread(small, distinct_tokens(small, n_prompts=2, length=30))
    even, other = (table[table["label"] == label].set_index("quantity") for label in ("L0H1", "L0H0"))
    for quantity in ("entropy", "addresses", "evenness", "largest", "first", "distance", "distance_past_first"):
        assert even.loc[quantity, "value"] == pytest.approx(even.loc[quantity, "uniform"], rel=1e-4)
    assert other.loc["evenness", "value"] < 0.999


def test_tokens_outside_the_vocabulary_are_refused(small):
    with pytest.raises(ValueError, match="Tokens must lie in"):
        attention_spread(small, torch.tensor([[0, 100]]))
