import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of

from induction_lab import Head, HeadScores, HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


def test_find_induction_heads_writes_scores_and_pictures(tmp_path, capsys):
    script("showcase.find_induction_heads").main(["--prompts", "4", "--out", str(tmp_path)])
    stem = "find_induction_heads_induction-2l"
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.csv", f"{stem}.csv.json", f"{stem}_scores.png", f"{stem}_by_layer.png", f"{stem}_loss.png",
        f"{stem}_patterns.png",
    }  # fmt: skip
    written = HeadScores.load(tmp_path / f"{stem}.csv")
    model = load_model()
    direct = score_heads(model, repeated_tokens(model, n_prompts=4), scores=["prefix_matching"])
    torch.testing.assert_close(written["prefix_matching"], direct["prefix_matching"], atol=1e-5, rtol=0)
    assert "nats on the first" in capsys.readouterr().out


def test_the_bundled_model_is_trained_on_periods_it_is_not_examined_on():
    training = script("subjects.train_bundled_model")
    generator = torch.Generator().manual_seed(0)
    for row in training.DATA.draw(generator, n_prompts=100, n_ctx=training.CONFIG.n_ctx):
        assert row[0] == 0 and (row[1:] > 0).all()
        assert any(torch.equal(row[1 + p :], row[1:-p]) for p in training.DATA.lengths)
    assert not set(training.DATA.lengths) & set(training.UNSEEN)


def test_an_untrained_model_fails_the_examination_and_is_not_written(tmp_path):
    training = script("subjects.train_bundled_model")
    checks = training.examine(HookedModel(AttentionOnlyTransformer(training.CONFIG).eval()))
    assert not any(ok for _, ok in checks.values())
    with pytest.raises(SystemExit, match="was not written"):
        training.main(["--steps", "1", "--quiet", "--out", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_passes_the_examination(bundled):
    assert all(ok for _, ok in script("subjects.train_bundled_model").examine(bundled).values())


def test_composition_writes_every_pair_a_verdict_and_pictures(tmp_path):
    script("claims.framework.composition").main(["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {
        "composition.csv", "composition.json", "composition_small.png", "composition_pairs.png",
        "composition_circuit_induction-2l.png",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "composition.csv")
    assert list(table["previous"]) == ["L0H3"] * 4 and set(table["induction"]) == {"L1H0", "L1H1", "L1H2", "L1H3"}
    assert verdicts_of(tmp_path / "composition.json")[0]["outcome"] == "holds with a caveat"  # one model


def test_a_verdict_on_composition_fails_where_values_compose(tmp_path):
    module = script("claims.framework.composition")
    model = load_model()
    scores = module.looks(model)
    table = module.read_pairs(model, scores)
    assert module.verdict(table, {}).outcome == "holds with a caveat"
    swapped = module.verdict(table.assign(V=table["K"]), {"another": scores})
    assert swapped.outcome == "does not hold here" and "not read" in swapped.numbers["another"]


def test_ov_eigenvalues_writes_every_head_verdicts_and_pictures(tmp_path):
    script("claims.framework.ov_eigenvalues").main(["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "ov_eigenvalues.csv")
    assert len(table[table["model"] == "induction-2l"]) == 8
    found = verdicts_of(tmp_path / "ov_eigenvalues.json")
    assert len(found) == 3 and found[1]["outcome"] == "holds with a caveat"
    assert "random weights" not in found[0]["numbers"]
    assert len(list(tmp_path.glob("*.png"))) == 3


def test_path_to_induction_writes_every_sender_a_verdict_and_pictures(tmp_path):
    script("claims.causes.path_to_induction").main(["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "path_to_induction.csv")
    assert set(table["label"]) == {"embed", "L0H0", "L0H1", "L0H2", "L0H3"} and len(table) == 3 * 5
    (verdict,) = verdicts_of(tmp_path / "path_to_induction.json")
    assert "L0H3 → " in verdict["numbers"]["induction-2l"] and len(list(tmp_path.glob("*.png"))) == 2


def test_a_verdict_on_paths_passes_on_the_circuit_by_hand_and_fails_with_keys_and_queries_exchanged(circuit):
    module = script("claims.causes.path_to_induction")
    one = script("subjects.induction_models").subject(circuit, n_prompts=3)
    paths = {part: module.patch_paths(circuit, one.prompts, one.induction, part) for part in "kqv"}
    shares = {"circuit": module.input_shares(circuit, one.prompts, one.induction[0], "k")}
    assert module.verdict({"circuit": one}, {"circuit": paths}, shares, {}).outcome == "holds with a caveat"
    exchanged = {"circuit": {**paths, "k": paths["q"], "q": paths["k"]}}
    assert module.verdict({"circuit": one}, exchanged, shares, {}).outcome == "does not hold here"


def test_idealised_patterns_give_the_bundled_model_back_what_ablation_took(tmp_path):
    script("claims.causes.idealised_patterns").main(
        ["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path)]
    )
    table = pd.read_csv(tmp_path / "idealised_patterns.csv").set_index(["label", "method"])
    assert table.loc[("previous", "ideal_previous_token"), "given_back"] > 0.9
    assert table.loc[("previous", "ideal_induction"), "given_back"] < 0.5  # the wrong pattern
    outcomes = [verdict["outcome"] for verdict in verdicts_of(tmp_path / "idealised_patterns.json")]
    assert outcomes == ["holds with a caveat"] * 2  # one model


def test_term_importance_writes_orders_a_verdict_and_a_picture(tmp_path):
    script("claims.framework.term_importance").main(
        ["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path)]
    )
    table = pd.read_csv(tmp_path / "term_importance.csv")
    assert list(table["order"]) == [0, 1, 2] * 2 and set(table["norms"]) == {"held", "run"}
    (verdict,) = verdicts_of(tmp_path / "term_importance.json")
    assert verdict["outcome"] == "does not hold here"  # 12 of its 17 logits pass a virtual head
    assert (tmp_path / "term_importance.png").exists()


def test_ablate_heads_writes_heads_groups_verdicts_and_pictures(tmp_path):
    arguments = ["--models", "induction-2l", "--seeds", "0", "--prompts", "4", "--no-text", "--no-snapshots"]
    script("claims.causes.ablate_heads").main([*arguments, "--out", str(tmp_path)])
    heads = pd.read_csv(tmp_path / "ablate_heads.csv")
    assert heads["intervention"].value_counts().to_dict() == {"mean ablation": 8, "mean ablation, estimated": 8}
    groups = pd.read_csv(tmp_path / "ablate_heads_groups.csv").set_index("label")
    assert groups.loc["induction top 4", "effect"] > 5 > groups.loc["induction top 1", "effect"]
    destroyed, spared, bottleneck, keys, way = verdicts_of(tmp_path / "ablate_heads.json")
    assert destroyed["outcome"] == "holds with a caveat" and spared["outcome"] == "not decided"  # one set
    assert keys["outcome"] == "holds with a caveat" and "L0H3" in bottleneck["numbers"]["induction-2l"]
    assert way["outcome"] == "not tested" and len(list(tmp_path.glob("*.png"))) == 3


def test_snapshots_are_taken_along_the_way_and_kept(tmp_path, monkeypatch):
    module = script("subjects.small_models")
    monkeypatch.setattr(module, "RUNS", tmp_path)
    monkeypatch.setattr(module, "SNAPSHOT_EVERY", 2)
    taken = module.snapshots("repeats", 0, steps=4)
    assert set(taken) == {0, 2, 4}
    first, second, last = (model.network.W_Q for model in taken.values())
    assert not torch.equal(first, second) and not torch.equal(second, last)
    assert torch.equal(module.snapshots("repeats", 0, steps=4)[4].network.W_Q, last)


def test_skip_trigrams_reads_models_of_no_one_and_two_layers(tmp_path, monkeypatch):
    module = script("claims.framework.skip_trigrams")
    monkeypatch.setattr(script("subjects.small_models"), "RUNS", tmp_path / "runs")
    module.main(["--steps", "20", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "skip_trigrams.csv")
    assert set(table["head"]) == {f"L0H{head}" for head in range(8)} and table["text"].str.contains(" → ").all()
    bigrams, _, paths = verdicts_of(tmp_path / "skip_trigrams.json")
    assert bigrams["outcome"] == "does not hold here"  # after 20 steps
    assert paths["outcome"] == "true by construction, checked" and len(list(tmp_path.glob("*.png"))) == 3


def test_a_small_model_is_trained_once_and_kept(tmp_path, monkeypatch):
    module = script("subjects.small_models")
    monkeypatch.setattr(module, "RUNS", tmp_path)
    first = module.scattered_model(0, steps=2).network.W_Q
    folder = next(tmp_path.iterdir())
    written = (folder / "resume.safetensors").stat().st_mtime_ns
    assert torch.equal(module.scattered_model(0, steps=2).network.W_Q, first)
    assert (folder / "resume.safetensors").stat().st_mtime_ns == written
    assert not torch.equal(module.scattered_model(1, steps=2).network.W_Q, first)


def test_bystanders_stand_outside_the_circuit_that_path_patching_finds_whatever_the_scores(circuit):
    module = script("subjects.induction_models")
    one = module.subject(circuit, n_prompts=3)
    assert one.tellers == [Head(0, 0)] and one.circuit == [Head(0, 0), Head(1, 0)]
    assert one.bystanders == [Head(0, 1), Head(1, 1)]
    scores = {**one.scores.values, "previous_token": torch.full((2, 2), 0.375)}  # below any line
    low = module.Subject(circuit, one.prompts, replace(one.scores, values=scores))
    assert low.bystanders == one.bystanders


def test_of_two_previous_token_heads_the_one_is_taken_that_tells_the_induction_head(circuit):
    module = script("subjects.induction_models")
    one = module.subject(circuit, n_prompts=3)
    assert one.previous == Head(0, 0)
    scores = {**one.scores.values, "previous_token": torch.tensor([[0.5, 0.9], [0.0, 0.0]])}  # L0H1 is read by nobody
    both = module.Subject(circuit, one.prompts, replace(one.scores, values=scores))
    assert both.previous == Head(0, 0)
    scores = {**scores, "previous_token": torch.tensor([[0.1, 0.3], [0.9, 0.9]])}  # none: then the best by score
    assert module.Subject(circuit, one.prompts, replace(one.scores, values=scores)).previous == Head(0, 1)


def test_paths_of_many_heads_are_cut_once_and_kept_by_what_they_lead_to(circuit, tmp_path, monkeypatch):
    module = script("subjects.induction_models")
    direct = module.subject(circuit, n_prompts=3).paths
    monkeypatch.setattr(module, "KEPT", tmp_path / "paths")
    monkeypatch.setattr(module, "MANY", 1)
    first = module.subject(circuit, n_prompts=3).paths
    pd.testing.assert_frame_equal(first, direct, check_dtype=False)
    monkeypatch.setattr(module, "patch_paths", None)  # a second one reads what is there
    one = module.subject(circuit, n_prompts=3)
    pd.testing.assert_frame_equal(one.paths, first)
    scores = {**one.scores.values, "prefix_matching": torch.tensor([[0.0, 0.0], [0.9, 0.9]])}
    with pytest.raises(TypeError):  # other heads are led to: cut anew
        _ = module.Subject(circuit, one.prompts, replace(one.scores, values=scores)).paths
    assert len(list((tmp_path / "paths").iterdir())) == 1


def test_a_model_of_one_layer_has_no_one_to_tell_its_induction_heads(circuit):
    module = script("subjects.induction_models")
    one = module.subject(circuit, n_prompts=3)
    scores = {**one.scores.values, "prefix_matching": torch.tensor([[0.9, 0.0], [0.0, 0.0]])}
    first = module.Subject(circuit, one.prompts, replace(one.scores, values=scores))
    assert first.tellers == [] and first.circuit == [Head(0, 0)]


def test_a_lift_is_near_nothing_by_chance_and_left_out_where_too_little_is_expected():
    module = script("claims.framework.skip_trigrams")
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (40_000,), generator=draw)
    table = pd.DataFrame({"source": [1, 2, 3], "destination": [4, 5, 6], "out": [7, 8, 30]})
    lifts = module.lifts(tokens, table)
    assert all(abs(lift) < 0.15 for lift in lifts[:2]) and lifts[2] != lifts[2]  # 30 never comes
    at = [i for i in range(module.NEAR, len(tokens) - 1) if tokens[i] == 4]
    near = [i for i in at if 1 in tokens[i - module.NEAR : i]]
    seen, expected = sum(tokens[i + 1] == 7 for i in near), len(near) * sum(tokens[i + 1] == 7 for i in at) / len(at)
    assert lifts[0] == pytest.approx(math.log((seen + 0.5) / (expected + 0.5)))
    planted = tokens.clone()
    planted[torch.tensor(near)[::2] + 1] = 9
    more, less = module.lifts(planted, table.assign(source=[1, 2, 3], out=[9, 8, 7]))[:2]
    assert more > 0 and abs(less) < 0.2


def test_the_table_of_subjects_names_each_model_and_its_circuit(tmp_path):
    page = tmp_path / "page.md"
    module = script("subjects.table_of_subjects")
    module.main(["--models", "induction-2l", "--seeds", "0", "--out", str(tmp_path), "--page", str(page)])
    (row,) = pd.read_csv(tmp_path / "subjects.csv").to_dict("records")
    assert set(row["induction"].split()) == {f"L1H{head}" for head in range(4)} and "L0H3" in row["tellers"].split()
    assert row["lag"] == 1 and row["displaced_induction"] == pytest.approx(row["prefix_matching"], abs=1e-3)
    assert "- **induction-2l**: the model that comes" in page.read_text() and "| induction-2l | L1H" in page.read_text()
