"""Whatever takes a model takes its name, by one rule; what is neither is refused in one sentence."""

import inspect

import pytest
import torch
from families import random_network

import induction_lab
from induction_lab import (
    FoldedWeights,
    before_and_after,
    distinct_tokens,
    load_model,
    ov_circuit,
    repeated_tokens,
    score_heads,
    text_prompts,
    write_report,
)
from induction_lab.models.loading import as_model


def public_functions():
    """Of the whole package those whose first argument is a model, with how many others must be given."""
    for name in induction_lab.__all__:
        public = getattr(induction_lab, name)
        if not inspect.isfunction(public):
            continue
        first, *others = inspect.signature(public).parameters.values()
        if first.annotation == "HookedModel" and first.name == "model":
            yield name, sum(each.default is each.empty and each.kind is not each.VAR_KEYWORD for each in others)


FUNCTIONS = dict(public_functions())


def test_the_public_functions_are_found():
    assert {"score_heads", "ablate", "predict", "qk_circuit", "capture", "explain"} <= set(FUNCTIONS)
    assert len(FUNCTIONS) > 35


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_one_of_them_loads_a_model_by_its_name(name):
    with pytest.raises(ValueError, match="no/such-model"):
        getattr(induction_lab, name)("no/such-model", *[None] * FUNCTIONS[name])


def test_a_name_gives_what_its_model_gives(bundled):
    found, expected = (score_heads(model, scores=["prefix_matching"]) for model in ("induction-2l", bundled))
    torch.testing.assert_close(found["prefix_matching"], expected["prefix_matching"], atol=0, rtol=0)
    with induction_lab.ablate("induction-2l", "L1H0") as model:
        assert model.name == "induction-2l"
    assert torch.equal(ov_circuit("induction-2l", "L1H0").A, ov_circuit(bundled, "L1H0").A)
    assert FoldedWeights("induction-2l").model.name == "induction-2l"
    prompts = repeated_tokens(bundled, n_prompts=1, period=4)
    with pytest.raises(ValueError, match="no way between them"):
        before_and_after("induction-2l", bundled, prompts)


def test_a_report_takes_names_too(tmp_path):
    with pytest.raises(ValueError, match="no/such-model"):
        write_report(["induction-2l", "no/such-model"], tmp_path / "report.html")


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"got int"):
        as_model(3)
    with pytest.raises(ValueError, match=r"got GPT2LMHeadModel. Wrap it: HookedModel\(network, tokenizer\)"):
        score_heads(random_network("gpt2"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make", [repeated_tokens, distinct_tokens, lambda name: text_prompts(name, "a b")])
def test_prompts_are_made_for_a_loaded_model(make):
    with pytest.raises(ValueError, match=r"got 'induction-2l'. Write: model = load_model\('induction-2l'\)"):
        make("induction-2l")
    assert repeated_tokens(load_model("induction-2l"), n_prompts=1).tokens.shape[0] == 1
