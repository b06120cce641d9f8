import math

import pandas as pd
import pytest
import torch
from by_hand import hooks_of, losses, model_of, others_mean, own_model, tokens_of, with_z, z_of

from induction_lab.behaviour.metrics import icl_score
from induction_lab.data.prompts import Prompts
from induction_lab.interventions import each_head, prepared
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.ablation_methods import METHODS, drawn_shift
from induction_lab.interventions.each_head import ablation_sweep
from induction_lab.interventions.effects import Effects
from induction_lab.interventions.gradients import attribution_patching
from induction_lab.interventions.outputs import random_reference
from induction_lab.interventions.prepared import PreparedPrompts


@pytest.fixture
def small_batches(monkeypatch):
    """Two prompts a batch, and two rows a run."""
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 40)
    monkeypatch.setattr(each_head, "TOKENS_A_RUN", 80)


def copy_losses(model, tokens):
    """One number a prompt, from a full forward; the second copy starts at 10, its first token cannot be known."""
    return losses(model.logits(tokens).float(), tokens)[:, 10:].mean(1)


def check_row(row, clean, changed):
    assert row["clean"] == pytest.approx(float(clean.mean()), abs=1e-4)
    assert row["changed"] == pytest.approx(float(changed.mean()), abs=1e-4)
    assert row["effect"] == pytest.approx(float((changed - clean).mean()), abs=1e-4)
    assert row["standard_error"] == pytest.approx(float((changed - clean).std()) / len(clean) ** 0.5, abs=1e-4)
    assert row["n_prompts"] == len(clean)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "bloom", "bundled", "circuit", "small"])
def test_each_effect_is_that_of_one_full_run_of_the_ablated_model(name, method):
    model = model_of(name)
    if name == "bloom" and method not in ("mean", "zero", "resample"):
        pytest.skip("out of sight")
    tokens = tokens_of(model)
    before, clean_logits = hooks_of(model), model.logits(tokens)
    effects = ablation_sweep(model, tokens, method=method)
    clean = copy_losses(model, tokens)
    assert effects.table["label"].tolist() == [f"L{i}H{j}" for i in range(model.n_layers) for j in range(model.n_heads)]
    for label in effects.table["label"]:
        with ablate(model, label, method=method):
            check_row(effects.of(label), clean, copy_losses(model, tokens))
    assert effects.table["effect"].abs().max() > 1e-4
    assert set(effects.table["intervention"]) == {f"{method} ablation"}
    assert hooks_of(model) == before and torch.equal(model.logits(tokens), clean_logits)


@pytest.mark.parametrize("method", ["mean", "resample"])
@pytest.mark.parametrize("metric", ["copy_loss", "loss", "copy_logit", "icl", "function"])
def test_with_a_reference_and_any_metric_too(method, metric):
    model = model_of("llama")
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    asked = {"icl": icl_score(4, 12), "function": lambda logits, tokens: logits[-1].max()}.get(metric, metric)

    def slow(logits):
        loss, second = losses(logits, tokens), logits[:, 10:-1]
        right = second.gather(2, tokens[:, 11:, None])[..., 0]
        return {
            "copy_loss": loss[:, 10:].mean(1),
            "loss": loss.mean(1),
            "copy_logit": (right - second.mean(-1)).mean(1),
            "icl": loss[:, 11] - loss[:, 3],
            "function": logits[:, -1].max(-1).values,
        }[metric]

    effects = ablation_sweep(model, tokens, method=method, metric=asked, reference=others, heads=["L0H3", "L1H1"])
    for label in ("L0H3", "L1H1"):
        with ablate(model, label, method=method, reference=others):
            changed = slow(model.logits(tokens))
        check_row(effects.of(label), slow(model.logits(tokens)), changed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [None, 5, 3])
def test_in_how_many_batches_it_runs_does_not_matter(method, given, small_batches, monkeypatch):
    model = own_model()
    tokens = tokens_of(model, n_prompts=5)
    reference = None if given is None else tokens_of(model, n_prompts=given, seed=1)
    how = {"method": method, "reference": reference, "seed": 4}
    assert len(PreparedPrompts(model, Prompts(tokens), method, "copy_loss")) == 3
    in_batches = ablation_sweep(model, tokens, **how)
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 4096)
    monkeypatch.setattr(each_head, "TOKENS_A_RUN", 4096)
    assert len(PreparedPrompts(model, Prompts(tokens), method, "copy_loss")) == 1
    at_once = ablation_sweep(model, tokens, **how)
    pd.testing.assert_frame_equal(in_batches.table, at_once.table, rtol=1e-4, atol=1e-5)


def test_means_leave_out_the_prompt_itself_over_all_batches(small_batches):
    model = own_model()
    tokens = tokens_of(model, n_prompts=5)
    z = z_of(model, tokens)
    effects = ablation_sweep(model, tokens)
    for layer, head in ((0, 2), (1, 0)):
        slow = losses(with_z(model, tokens, {(layer, head): others_mean(z[layer][:, :, head])}), tokens)[:, 10:].mean(1)
        check_row(effects.of(f"L{layer}H{head}"), copy_losses(model, tokens), slow)


def test_a_batch_without_any_value_is_left_out_and_does_not_stop_the_sweep(small_batches):
    model = own_model()
    tokens = tokens_of(model, n_prompts=4)
    tokens[:2, 10:] = torch.arange(50, 59)  # nothing to copy
    tokens[:2, 1:10] = torch.arange(30, 39)
    effects = ablation_sweep(model, tokens, method="zero", heads=["L0H0"]).of("L0H0")
    alone = ablation_sweep(model, tokens[2:], method="zero", heads=["L0H0"]).of("L0H0")
    assert effects["n_prompts"] == 2 and effects["effect"] == pytest.approx(alone["effect"], abs=1e-5)


def test_a_prompt_a_batch_can_be_resampled_from_the_others(monkeypatch):
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 1)
    model = own_model()
    tokens = tokens_of(model)
    effects = ablation_sweep(model, tokens, method="resample", heads=["L0H0"])
    with ablate(model, "L0H0", method="resample"):
        changed = copy_losses(model, tokens)
    check_row(effects.of("L0H0"), copy_losses(model, tokens), changed)


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_groups_are_ablated_together_and_rows_stand_in_the_order_given(name):
    model = model_of(name)
    tokens = tokens_of(model)
    listed = ablation_sweep(model, tokens, heads=["L1H1", ["L1H0", (0, 2)], "L0H0 L0H1"], method="zero")
    assert listed.table["label"].tolist() == ["L1H1", "L1H0 L0H2", "L0H0 L0H1"]
    assert listed.table["n_heads"].tolist() == [1, 2, 2]
    named = ablation_sweep(model, tokens, heads={"late": "L1H1", "pair": ["L1H0", "L0H2"]}, method="zero")
    assert named.table["label"].tolist() == ["late", "pair"]
    for label, heads in (("L1H1", "L1H1"), ("L1H0 L0H2", ["L1H0", "L0H2"]), ("L0H0 L0H1", "L0H0 L0H1")):
        with ablate(model, heads, method="zero"):
            changed = copy_losses(model, tokens)
        check_row(listed.of(label), copy_losses(model, tokens), changed)
    assert named.of("pair")["effect"] == pytest.approx(listed.of("L1H0 L0H2")["effect"], abs=1e-5)
    for one in ("L0H1", (0, 1), ["L0H1"]):
        assert ablation_sweep(model, tokens, heads=one, method="zero").table["label"].tolist() == ["L0H1"]


@pytest.mark.parametrize("name", ["llama", "small"])
def test_padded_prompts_count_like_each_prompt_alone(name):
    model = model_of(name)
    tokens = tokens_of(model)
    lengths = torch.tensor([19, 15, 19])
    effects = ablation_sweep(model, Prompts(tokens, lengths=lengths), heads=["L0H1"], method="zero").of("L0H1")
    alone = [
        ablation_sweep(model, row[:length], heads=["L0H1"], method="zero").of("L0H1")["effect"]
        for row, length in zip(tokens, lengths, strict=True)
    ]
    assert effects["effect"] == pytest.approx(sum(alone) / 3, abs=1e-4)
    assert effects["standard_error"] == pytest.approx(float(torch.tensor(alone).std()) / 3**0.5, abs=1e-4)


def test_means_leave_padding_out():
    model = own_model()
    tokens = tokens_of(model)
    padded = Prompts(tokens, lengths=torch.tensor([19, 15, 19]))
    z = z_of(model, tokens)[0][:, :, 1]
    instead = others_mean(z)
    instead[0, 15:], instead[2, 15:] = z[2, 15:], z[0, 15:]  # of the two that are so long
    loss = losses(with_z(model, tokens, {(0, 1): instead}), tokens)
    changed = torch.stack([loss[0, 10:].mean(), loss[1, 10:14].mean(), loss[2, 10:].mean()])
    assert ablation_sweep(model, padded, heads=["L0H1"]).of("L0H1")["changed"] == pytest.approx(
        float(changed.mean()), abs=1e-4
    )
    alone = Prompts(tokens, lengths=torch.tensor([19, 15, 12]))  # of which one is the longest
    given = ablation_sweep(model, alone, reference=random_reference(model, alone), metric="loss")
    pd.testing.assert_frame_equal(ablation_sweep(model, alone, metric="loss").table, given.table)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".parquet"])
def test_a_sweep_that_is_cut_off_goes_on_where_it_was_and_ends_the_same(tmp_path, suffix):
    model, path = own_model(), tmp_path / f"sweep{suffix}"
    tokens = tokens_of(model)
    calls = []

    def spread(logits, tokens, most=[10**6]):  # noqa: B006
        calls.append(1)
        if len(calls) > most[0]:
            raise KeyboardInterrupt
        return float(logits.std())

    limit = spread.__defaults__[0]
    whole = ablation_sweep(model, tokens, metric=spread)
    assert len(calls) == 3 * (1 + 6)  # the clean run once, and six heads
    calls.clear()
    limit[0] = 13  # the upper layer and a bit
    with pytest.raises(KeyboardInterrupt):
        ablation_sweep(model, tokens, metric=spread, path=path)
    assert sorted(Effects.load(path).table["label"]) == ["L1H0", "L1H1", "L1H2"]
    calls.clear()
    limit[0] = 10**6
    rest = ablation_sweep(model, tokens, metric=spread, path=path)
    assert len(calls) == 3 * (1 + 3)  # clean, to compare and to start from, and the three heads that were left
    pd.testing.assert_frame_equal(rest.table, whole.table, rtol=1e-9)
    calls.clear()
    again = ablation_sweep(model, tokens, metric=spread, path=path)
    assert len(calls) == 3  # the clean run alone, to compare
    pd.testing.assert_frame_equal(again.table, whole.table, rtol=1e-9)
    pd.testing.assert_frame_equal(Effects.load(path).table.sort_values("label", ignore_index=True), whole.table)


def test_a_sweep_of_other_heads_is_added_to_the_file_and_returned_alone(tmp_path):
    model, path = own_model(), tmp_path / "sweep.json"
    tokens = tokens_of(model)
    ablation_sweep(model, tokens, heads=["L0H0", "L0H1"], path=path)
    more = ablation_sweep(model, tokens, heads=["L1H1", "L0H0"], path=path)
    assert more.table["label"].tolist() == ["L1H1", "L0H0"]
    assert set(Effects.load(path).table["label"]) == {"L0H0", "L0H1", "L1H1"}


OTHER = {
    "method": (dict(method="mean"), "method"),
    "metric": (dict(metric="loss"), "metric"),
    "seed": (dict(seed=1), "seed"),
    "reference": (dict(reference=True), "reference"),
    "heads under the same name": (dict(heads={"x": "L1H1"}), "heads called x"),
    "prompts": (dict(prompts=1), "prompts"),
    "lengths": (dict(lengths=True), "prompts"),
    "model": (dict(model=4), "weights_sha256"),
}


@pytest.mark.parametrize("what", OTHER)
def test_refuses_to_go_on_with_a_sweep_of_other(what, tmp_path):
    path, (changed, message) = tmp_path / "sweep.json", OTHER[what]
    model = own_model()
    tokens = tokens_of(model)
    how = {"heads": {"x": "L0H0"}, "method": "zero", "path": path}
    ablation_sweep(model, tokens, **how)
    kept = path.read_text()
    model = own_model(seed=changed.pop("model")) if "model" in changed else model
    tokens = tokens_of(model, seed=changed.pop("prompts")) if "prompts" in changed else tokens
    prompts = Prompts(tokens, lengths=torch.tensor([19, 19, 15])) if changed.pop("lengths", None) else tokens
    if changed.get("reference"):
        changed = {"reference": tokens_of(model, seed=2)}
    with pytest.raises(ValueError, match=f"holds another sweep .its {message} differ"):
        ablation_sweep(model, prompts, **{**how, **changed})
    assert path.read_text() == kept


REFUSED = {
    "a head that is not there": (dict(heads=["L0H9"]), "L0H9 is not there"),
    "a head twice in a group": (dict(heads=[["L0H0", "L0H0"]]), "may be given once, got L0H0"),
    "a group twice": (dict(heads=["L0H0", "L0H0"]), "may be given once, got L0H0"),
    "no heads": (dict(heads=[]), "Heads are wanted, got none"),
    "an empty group": (dict(heads={"x": []}), "Heads are wanted, got none"),
    "an unknown method": (dict(method="median"), "must be one of mean.*got 'median'"),
    "an unknown metric": (dict(metric="accuracy"), "must be one of copy_loss.*got 'accuracy'"),
    "a reference of another length": (
        dict(reference=torch.zeros(2, 9).long()),
        "of 9 tokens, those measured on have 19.*distinct_tokens\\(model, length=18\\)",
    ),
    "prompts too short for the metric": (
        dict(metric="icl_score"),
        "tokens up to 500, the longest prompt here has only 19",
    ),
    "a metric that is NaN": (dict(metric=lambda logits, tokens: math.nan), "must return one number.*returned nan"),
    "a metric of several numbers": (dict(metric=lambda logits, tokens: logits[0]), "returned 'a tensor of shape"),
    "a metric that is nothing": (dict(metric=lambda logits, tokens: None), "returned None"),
}


@pytest.mark.parametrize("measure", [ablation_sweep, attribution_patching])
@pytest.mark.parametrize("what", REFUSED)
def test_refuses(what, measure):
    given, message = REFUSED[what]
    model = model_of("bundled")
    tokens = tokens_of(model)
    clean, before = model.logits(tokens), hooks_of(model)
    if what == "an unknown method" and measure is attribution_patching:
        message = "mean, zero or resample ablation does, got 'median'"
    with pytest.raises(ValueError, match=message):
        measure(model, tokens, **given)
    assert hooks_of(model) == before and torch.equal(model.logits(tokens), clean)


def test_refuses_prompts_where_nothing_repeats_and_patterns_out_of_sight():
    model = model_of("bundled")
    tokens = tokens_of(model)
    with pytest.raises(ValueError, match="copy_loss reads nothing on these prompts"):
        ablation_sweep(model, tokens[:, :10])
    with pytest.raises(ValueError, match="out of sight"):
        ablation_sweep(model_of("bloom"), tokens, method="ideal_induction")
    with pytest.raises(ValueError, match="got 'pattern_preserving'"):
        attribution_patching(model, tokens, method="pattern_preserving")


@pytest.mark.parametrize("method", ["zero", "mean", "resample"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bundled", "small"])
def test_the_estimate_is_the_change_times_the_gradient_by_hand(name, method):
    model = model_of(name)
    tokens = tokens_of(model)
    z = z_of(model, tokens)
    instead = {layer: torch.zeros_like(x) for layer, x in z.items()}
    if method == "mean":
        instead = {layer: others_mean(x) for layer, x in z.items()}
    if method == "resample":
        shift = drawn_shift(3, seed=0)
        instead = {layer: x.roll(shift, 0) for layer, x in z.items()}
    estimated = attribution_patching(model, tokens, method=method)
    small = 1e-2

    def loss(layer, head, size):
        moved = z[layer][:, :, head] + size * (instead[layer] - z[layer])[:, :, head]
        return losses(with_z(model, tokens, {(layer, head): moved}), tokens)[:, 10:].mean(1)

    for label in ("L0H1", "L1H0"):
        layer, head = int(label[1]), int(label[3])
        slope = (loss(layer, head, small) - loss(layer, head, -small)) / (2 * small)
        row = estimated.of(label)
        assert row["effect"] == pytest.approx(float(slope.mean()), abs=2e-3, rel=2e-2)
        assert row["standard_error"] == pytest.approx(float(slope.std()) / 3**0.5, abs=2e-3, rel=5e-2)
        assert row["clean"] == pytest.approx(float(copy_losses(model, tokens).mean()), abs=1e-4)
    assert all(parameter.grad is None for parameter in model.network.parameters())


def test_the_estimate_is_exact_where_the_metric_is_linear_in_what_heads_put_out():
    """The last layer of a model without LayerNorm, measured by a logit; not so below it."""
    model = own_model(layer_norm=False)
    tokens = tokens_of(model)
    for method in ("zero", "mean", "resample"):
        how = {"method": method, "metric": "copy_logit"}
        exact, estimated = ablation_sweep(model, tokens, **how), attribution_patching(model, tokens, **how)
        for label in ("L1H0", "L1H1", "L1H2"):
            assert estimated.of(label)["effect"] == pytest.approx(exact.of(label)["effect"], rel=1e-3, abs=1e-3)
        assert abs(estimated.of("L0H0")["effect"] - exact.of("L0H0")["effect"]) > 1e-2
        assert exact.correlation(exact) == pytest.approx(1.0)


def test_the_estimate_of_a_group_is_the_sum_of_its_heads_and_batches_do_not_matter(small_batches, monkeypatch):
    model = own_model()
    tokens = tokens_of(model, n_prompts=5)
    in_batches = attribution_patching(model, tokens, heads={"a": "L0H1", "b": "L1H2", "both": ["L0H1", "L1H2"]})
    effects = dict(in_batches.top(3))
    assert effects["both"] == pytest.approx(effects["a"] + effects["b"], abs=1e-5)
    monkeypatch.setattr(prepared, "TOKENS_A_RUN", 4096)
    monkeypatch.setattr(each_head, "TOKENS_A_RUN", 4096)
    at_once = attribution_patching(model, tokens, heads={"a": "L0H1", "b": "L1H2", "both": ["L0H1", "L1H2"]})
    pd.testing.assert_frame_equal(in_batches.table, at_once.table, rtol=1e-4, atol=1e-5)


def test_a_path_that_no_table_can_be_written_to_is_refused_before_anything_is_run(small, tmp_path):
    with pytest.raises(ValueError, match=r"Tables are kept as .*, got 'sweep.txt'"):
        ablation_sweep(small, tokens_of(small), path=tmp_path / "sweep.txt")
    assert list(tmp_path.iterdir()) == []


def test_two_functions_of_one_name_are_not_taken_for_each_other_nor_is_an_ablated_model_for_itself(tmp_path):
    model, path = own_model(), tmp_path / "sweep.parquet"
    tokens = tokens_of(model)
    ablation_sweep(model, tokens, heads=["L0H1"], metric=lambda logits, tokens: logits.mean(), path=path)
    with pytest.raises(ValueError, match="its metric of the model before anything is ablated differ"):
        ablation_sweep(model, tokens, heads=["L0H1"], metric=lambda logits, tokens: logits.max(), path=path)
    other = tmp_path / "other.parquet"
    ablation_sweep(model, tokens, heads=["L0H1"], path=other)
    with ablate(model, "L1H0", method="zero"), pytest.raises(ValueError, match="before anything is ablated differ"):
        ablation_sweep(model, tokens, heads=["L0H1"], path=other)
