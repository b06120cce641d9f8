"""Scores by key-value head, and the files that others read them from."""

import json

import numpy as np
import pytest
import torch
from families import random_network

from induction_lab import HeadScores, HookedModel, export_kv_heads, repeated_tokens, score_heads


@pytest.fixture(scope="module")
def scores():
    model = HookedModel(random_network("llama"), name="llama")
    assert model.n_kv_heads < model.n_heads
    return score_heads(model, repeated_tokens(model, n_prompts=2, period=10), scores=["prefix_matching"])


@pytest.mark.parametrize("reduce", ["max", "mean", "min"])
def test_query_heads_come_together_as_they_read(scores, reduce, tmp_path):
    found, n_kv = scores.by_kv_head("prefix_matching", reduce), scores.provenance["n_kv_heads"]
    group = scores.n_heads // n_kv
    for layer in range(scores.n_layers):
        for kv in range(n_kv):
            queries = [float(scores["prefix_matching"][layer, h]) for h in range(scores.n_heads) if h // group == kv]
            slow = {"max": max, "min": min, "mean": lambda x: sum(x) / len(x)}[reduce](queries)
            assert float(found[layer, kv]) == pytest.approx(slow)
    for suffix in ("csv", "json", "parquet"):
        loaded = HeadScores.load(scores.save(tmp_path / f"scores.{suffix}"))
        torch.testing.assert_close(loaded.by_kv_head("prefix_matching", reduce), found)


def test_json_holds_names_and_numbers(scores, tmp_path):
    read = json.loads(export_kv_heads(scores, tmp_path / "heads.json").read_text())
    assert (read["model"], read["score"], read["reduce"]) == ("llama", "prefix_matching", "max")
    np.testing.assert_allclose(read["values"], scores.by_kv_head("prefix_matching").numpy(), rtol=1e-6)


def test_duo_attention_reads_a_row_a_layer(scores, tmp_path):
    folder = export_kv_heads(scores, tmp_path / "duo", format="duo-attention", sink_size=16, recent_size=64)
    table = np.loadtxt(folder / "full_attention_heads.tsv", dtype=float, delimiter="\t")
    np.testing.assert_allclose(table, scores.by_kv_head("prefix_matching").clamp(0, 1).numpy(), atol=1e-6)
    assert json.loads((folder / "config.json").read_text()) == {"sink_size": 16, "recent_size": 64}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"format": "xml"}, "`format` must be one of json, duo-attention, got 'xml'"),
        ({"reduce": "sum"}, "`reduce` must be one of max, mean, min, got 'sum'"),
        ({"score": "x"}, "No score 'x' here"),
        ({"sink_size": -1}, "Sizes must not be negative"),
    ],
)
def test_mistakes_are_refused_and_write_nothing(scores, how, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_kv_heads(scores, tmp_path / "heads.json", **how)
    assert not list(tmp_path.iterdir())


def test_tables_that_do_not_say_how_heads_share_are_refused(scores):
    old = HeadScores("m", scores.values, scores.standard_errors, scores.uniform)
    with pytest.raises(ValueError, match="do not say how many key-value heads m has"):
        old.by_kv_head("prefix_matching")
