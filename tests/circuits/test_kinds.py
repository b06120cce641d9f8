"""Which head is of which kind: on heads by hand, on noise, and the tables against counting."""

import copy
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_network
from scipy.stats import hypergeom

from induction_lab import (
    HeadKinds,
    HookedModel,
    classify_heads,
    find_circuit,
    repeated_tokens,
    score_heads,
    surviving_kinds,
)
from induction_lab.circuits.kinds import BY_NAME, COLUMNS, KINDS, _by_chance, _table
from induction_lab.models.attention_only.by_hand import head_gallery
from induction_lab.scores.registry import EVERY
from induction_lab.scores.results import HeadScores
from induction_lab.scores.score import WeightScore
from induction_lab.sweeps.measurements import KindsSettings


@pytest.fixture(scope="module")
def gallery():
    return classify_heads(HookedModel(head_gallery(), name="gallery"), causal=False)


def test_every_head_by_hand_is_what_it_was_made_to_be(gallery):
    named = {kind: sorted(map(str, gallery.of(kind))) for kind in gallery.kinds}
    assert named["induction"] == ["L1H0", "L1H3"]  # the suppressor looks where the induction head looks
    assert named["previous-token"] == ["L0H0"] and named["duplicate-token"] == ["L0H2"]
    assert "induction" in gallery.kinds_of("L1H0") and gallery.kinds_of("L0H1") == []  # uniform attention: nothing
    heads = gallery.heads().set_index("label")
    assert heads.loc["L0H0", "kinds"].split(", ")[0] == "previous-token"
    assert heads.loc["L0H0", "previous-token"] > 0.999


def test_untrained_models_have_no_kind_that_is_told_from_repeats():
    model = HookedModel(random_network("llama"), name="untrained")
    found = classify_heads(model, kinds=["induction", "duplicate-token"])
    assert found.of("induction") == [] and found.of("duplicate-token") == []


def test_shared_heads_are_counted_and_compared_with_chance():
    rows = [
        (f"L0H{h}", 0, h, kind, "s", 1.0, 0.0, 0.0, 0.0, h in members)
        for kind, members in (("a", {0, 1, 2}), ("b", {1, 2, 3}), ("c", {7}))
        for h in range(8)
    ]
    found = HeadKinds("m", pd.DataFrame(rows, columns=COLUMNS))
    shared = found.overlaps().set_index(["kind", "other_kind"])
    assert shared.loc[("a", "b"), "n_shared"] == 2 and shared.loc[("a", "c"), "n_shared"] == 0
    assert shared.loc[("a", "b"), "expected"] == pytest.approx(9 / 8)
    draws = [len(set(np.random.default_rng(i).permutation(8)[:3]) & {1, 2, 3}) >= 2 for i in range(4000)]
    assert shared.loc[("a", "b"), "p_value"] == pytest.approx(np.mean(draws), abs=0.02)
    assert shared.loc[("a", "c"), "p_value"] == 1.0


def test_noise_passes_at_the_stated_rate_only():
    """Of heads whose values are noise about chance, hardly any set has a head that is called one of its kind."""
    score = next(kind for kind in KINDS if kind.name == "previous-token")
    generator, false = torch.Generator().manual_seed(0), 0
    for _ in range(100):
        per_prompt = 0.5 + 0.1 * torch.randn(8, 4, 8, generator=generator)
        scores = HeadScores(
            "noise",
            {score.score: per_prompt.mean(0)},
            {score.score: per_prompt.std(0) / 8**0.5},
            {score.score: 0.5},
            provenance={"n_values": {score.score: 8}},
        )
        false += _table(scores, score)["is_kind"].any()
    assert false <= 12  # 5 of 100 are expected


def test_tables_are_written_and_read(gallery, tmp_path):
    for suffix in ("csv", "json", "parquet"):
        read = HeadKinds.load(gallery.save(tmp_path / f"kinds.{suffix}"))
        assert read.model == "gallery" and read.kinds == gallery.kinds
        assert [read.of(kind) for kind in read.kinds] == [gallery.of(kind) for kind in gallery.kinds]
    assert "2 induction" in repr(gallery)


def test_a_chance_that_is_not_known_is_not_called_0():
    kind = next(kind for kind in KINDS if kind.name == "retrieval")
    value = torch.tensor([[0.9, 0.5], [0.05, 0.0]])
    scores = HeadScores(
        "m", {kind.score: value}, {kind.score: torch.full_like(value, 0.01)}, {kind.score: math.nan},
        provenance={"n_values": {kind.score: 20}},
    )  # fmt: skip
    table = _table(scores, kind)
    assert table["chance"].isna().all() and table["is_kind"].tolist() == [True, True, False, False]


def test_what_is_no_kind_is_refused(gallery, small):
    with pytest.raises(ValueError, match=r"Unknown kinds \['x'\]; there are induction"):
        classify_heads(small, kinds="x")
    with pytest.raises(ValueError, match="function-vector: known only by what changing a head does"):
        classify_heads(small, kinds="function-vector", causal=False)
    with pytest.raises(ValueError, match="give 2 or more, got 1"):
        classify_heads(small, repeated_tokens(small, period=5, n_prompts=1), kinds="induction")
    with pytest.raises(ValueError, match="There is no kind 'x' here"):
        gallery.of("x")


def test_every_kind_is_known_by_a_score_that_there_is():
    assert all(kind.score in EVERY for kind in KINDS) and len(BY_NAME) == len(KINDS)
    assert all(kind.least is not None for kind in KINDS if isinstance(EVERY[kind.score], WeightScore))


def test_scores_that_are_known_are_not_measured_again_and_must_be_of_the_same(small):
    prompts = repeated_tokens(small, period=5, n_prompts=8)
    kinds = ["induction", "previous-token", "token-matching"]
    plain, scores = classify_heads(small, prompts, kinds=kinds), score_heads(small, prompts, chance_test=True)
    assert classify_heads(small, prompts, kinds=kinds, scores=scores).table.equals(plain.table)
    untested = score_heads(small, prompts)  # not tested against chance: it is done
    assert classify_heads(small, prompts, kinds=kinds, scores=untested).table.equals(plain.table)
    with pytest.raises(ValueError, match="of other prompts than those given"):
        classify_heads(small, kinds=kinds, scores=scores)
    with pytest.raises(ValueError, match="`scores` are of other, not of"):
        classify_heads(small, prompts, kinds=kinds, scores=replace(scores, model="other"))


def test_values_are_those_of_score_heads(gallery):
    model = HookedModel(head_gallery(), name="gallery")
    scores = score_heads(model, scores="previous_token")
    rows = gallery.table[gallery.table["kind"] == "previous-token"]
    assert rows["value"].to_numpy() == pytest.approx(scores["previous_token"].flatten().numpy(), abs=1e-3)


def test_the_command_gives_a_table_a_file_and_a_map(tmp_path, monkeypatch, capsys):
    from induction_lab.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["induction-lab", "heads", "--no-causal", "--prompts", "8"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code in (0, None) and "heads are of a kind" in said and "induction" in said
    kept = HeadKinds.load(tmp_path / "results" / "induction-2l_kinds.csv")
    assert len(kept.of("induction")) == 4
    assert (tmp_path / "results" / "induction-2l_kinds.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "x"], "Unknown kinds"),
        (["--kinds", "function-vector", "--no-causal"], "known only by"),
        (["--kinds", "function-vector", "--no-causal"], "--causal"),
        (["--kinds", ","], "--kinds wants names separated by commas, or all"),
        (["--kinds", ""], "--kinds wants names separated by commas, or all"),
        (["./no-model", "--kinds", "all"], "no-model"),  # `all` is allowed: it goes on to the model
        (["--prompts", "1"], "at least 2"),
    ],
)
def test_mistakes_on_the_command_line_are_one_message(arguments, message, monkeypatch, capsys):
    from induction_lab.cli.app import main

    monkeypatch.setattr("sys.argv", ["induction-lab", "heads", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and message in capsys.readouterr().err


def other_weights(model: HookedModel) -> HookedModel:
    """A model of the same name whose weights are others."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        next(iter(network.parameters())).mul_(1.5)
    return HookedModel(network, name=model.name)


def test_scores_and_kinds_of_other_weights_or_another_dtype_are_refused(small):
    prompts = repeated_tokens(small, period=5, n_prompts=8)
    scores, found = score_heads(small, prompts), classify_heads(small, prompts, kinds="induction")
    double = HookedModel(copy.deepcopy(small.network).double(), name=small.name)
    for model, message in ((other_weights(small), "of other weights of"), (double, "in float32, not in float64")):
        with pytest.raises(ValueError, match=f"`scores` are .*{message}"):
            classify_heads(model, prompts, kinds="induction", scores=scores)
        with pytest.raises(ValueError, match=f"`scores` are .*{message}"):
            find_circuit(model, prompts, scores=scores)
        with pytest.raises(ValueError, match=f"`found` is .*{message}"):
            surviving_kinds(model, found, prompts)
    with pytest.raises(ValueError, match="`found` is of other, not of"):
        surviving_kinds(small, replace(found, model="other"))


def test_weighed_scores_are_no_kinds(small):
    prompts = repeated_tokens(small, period=5, n_prompts=8)
    with pytest.raises(ValueError, match=r"`scores` are weighed \(weigh='values'\)"):
        classify_heads(small, prompts, kinds="induction", scores=score_heads(small, prompts, weigh="values"))


def test_kinds_named_twice_are_one(small):
    prompts = repeated_tokens(small, period=5, n_prompts=8)
    once, twice = (classify_heads(small, prompts, kinds=["induction"] * n) for n in (1, 2))
    assert twice.table.equals(once.table)
    assert KindsSettings(("induction", "induction")) == KindsSettings(("induction",))


def test_what_is_no_result_or_no_name_is_refused(small, gallery, unchecked):
    for kinds in (3, [3], [["induction"]]):
        with pytest.raises(ValueError, match="inds.* there are induction"):
            classify_heads(small, kinds=kinds)
    with pytest.raises(ValueError, match="`scores` must be HeadScores, from `score_heads`; got HeadKinds"):
        classify_heads(small, scores=gallery)
    with pytest.raises(ValueError, match="`found` must be HeadKinds, from `classify_heads`; got HeadScores"):
        surviving_kinds(small, score_heads(small, repeated_tokens(small, period=5)))
    for n_draws in (2.5, "3"):
        with pytest.raises(ValueError, match="`n_draws` must be a whole number"):
            surviving_kinds(small, gallery, n_draws=n_draws)


@pytest.mark.parametrize(("n_heads", "a", "b"), [(8, 3, 5), (8, 0, 4), (8, 8, 4), (270, 31, 17), (1024, 200, 300)])
def test_shared_heads_are_as_likely_by_chance_as_scipy_says(n_heads, a, b):
    shared = np.arange(min(a, b) + 1)
    found = [_by_chance(int(each), n_heads, a, b) for each in shared]
    np.testing.assert_allclose(found, hypergeom.sf(shared - 1, n_heads, a, b), rtol=1e-8)
    assert found[0] == 1 and (np.diff(found) <= 0).all()
