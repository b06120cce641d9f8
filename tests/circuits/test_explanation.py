import json

import pandas as pd
import pytest
from families import random_network
from matplotlib import pyplot as plt

from induction_lab import (
    Explanation,
    Head,
    HookedModel,
    Prompts,
    ablate,
    ablation_sweep,
    explain,
    plot_effects,
    plot_explanation,
    plot_term_importance,
    repeated_tokens,
    term_importance,
)
from induction_lab.behaviour.losses import loss_per_token
from induction_lab.circuits import explaining
from induction_lab.interventions.each_head import parse_groups, sweep_prepared
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.interventions.racing.race import staged
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


@pytest.fixture(scope="module")
def explained(gallery) -> Explanation:
    return explain(gallery, repeated_tokens(gallery, n_prompts=3, period=20))


def test_the_circuit_by_hand_is_recovered_with_nothing_else_in_it(circuit):
    found = explain(circuit, repeated_tokens(circuit, n_prompts=3, period=20))
    assert found.of("previous-token") == [Head(0, 0)] and found.of("induction") == [Head(1, 0)]
    assert len(found.circuit) == 2 and len(found.of("bystander")) == 2
    own = found.tests.set_index("heads").loc["circuit"]
    assert own["faithfulness"] == pytest.approx(1, abs=1e-3) and own["necessity"] == pytest.approx(1, abs=1e-3)
    assert repr(found) == "Explanation('circuit': 1 previous-token, 1 induction)"


def test_in_the_gallery_every_part_of_the_circuit_has_its_verdict_and_no_idle_head_has_one(explained):
    verdicts = dict(zip(explained.heads["label"], explained.heads["verdict"], strict=True))
    assert verdicts == {
        "L0H0": "previous-token", "L0H1": "bystander", "L0H2": "bystander", "L0H3": "bystander",
        "L1H0": "induction", "L1H1": "bystander", "L1H2": "bystander", "L1H3": "suppressor",
    }  # fmt: skip
    assert list(explained.edges[["sender", "receiver"]].iloc[0]) == ["L0H0", "L1H0"]
    sets = explained.tests.set_index("heads")
    assert list(sets.index[:2]) == ["circuit", "random 1"] and (sets["n_heads"] == 2).all()
    assert (sets["faithfulness"][1:].abs() < 0.1).all() and (sets["necessity"][1:].abs() < 0.1).all()  # idle heads


def test_faithfulness_and_necessity_are_what_ablating_by_hand_says(explained, gallery):
    prompts = repeated_tokens(gallery, n_prompts=3, period=20, seed=2)  # others than the heads were chosen on
    reference = repeated_tokens(gallery, n_prompts=32, period=20, seed=1)
    every = {Head(layer, head) for layer in range(2) for head in range(4)}

    def loss(heads):
        with ablate(gallery, sorted(heads), reference=reference):
            return float(loss_per_token(gallery.logits(prompts.tokens), prompts.tokens)[:, 21:].mean())

    clean = float(loss_per_token(gallery.logits(prompts.tokens), prompts.tokens)[:, 21:].mean())
    own, none = {Head(0, 0), Head(1, 0)}, loss(every)
    row = explained.tests.set_index("heads").loc["circuit"]
    assert row["faithfulness"] == pytest.approx((none - loss(every - own)) / (none - clean), abs=1e-4)
    assert row["necessity"] == pytest.approx((loss(own) - clean) / (none - clean), abs=1e-4)
    assert explained.behaviour["no_heads"] == pytest.approx(none, abs=1e-4)


def test_what_the_reference_says_is_worked_out_once_for_all_steps(gallery):
    prompts = repeated_tokens(gallery, n_prompts=3, period=20)
    reference = repeated_tokens(gallery, n_prompts=7, period=20, seed=5)
    read = []
    handle = gallery.anatomy.body.register_forward_pre_hook(lambda _, args: read.append(args[0][0].tolist()))
    explain(gallery, prompts, reference=reference, n_random=2)
    handle.remove()
    assert read.count(reference.tokens[0].tolist()) == 1


@pytest.mark.parametrize("given", ["reference", "the other prompts"])
def test_prompts_prepared_like_others_are_as_those_prepared_alone(gallery, given):
    first, other, reference = (repeated_tokens(gallery, n_prompts=n, period=9, seed=n) for n in (3, 4, 6))
    for method in ("mean", "resample"):
        how = {"reference": reference if given == "reference" else None}
        prepared = PreparedPrompts(gallery, first, method, "copy_loss", **how)
        sweep_prepared(prepared, parse_groups(gallery, None))
        found = sweep_prepared(prepared.on(other), parse_groups(gallery, None)).table
        pd.testing.assert_frame_equal(found, ablation_sweep(gallery, other, method=method, **how).table)


@pytest.fixture
def raced(monkeypatch):
    """Few heads are raced as well."""
    monkeypatch.setattr(explaining, "RACED", 0)


@pytest.mark.parametrize(("least", "exact", "races"), [(8, False, 1), (9, False, 0), (8, True, 0)])
def test_few_heads_are_all_measured_on_all_prompts_and_many_are_raced(bundled, monkeypatch, least, exact, races):
    begun = []
    monkeypatch.setattr(explaining, "staged", lambda prepared, within: begun.append(within) or staged(prepared, within))
    monkeypatch.setattr(explaining, "RACED", least)
    explain(bundled, repeated_tokens(bundled, n_prompts=4, period=20), n_random=0, exact=exact)
    assert len(begun) == races


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("exact", [True, False])
def test_a_model_that_does_not_copy_has_bystanders_only_and_it_is_said_why(seed, exact, raced):
    model = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=60, n_ctx=60), seed=seed).eval())
    found = explain(model, repeated_tokens(model, n_prompts=6, period=20, seed=seed), exact=exact, n_random=1)
    assert set(found.heads["verdict"]) == {"bystander"} and not found.circuit
    assert "may be chance" in found.provenance["left_out"]["verdicts"]


@pytest.mark.parametrize("seed", range(3))
def test_the_answer_is_that_of_a_whole_sweep(bundled, seed, raced):
    prompts = repeated_tokens(bundled, n_prompts=8, seed=seed)
    whole, found = (explain(bundled, prompts, exact=exact, n_random=1) for exact in (True, False))
    assert found.heads["verdict"].tolist() == whole.heads["verdict"].tolist()
    stayed = found.heads["effect"].abs() > 0.1
    assert found.heads["effect"][stayed].tolist() == pytest.approx(whole.heads["effect"][stayed].tolist(), abs=1e-4)
    assert found.tests["faithfulness"].tolist() == pytest.approx(whole.tests["faithfulness"].tolist(), abs=1e-4)


def test_a_random_model_has_no_circuit(small):
    found = explain(small, repeated_tokens(small, n_prompts=4, period=20))
    assert not found.of("induction") and not found.of("previous-token")
    assert "bystander" in set(found.heads["verdict"])


@pytest.mark.parametrize("family", ["gemma2", "gemma3", "olmo2", "granite"])
def test_paths_are_had_where_what_heads_write_is_normalised_or_rescaled(family, monkeypatch):
    def verdicts(heads, fall, n_prompts):  # a random model has no induction heads, so one is said to be
        known = {"L0H1": "previous-token", "L1H2": "induction"}
        return heads["label"].map(lambda label: known.get(label, "bystander"))

    monkeypatch.setattr(explaining, "verdicts", verdicts)
    model = HookedModel(random_network(family), name=family)
    prompts = repeated_tokens(model, n_prompts=2, period=6)
    found = explain(model, prompts, n_random=1)
    assert "paths" not in found.provenance["left_out"]
    assert list(zip(found.edges["sender"], found.edges["receiver"], strict=True)) == [("L0H1", "L1H2")]
    assert found.heads["to_keys"].notna().sum() == 4 and abs(found.edges["effect"][0]) > 1e-6


def test_where_paths_cannot_be_patched_the_reason_is_given():
    model = HookedModel(random_network("bloom"), name="bloom")
    found = explain(model, repeated_tokens(model, n_prompts=2, period=6), n_random=1)
    assert found.heads["to_keys"].isna().all()


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet"])
def test_an_explanation_is_saved_and_loaded(explained, tmp_path, suffix):
    path = explained.save(tmp_path / f"found{suffix}")
    again = Explanation.load(path)
    assert repr(again) == repr(explained) and again.circuit == explained.circuit
    assert again.tests["faithfulness"].tolist() == pytest.approx(explained.tests["faithfulness"].tolist())
    assert again.edges["sender"].tolist() == explained.edges["sender"].tolist()
    if suffix == ".json":
        assert json.loads(path.read_text())["behaviour"]["second_copy"] == explained.behaviour["second_copy"]


def test_a_table_of_something_else_is_no_explanation(explained, tmp_path):
    explained.heads.to_csv(tmp_path / "plain.csv", index=False)
    with pytest.raises(ValueError, match="holds no readable explanation: it lacks"):
        Explanation.load(tmp_path / "plain.csv")


def test_prompts_that_do_not_repeat_or_stand_alone_are_refused(circuit):
    repeated = repeated_tokens(circuit, n_prompts=2)
    several = repeated_tokens(circuit, n_prompts=2, period=20, n_repeats=3)
    for prompts in (repeated[:1], Prompts(repeated.tokens), several):
        with pytest.raises(ValueError, match="Two or more prompts of a block written twice"):
            explain(circuit, prompts)


def test_a_sweep_that_was_kept_is_gone_on_with(circuit, tmp_path):
    prompts = repeated_tokens(circuit, n_prompts=3, period=20)
    kept = tmp_path / "sweep.parquet"
    reference = repeated_tokens(circuit, n_prompts=4, period=20, seed=5)
    ablation_sweep(circuit, prompts, reference=reference, path=kept)
    written = kept.stat().st_mtime_ns
    assert explain(circuit, prompts, reference=reference, path=kept).circuit == [Head(1, 0), Head(0, 0)]
    assert kept.stat().st_mtime_ns == written


def test_pictures_show_the_circuit_the_effects_and_the_orders(explained, gallery):
    left, right = plot_explanation(explained).axes
    labels = {text.get_text() for text in left.texts}
    assert {"L0H0", "L1H0", "L1H3", "logits"} <= labels and "L0H1" not in labels
    assert [text.get_text() for text in right.get_xticklabels()] == [
        "circuit alone:\nfaithfulness", "circuit removed:\nnecessity",
    ]  # fmt: skip
    prompts = repeated_tokens(gallery, n_prompts=2, period=20)
    ax = plot_effects(ablation_sweep(gallery, prompts), 2, 4, mark=2)
    assert len(ax.patches) == 2 and "mean ablation" in ax.get_title()
    lines = plot_term_importance({"a": term_importance(gallery, prompts)}).lines
    assert len(lines) >= 1
    plt.close("all")
