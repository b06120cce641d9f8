"""Heads that are left early: their estimates, who is never left, what is spent, and what is refused."""

import math

import pandas as pd
import pytest
import torch
from by_hand import own_model
from families import random_network

from induction_lab import HookedModel, Prompts, ablation_sweep, head_gallery, repeated_tokens
from induction_lab.behaviour.metrics import Measure, icl_score
from induction_lab.interventions.each_head import parse_groups
from induction_lab.interventions.gradients import attribution_patching
from induction_lab.interventions.path_patching import patch_prepared
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.interventions.racing import race as racing
from induction_lab.interventions.racing.first_order import ablations_predicted, output_gradients


def block_tokens(model):
    """Counts tokens that enter a block's attention, by hooks."""
    seen = [0]
    handles = [
        block.register_forward_pre_hook(lambda _, args: seen.__setitem__(0, seen[0] + args[0].shape[:2].numel()))
        for block in model.anatomy.attention_modules
    ]
    return seen, lambda: [handle.remove() for handle in handles]


@pytest.fixture(scope="module")
def both(bundled):
    prompts = repeated_tokens(bundled, n_prompts=8)
    reference = repeated_tokens(bundled, n_prompts=32, seed=1)
    found = {screen: ablation_sweep(bundled, prompts, reference=reference, screen=screen) for screen in (None, 0.1)}
    return found[None].table, found[0.1].table


def test_who_stays_to_the_end_has_the_numbers_of_a_whole_sweep(both):
    whole, raced = both
    stayed = raced["n_prompts"] == 8
    assert 0 < stayed.sum() < len(raced) and set(raced["n_prompts"]) <= {1, 2, 4, 8}
    pd.testing.assert_frame_equal(raced[stayed], whole[stayed], rtol=1e-4, atol=1e-5)


def test_who_is_left_has_an_effect_below_the_bound_and_an_estimate_close_to_it(both):
    whole, raced = both
    left = raced["n_prompts"] < 8
    assert (whole["effect"][left].abs() < 0.1).all()
    assert ((whole["effect"] - raced["effect"])[left].abs() < 3 * raced["standard_error"][left]).all()
    assert (raced["changed"] - raced["clean"]).tolist() == pytest.approx(raced["effect"].tolist(), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("reference", [True, False])
def test_a_head_with_a_large_effect_is_never_left(seed, reference, gallery):
    for model in (gallery, own_model(seed=seed, n_layers=3)):
        prompts = repeated_tokens(model, n_prompts=5, period=12, seed=seed)
        how = {"reference": repeated_tokens(model, n_prompts=8, period=12, seed=seed + 50) if reference else None}
        whole = ablation_sweep(model, prompts, **how).table
        bound = float(whole["effect"].abs().median()) + 1e-6
        raced = ablation_sweep(model, prompts, screen=bound, **how).table
        assert (raced["n_prompts"][whole["effect"].abs() >= bound] == 5).all()


def test_without_gradients_no_head_with_a_large_effect_is_left_either(both, bundled, monkeypatch):
    from induction_lab.interventions import each_head

    monkeypatch.setattr(each_head, "ablations_predicted", lambda *_: None)
    prompts, reference = repeated_tokens(bundled, n_prompts=8), repeated_tokens(bundled, n_prompts=32, seed=1)
    raced = ablation_sweep(bundled, prompts, reference=reference, screen=0.1).table
    large = both[0]["effect"].abs() >= 0.1
    assert (raced["n_prompts"][large] == 8).all() and (raced["n_prompts"] < 8).any()


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom"])
def test_what_gradients_predict_is_what_attribution_patching_estimates(family):
    model = HookedModel(random_network(family), name=family)
    prompts = repeated_tokens(model, n_prompts=3, period=9)
    reference = repeated_tokens(model, n_prompts=4, period=9, seed=1)
    prepared = PreparedPrompts(model, prompts, "mean", "copy_loss", reference=reference)
    groups = parse_groups(model, None)
    predict = ablations_predicted(prepared, list(groups.values()))
    assert predict is not None
    batch = next(iter(prepared))
    by_part = predict(batch, 4)
    found = attribution_patching(model, prompts, reference=reference).table["effect"]
    torch.testing.assert_close(
        by_part.sum(2).mean(1), torch.tensor(found.tolist(), dtype=torch.float32), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(by_part.sum(2, keepdim=True), predict(batch, 1), atol=1e-6, rtol=1e-4)
    assert output_gradients(model, batch, 4) is output_gradients(model, batch, 4)  # worked out once


def test_the_parts_of_a_metric_add_up_to_it(bundled):
    prompts = repeated_tokens(bundled, n_prompts=3)
    rows, hidden = torch.arange(3), bundled.hidden(prompts.tokens)
    for metric in ("copy_loss", "loss", "copy_logit"):
        measure = Measure(bundled, metric, prompts)
        parts = measure.parts(hidden, rows, 7)
        torch.testing.assert_close(parts.sum(1).detach(), measure(hidden, rows), atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="cannot be read token by token"):
        Measure(bundled, lambda logits, tokens: 0.0, prompts).parts(hidden, rows, 7)


def test_idle_heads_cost_one_prompt_each_and_work_is_saved():
    model = HookedModel(head_gallery(d_vocab=128), name="gallery")
    prompts, reference = (repeated_tokens(model, n_prompts=n, period=20, seed=n) for n in (16, 32))
    spent = {}
    for screen in (None, 0.5):
        seen, done = block_tokens(model)
        found = ablation_sweep(model, prompts, reference=reference, screen=screen).table
        spent[screen] = seen[0] / (model.n_layers * prompts.tokens.numel())
        done()
    idle = found["effect"].abs() < 1e-3
    assert idle.sum() >= 5 and (found["n_prompts"][idle] == 1).all()
    assert spent[0.5] < spent[None] - 1  # in forward passes over the prompts


def test_paths_are_left_likewise(bundled):
    prompts, reference = (repeated_tokens(bundled, n_prompts=n, seed=n) for n in (8, 32))
    how = {"reference": reference, "whole_streams": True}
    prepared = PreparedPrompts(bundled, prompts, "mean", "copy_loss", **how)
    whole = patch_prepared(prepared, ["L1H2", "L1H3"], "k").table
    raced = patch_prepared(prepared, ["L1H2", "L1H3"], "k", screen=0.05).table
    stayed = raced["n_prompts"] == 8
    pd.testing.assert_frame_equal(raced[stayed], whole[stayed], rtol=1e-4, atol=1e-5)
    assert 0 < stayed.sum() < len(raced) and (whole["effect"][~stayed].abs() < 0.05).all()


def test_intervals_miss_as_rarely_as_is_said():
    """Changes that gradients explain but for a tenth: of 4,000 intervals at one in a thousand hardly any misses."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    missing = 0.1 * torch.randn(4000, 8, generator=generator, dtype=torch.float64)
    parts = missing[:, :1] / 7 + 0.1 / 7**0.5 * torch.randn(4000, 7, generator=generator, dtype=torch.float64)
    for n in (1, 2, 4):
        effect, _, bound = racing._estimated((truth + missing)[:, :n], truth, parts, 0.0005)
        misses = ((truth + missing).mean(1) - effect).abs() > bound
        assert misses.float().mean() < 0.001


def test_a_sweep_that_was_kept_is_gone_on_with_and_heads_that_were_left_are_asked_anew(bundled, tmp_path):
    prompts, reference = repeated_tokens(bundled, n_prompts=8), repeated_tokens(bundled, n_prompts=32, seed=1)
    how = {"reference": reference, "path": tmp_path / "sweep.csv"}
    raced = ablation_sweep(bundled, prompts, screen=0.1, **how).table
    written = how["path"].stat().st_mtime_ns
    again = ablation_sweep(bundled, prompts, screen=0.1, **how).table
    pd.testing.assert_frame_equal(raced, again, check_dtype=False)
    assert how["path"].stat().st_mtime_ns == written
    assert (ablation_sweep(bundled, prompts, **how).table["n_prompts"] == 8).all()
    assert (ablation_sweep(bundled, prompts, screen=0.1, **how).table["n_prompts"] == 8).all()  # nothing better


@pytest.mark.parametrize("screen", [0.0, -1.0, math.nan, math.inf])
def test_a_bound_that_is_none_is_refused(bundled, screen):
    with pytest.raises(ValueError, match="how small an effect may be left out"):
        ablation_sweep(bundled, repeated_tokens(bundled, n_prompts=3), screen=screen)


def test_metrics_that_cannot_be_read_token_by_token_are_refused(bundled):
    prompts = repeated_tokens(bundled, n_prompts=3)
    with pytest.raises(ValueError, match="is a function of all of them"):
        ablation_sweep(bundled, prompts, metric=lambda logits, tokens: 0.0, screen=0.1)
    tokens = prompts.tokens.clone()
    tokens[1, 1:] = torch.arange(1, tokens.shape[1])  # nothing recurs
    with pytest.raises(ValueError, match="of some prompt copy_loss reads fewer than two"):
        ablation_sweep(bundled, Prompts(tokens), screen=0.1)
    assert len(ablation_sweep(bundled, prompts, metric=icl_score(5, 60), screen=0.1).table) == 8


def test_one_prompt_is_no_race(bundled):
    prompts, reference = repeated_tokens(bundled, n_prompts=1), repeated_tokens(bundled, n_prompts=4, seed=1)
    whole = ablation_sweep(bundled, prompts, reference=reference).table
    raced = ablation_sweep(bundled, prompts, reference=reference, screen=10.0).table
    assert raced["effect"].tolist() == pytest.approx(whole["effect"].tolist(), abs=1e-5)
