"""Every analysis on a GPU gives what it gives on the CPU: no tensor is left on the other device, no number differs."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest
import torch
from families import random_network

import induction_lab as il
from induction_lab import HookedModel, load_model, repeated_tokens
from induction_lab.data.training_streams import TiledBlocks
from induction_lab.training.recipes import Recipe
from induction_lab.training.trainer import TrainingPlan

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch.cuda sees")
CLOSE = {"rtol": 2e-3, "atol": 2e-4, "equal_nan": True}


def made(kind, device):
    if kind == "bundled":
        return load_model(device=device)
    return HookedModel(random_network(kind).to(device), name=kind)


def prompts_of(model, n_prompts=4):
    return repeated_tokens(model, n_prompts=n_prompts, period=12)


def ablated(model):
    with il.ablate(model, "L1H1", reference=prompts_of(model)):
        return model.logits(prompts_of(model).tokens)


def tempered(model):
    with il.temper(model, "L1H1", 2.0):
        return model.logits(prompts_of(model).tokens)


def weighed(model):
    return il.score_heads(model, prompts_of(model), scores="prefix_matching", weigh="values").values


EVERYWHERE = {
    "score_heads": lambda m: il.score_heads(m, prompts_of(m), chance_test=True).values,
    "weigh": weighed,
    "attention_spread": lambda m: il.attention_spread(m, prompts_of(m)),
    "lag_profile": lambda m: il.lag_profile(m, prompts_of(m)),
    "capture": lambda m: dict(il.capture(m, prompts_of(m)).items()),
    "attribute_logits": lambda m: il.attribute_logits(m, prompts_of(m)),
    "logit_lens": lambda m: il.logit_lens(m, prompts_of(m)),
    "ablate": ablated,
    "temper": tempered,
    "ablation_sweep": lambda m: il.ablation_sweep(m, prompts_of(m)).table,
    "attribution_patching": lambda m: il.attribution_patching(m, prompts_of(m)).table,
    "patch_paths": lambda m: il.patch_paths(m, prompts_of(m), "L1H1").table,
    "input_shares": lambda m: il.input_shares(m, prompts_of(m), "L1H1"),
    "score_shares": lambda m: il.score_shares(m, prompts_of(m, 1), "L1H1"),
    "self_repair": lambda m: il.self_repair(m, prompts_of(m)),
    "virtual_pattern": lambda m: il.virtual_pattern(m, prompts_of(m), "L0H0", "L1H1"),
    "term_importance": lambda m: il.term_importance(m, prompts_of(m)),
    "compare_predictions": lambda m: il.compare_predictions(m, prompts_of(m, 1), "L1H1").select_dtypes("number"),
    "induction_activity": lambda m: il.induction_activity(m, prompts_of(m, 1), ["L1H1"]),
    "find_circuit": lambda m: il.find_circuit(m, prompts_of(m)),
    "composition_scores": lambda m: il.composition_scores(m, "K"),
    "ov_copying": il.ov_copying,
    "ov_eigenvalues": lambda m: il.ov_eigenvalues(m).abs().sort().values,
    "ov_self_copying": il.ov_self_copying,
    "qk_matching": lambda m: il.qk_matching(m, torch.ones(m.n_layers, m.n_heads)),
    "qk_diagonal": il.qk_diagonal,
    "bigram_logits": il.bigram_logits,
    "positional_preference": lambda m: il.positional_preference(m, [0, 1, 2]),
    "skip_trigrams": lambda m: il.skip_trigrams(m, "L0H1").select_dtypes("number").head(5),
    "weight_probes": lambda m: il.weight_probes(m),
    "match_2": lambda m: il.score_heads(m, scores=["match_2", "displaced_induction"]).values,
    "copy_suppression": lambda m: il.score_heads(m, scores=["copy_suppression", "token_matching"]).values,
    "classify_heads": lambda m: il.classify_heads(m, causal=False).table.select_dtypes("number"),
}


def numbers(found):
    """All numbers of a result, whatever holds them, by where they stand."""
    if isinstance(found, torch.Tensor):
        found = found.detach().cpu()
        return {"": (found.abs() if found.is_complex() else found).double().numpy()}
    if isinstance(found, pd.DataFrame):
        return {name: found[name].to_numpy(float) for name in found.select_dtypes("number")}
    if dataclasses.is_dataclass(found):
        found = {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}
    if isinstance(found, Mapping):
        parts = {name: numbers(part) for name, part in found.items()}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    if isinstance(found, tuple | list):
        return numbers(dict(enumerate(found)))
    return {"": np.asarray(found, float)} if isinstance(found, int | float | np.ndarray) else {}


def same(kind, name):
    analysis = EVERYWHERE[name]
    ours, expected = (numbers(analysis(made(kind, device))) for device in ("cuda", "cpu"))
    assert ours.keys() == expected.keys() and expected
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], value, err_msg=key, **CLOSE)


@needs_gpu
@pytest.mark.parametrize("name", EVERYWHERE)
def test_the_bundled_model_on_a_gpu(name):
    same("bundled", name)


@needs_gpu
@pytest.mark.parametrize("name", sorted(set(EVERYWHERE) - {"term_importance", "ov_eigenvalues"}))
def test_a_transformers_model_with_grouped_queries_on_a_gpu(name):
    same("llama", name)


@needs_gpu
@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "mistral", "gpt_neox"])
@pytest.mark.parametrize("name", ["score_heads", "ablation_sweep", "attribute_logits", "capture"])
def test_other_families_on_a_gpu(name, kind):
    same(kind, name)


@needs_gpu
def test_seeds_that_are_stacked_on_a_gpu_learn_what_they_learn_alone(tmp_path):
    recipe = Recipe(il.AttentionOnlyConfig(), TiledBlocks(), TrainingPlan(steps=3, batch=4, every=1))
    both = il.train_runs(il.over_seeds(recipe, 2), tmp_path / "both", device="cuda")
    for name, run in both.items():
        alone = il.train_run(il.over_seeds(recipe, 2)[name], tmp_path / name, device="cpu").model(3)
        tokens = prompts_of(alone).tokens
        torch.testing.assert_close(run.model(3).logits(tokens).cpu(), alone.logits(tokens), rtol=1e-2, atol=1e-2)


@needs_gpu
def test_explain_on_a_gpu():
    found, expected = (il.explain(m, prompts_of(m), n_random=2) for m in (made("bundled", d) for d in ("cuda", "cpu")))
    assert found.heads["verdict"].tolist() == expected.heads["verdict"].tolist()


@needs_gpu
def test_training_on_a_gpu_starts_from_the_same_weights(tmp_path):
    recipe = Recipe(il.AttentionOnlyConfig(), TiledBlocks(), TrainingPlan(steps=3, batch=4, every=1))
    ours = il.train_run(recipe, tmp_path / "cuda", device="cuda").model(3)
    expected = il.train_run(recipe, tmp_path / "cpu", device="cpu").model(3)
    tokens = prompts_of(expected).tokens
    torch.testing.assert_close(ours.logits(tokens).cpu(), expected.logits(tokens), rtol=1e-2, atol=1e-2)
