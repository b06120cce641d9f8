import pandas as pd
import pytest
import torch

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    InductionCircuit,
    composition_scores,
    distinct_tokens,
    find_circuit,
    repeated_tokens,
    score_heads,
)
from induction_lab.models.attention_only.by_hand import INDUCTION, PREVIOUS_TOKEN
from induction_lab.results.heads import parse_head


def test_the_handbuilt_circuit_is_found_and_nothing_else_has_strength(circuit):
    prompts = repeated_tokens(circuit, n_prompts=4, period=20)
    edges = find_circuit(circuit, prompts).edges
    assert (edges["previous"][0], edges["induction"][0]) == (str(PREVIOUS_TOKEN), str(INDUCTION))
    first = edges.iloc[0]
    assert first["previous_token"] == pytest.approx(1) and first["prefix_matching"] == pytest.approx(1)
    assert first["qk_matching"] == pytest.approx(1) and first["ov_copying"] == pytest.approx(1)
    assert first["K_rank"] == 1 and edges["strength"][1:].max() < 0.01 * first["strength"]


def test_numbers_of_an_edge_are_those_of_their_own_functions(bundled):
    found = find_circuit(bundled)
    scores = score_heads(bundled, scores=["previous_token", "prefix_matching"])
    K = composition_scores(bundled)
    assert found.edges["strength"].is_monotonic_decreasing and len(found.edges) == 16
    for edge in found.edges.to_dict("records"):
        (l1, h1), (l2, h2) = (tuple(int(i) for i in edge[end][1:].split("H")) for end in ("previous", "induction"))
        assert (l1, l2) == (0, 1)
        assert edge["K"] == pytest.approx(float(K[l1, h1, l2, h2]), abs=1e-6)
        assert edge["K_rank"] == 1 + int((K[0, :, l2, h2] > K[l1, h1, l2, h2]).sum())
        product = scores["previous_token"][l1, h1] * scores["prefix_matching"][l2, h2] * K[l1, h1, l2, h2].clamp(min=0)
        assert edge["strength"] == pytest.approx(float(product), abs=1e-5)


def test_likely_edges_have_heads_that_look_as_they_should_and_compose(bundled, small):
    found = find_circuit(bundled)
    slow = [
        (edge["previous"], edge["induction"])
        for edge in found.edges.to_dict("records")
        if edge["previous_token"] >= 0.4 and edge["prefix_matching"] >= 0.4 and edge["K"] > 0
    ]
    assert list(found.likely[["previous", "induction"]].itertuples(index=False, name=None)) == slow
    assert slow[0] == ("L0H3", "L1H3") and len(slow) < len(found.edges)
    assert find_circuit(small, repeated_tokens(small, period=20)).likely.empty


def test_known_scores_are_not_measured_again(bundled, monkeypatch):
    prompts = repeated_tokens(bundled, n_prompts=4)
    alone, scores = find_circuit(bundled, prompts), score_heads(bundled, prompts)
    monkeypatch.setattr("induction_lab.circuits.search.score_heads", None)
    assert find_circuit(bundled, prompts, scores=scores).edges.equals(alone.edges)


def test_scores_of_another_model_are_refused(bundled, small):
    with pytest.raises(ValueError, match="`scores` are of small, not of induction-2l"):
        find_circuit(bundled, scores=score_heads(small, repeated_tokens(small, n_prompts=2, period=9)))


def test_on_the_real_model_the_weights_name_the_bottleneck(smollm2):
    """Known from ablation: the whole circuit hangs on L16H0."""
    edges = find_circuit(smollm2, repeated_tokens(smollm2, n_prompts=8)).edges
    assert edges["previous"][0] == "L16H0"
    assert set(edges["induction"][:5]) == {"L17H3", "L17H4", "L17H5", "L18H6", "L18H7"}
    top = edges[:5]
    assert (top["K"] > 2 * top["V"]).all() and (top["K"] > 2 * top["Q"]).all() and (top["K_rank"] <= 2).all()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_circuit_survives_the_disk(bundled, tmp_path, suffix):
    found = find_circuit(bundled, n=3)
    again = InductionCircuit.load(found.save(tmp_path / f"circuit{suffix}"))
    assert again.baseline == found.baseline and again.provenance == found.provenance
    torch.testing.assert_close(torch.tensor(again.edges["K"]), torch.tensor(found.edges["K"]))
    assert list(again.edges["previous"]) == list(found.edges["previous"]) and "3 edges" in repr(again)


def test_what_is_no_circuit_is_refused(bundled, tmp_path):
    scores = score_heads(bundled, scores=["prefix_matching"])
    with pytest.raises(ValueError, match="holds no readable circuit"):
        InductionCircuit.load(scores.save(tmp_path / "scores.json"))


@pytest.mark.parametrize("n_layers", [0, 1])
def test_one_layer_has_no_circuit(n_layers):
    model = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=n_layers)))
    with pytest.raises(ValueError, match="no head can feed another"):
        find_circuit(model)


def test_texts_that_repeat_are_matched_at_the_median_distance_and_others_refused(bundled, small):
    block = torch.arange(5, 25)
    blocks = torch.cat([torch.zeros(1).long(), block, block])
    words = torch.cat([blocks, torch.tensor([30, 31, 32])])  # no copies of one block any more
    wanted = find_circuit(bundled, blocks[None]).edges
    found = find_circuit(bundled, words[None]).edges
    pd.testing.assert_series_equal(found["K"], wanted["K"])
    close = {"rtol": 0, "atol": 2e-4}  # the previous-token heads look a little differently at the words behind
    pd.testing.assert_series_equal(found["qk_matching"], wanted["qk_matching"], **close)  # repeats are 20 tokens back
    looks = score_heads(bundled, words[None])
    assert [looks["prefix_matching"][parse_head(label)] for label in found["induction"]] == pytest.approx(
        found["prefix_matching"].tolist(), abs=1e-6
    )
    for model in (bundled, small):
        with pytest.raises(ValueError, match="Nothing repeats in these prompts: no token occurs twice"):
            find_circuit(model, distinct_tokens(model, n_prompts=2, length=20))


@pytest.mark.parametrize("n", [1, 3, 20, 1000])
def test_edges_are_the_strongest_of_all_pairs(n):
    network = AttentionOnlyTransformer(AttentionOnlyConfig(n_layers=4, n_heads=3), seed=1)
    model = HookedModel(network)
    generator = torch.Generator().manual_seed(n)
    previous, prefix = torch.rand(2, 4, 3, generator=generator).pow(4)
    prompts = repeated_tokens(model, n_prompts=2, period=9)
    scores = score_heads(model, prompts, scores=["previous_token", "prefix_matching"])
    scores.values.update(previous_token=previous, prefix_matching=prefix)
    edges = find_circuit(model, prompts, scores=scores, n=n).edges
    K = composition_scores(model)
    strengths = previous[:, :, None, None] * prefix * K.clamp(min=0)
    expected = strengths.flatten().sort(descending=True).values[: len(edges)]
    assert len(edges) == min(n, 54)
    torch.testing.assert_close(torch.tensor(edges["strength"]).float(), expected, atol=1e-7, rtol=1e-4)
