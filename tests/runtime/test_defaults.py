"""What torch makes by default, where a user has changed it: the same numbers, or one refusal."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
from families import random_network

import induction_lab as lab
from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel, repeated_tokens
from induction_lab.scores.profiles import attention_profiles


def prompts(model):
    return repeated_tokens(model, n_prompts=3, period=9)


MEASURED: dict[str, Callable[[HookedModel], Any]] = {
    "scores": lambda model: lab.score_heads(model, prompts(model), chance_test=True).to_dataframe(),
    "losses": lambda model: lab.score_heads(model, prompts(model)).loss,
    "spread": lambda model: lab.attention_spread(model, prompts(model)),
    "lag profile": lambda model: lab.lag_profile(model, prompts(model)),
    "profiles": lambda model: attention_profiles(model, prompts(model))._asdict(),
    "circuit": lambda model: lab.find_circuit(model, prompts(model)).edges,
    "explanation": lambda model: lab.explain(model, prompts(model), n_random=1).heads,
    "ablation": lambda model: lab.ablation_sweep(model, prompts(model)).table,
    "ideal": lambda model: lab.ablation_sweep(model, prompts(model), method="ideal_induction", heads=["L1H1"]).table,
    "gradients": lambda model: lab.attribution_patching(model, prompts(model)).table,
    "logits": lambda model: lab.attribute_logits(model, prompts(model)).values,
    "lens": lambda model: lab.logit_lens(model, prompts(model)),
    "composition": lambda model: {kind: lab.composition_scores(model, kind) for kind in "QKV"},
    "eigenvalues": lambda model: torch.view_as_real(lab.ov_eigenvalues(model)),
    "bigrams": lambda model: lab.bigram_logits(model),
    "probes": lambda model: lab.weight_probes(model).values,
    "patterns": lambda model: lab.capture(model, prompts(model), ["pattern"])["pattern", 1],
}


def all_measured(model: HookedModel) -> dict[str, Any]:
    return {name: measure(model) for name, measure in MEASURED.items()}


def check_same(one: Any, other: Any) -> None:
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, atol=0, rtol=0, equal_nan=True)
    elif isinstance(one, dict):
        for name, value in one.items():
            check_same(value, other[name])
    else:
        assert one == other


@pytest.mark.parametrize("family", ["own", "llama", "gpt2"])
def test_a_default_of_float64_changes_no_number(family):
    def model():
        network = AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=100), seed=3) if family == "own" else None
        return HookedModel(random_network(family) if network is None else network, name=family)

    usual = all_measured(model())
    torch.set_default_dtype(torch.float64)
    try:
        changed = all_measured(model())
    finally:
        torch.set_default_dtype(torch.float32)
    for name in MEASURED:
        check_same(usual[name], changed[name])


@pytest.mark.parametrize("name", sorted(MEASURED.keys() - {"probes"}))  # which leaves out what is refused, and says why
def test_another_default_device_is_refused_in_one_sentence(bundled, name):
    with torch.device("meta"), pytest.raises(ValueError, match="default device is meta.*may be on any device"):
        MEASURED[name](bundled)


def test_weights_that_are_nowhere_are_refused():
    with torch.device("meta"):
        network = AttentionOnlyTransformer(AttentionOnlyConfig())
    with pytest.raises(ValueError, match=r"nowhere \(meta tensors\): load them first"):
        HookedModel(network)


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_asked_for_in_inference_mode_is_the_same(bundled, name):
    usual = MEASURED[name](bundled)
    with torch.inference_mode():
        check_same(usual, MEASURED[name](bundled))
        if name == "gradients":
            with pytest.raises(ValueError, match="loaded inside torch.inference_mode"):
                MEASURED[name](lab.load_model())
