"""Stability over context lengths: on the bundled model, and its numbers against counting."""

import pandas as pd
import pytest
from scipy.stats import spearmanr

from experiments.showcase import context_lengths
from induction_lab import repeated_tokens, score_heads


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths")
    context_lengths.main(["--model", "induction-2l", "--lengths", "41", "21", "101", "--out", str(folder)])
    return pd.read_csv(folder / "context_lengths.csv")


def test_rows_are_the_scores_of_each_length(rows, bundled):
    assert sorted(set(rows["length"])) == [21, 41, 101]
    scores = score_heads(bundled, repeated_tokens(bundled, n_prompts=2, period=20), scores="prefix_matching")
    some = rows[(rows["length"] == 41) & (rows["score"] == "prefix_matching")]
    heads = some[some["of"] == "heads"].set_index("label")["value"]
    for head, value in scores.top("prefix_matching", 8):
        assert heads[str(head)] == pytest.approx(value, abs=1e-5)
    by_kv = some[some["of"] == "key-value heads"].set_index("label")["value"]
    assert by_kv["L1KV3"] == pytest.approx(float(scores.by_kv_head("prefix_matching")[1, 3]), abs=1e-5)


def test_correlations_and_lists_are_as_counted(rows):
    found = context_lengths.stability(rows).set_index(["of", "score", "length"])
    some = rows[(rows["of"] == "heads") & (rows["score"] == "resting")]
    wide = some.pivot(index="label", columns="length", values="value")
    for length in (41, 101):
        row = found.loc[("heads", "resting", length)]
        assert row["rank_correlation"] == pytest.approx(spearmanr(wide[21], wide[length]).statistic, abs=1e-9)
        assert row["kept"] == ((wide[21] > 0.4) & (wide[length] > 0.4)).sum()
        assert row["n_listed"] == (wide[length] > 0.4).sum()
        assert row["lost"] == " ".join(sorted(wide.index[(wide[21] > 0.4) & (wide[length] <= 0.4)]))
    assert found.loc[("heads", "prefix_matching", 21), "rank_correlation"] == pytest.approx(1.0)
    said = context_lengths.section(rows)
    assert "| `prefix_matching` | 4 above 0.4 |" in said and "101 tokens" in said and "nan" not in said
