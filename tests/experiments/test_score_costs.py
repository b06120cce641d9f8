"""What scores cost: counted, against what can be worked out, and the table that is committed against the counter."""

import pandas as pd
import pytest
import torch

from experiments.harness import FIGURES
from experiments.showcase import score_costs
from induction_lab import repeated_tokens, score_heads


def test_attention_scores_cost_one_pass_and_weights_none(bundled):
    row = score_costs.cost(bundled, "prefix_matching")
    assert row["prompts"] == 16 and row["tokens"] == row["whole"] == 16 * 101 and row["passes"] == 1
    assert score_costs.cost(bundled, "ov_copying") | {"score": ""} == {
        "score": "", "of": "weights", "prompts": 0, "shortest": 0, "longest": 0, "whole": 0, "tokens": 0, "passes": 0,
    }  # fmt: skip


def test_changing_every_head_costs_two_runs_a_prompt_and_half_a_pass_of_a_position_each(smollm2):
    model = score_costs.narrow(smollm2)
    score_costs.cost(model, "token_copying")  # what the model can do is tried once, on a few tokens
    row = score_costs.cost(model, "token_copying")
    assert row["prompts"] == 2 * 64
    halves = sum(30 - layer for layer in range(30)) / 30
    check = 64  # whether positions can be run alone is tried once a prompt
    assert row["tokens"] - row["whole"] == pytest.approx(64 * 9 * halves + check)


def test_a_narrow_model_costs_what_the_whole_one_costs(smollm2):
    narrow = score_costs.narrow(smollm2)
    assert (narrow.n_layers, narrow.n_heads, narrow.n_kv_heads, narrow.d_vocab) == (30, 9, 3, smollm2.d_vocab)
    assert score_costs.cost(narrow, "match_1") == score_costs.cost(smollm2, "match_1")


def test_the_table_is_what_the_counter_says(smollm2):
    table = pd.read_csv(FIGURES / "score_costs.csv").set_index("score")
    narrow = score_costs.narrow(smollm2)
    for score in ("prefix_matching", "copying", "token_matching", "context_matching", "match_2", "ov_copying"):
        found = score_costs.cost(narrow, score)
        for name, value in found.items():
            assert name == "score" or value == pytest.approx(table.loc[score, name]), (score, name)
    said = score_costs.section(table.reset_index())
    assert "| `prefix_matching` | 16 of 101 | 1,616 |  | 1.0 |" in said
    assert "| `ov_copying` | none | 0 |  | 0.0 |" in said


def test_no_hook_is_left_behind(bundled):
    before = score_heads(bundled, repeated_tokens(bundled, n_prompts=2), scores="prefix_matching", loss=False)
    score_costs.seen_by(bundled, "prefix_matching")
    assert not any(module._forward_pre_hooks for module in bundled.anatomy.attention_modules)
    after = score_heads(bundled, repeated_tokens(bundled, n_prompts=2), scores="prefix_matching", loss=False)
    assert torch.equal(before["prefix_matching"], after["prefix_matching"])
