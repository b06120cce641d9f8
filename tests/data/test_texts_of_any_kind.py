"""Texts as people have them: whatever holds them, every analysis reads the same; what cannot be meant is refused."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from worded import SAID, worded

import induction_lab as il
from induction_lab.data.prompts import as_prompts
from induction_lab.scores.profiles import attention_profiles

FOX, BIRD, _ = SAID
datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def model():
    return worded("own")


@pytest.fixture
def files(tmp_path):
    for name, text in (("fox.txt", FOX), ("bird.txt", BIRD)):
        (tmp_path / name).write_text(text)
    return [tmp_path / "fox.txt", tmp_path / "bird.txt"]


def test_texts_are_read_alike_whatever_holds_them(model, files):
    table = datasets.Dataset.from_dict({"text": [FOX, BIRD], "id": [1, 2]})
    holders = [table["text"], pd.Series([FOX, BIRD]), np.array([FOX, BIRD]), (FOX, BIRD), files, [files[0], BIRD]]
    wanted = as_prompts(model, [FOX, BIRD])
    for holder in [*holders, (text for text in (FOX, BIRD)), table.to_pandas()["text"], iter(files)]:
        found = as_prompts(model, holder)
        assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.real_lengths, wanted.real_lengths)
    assert torch.equal(as_prompts(model, files[0]).tokens, as_prompts(model, FOX).tokens)
    assert torch.equal(il.text_prompts(model, files[0], length=5).tokens, il.text_prompts(model, FOX, length=5).tokens)


def test_the_name_of_a_file_is_not_taken_for_a_text_and_the_advice_works(model, files):
    with pytest.raises(ValueError, match=r"is a file: give Path\(.*fox.txt'\) for the text in it") as refused:
        il.score_heads(model, str(files[0]))
    advice = re.search(r"give (Path\(.*?\)) for", str(refused.value))[1]
    assert torch.equal(as_prompts(model, eval(advice, {"Path": Path})).tokens, as_prompts(model, FOX).tokens)
    assert len(as_prompts(model, "red fox.txt")) == 1  # a text, where there is no such file


def test_a_table_is_refused_for_its_column_and_the_advice_works(model):
    table = datasets.Dataset.from_dict({"id": [1, 2], "text": [FOX, BIRD]})
    rows = [{"id": 1, "text": FOX}, {"id": 2, "text": BIRD}]
    for data in (table, table.to_pandas(), datasets.DatasetDict({"train": table}), rows):
        with pytest.raises(ValueError, match="one column of a table") as refused:
            as_prompts(model, data)
        advice = re.search(r"such as (data\[.*?\])", str(refused.value))[1]
        if data is rows:
            data = pd.DataFrame(rows)
        told = eval(advice, {"data": data})
        assert len(as_prompts(model, told if not isinstance(told, datasets.Dataset) else told["text"])) == 2


def test_a_file_that_cannot_be_read_is_one_message(model, tmp_path):
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    for path, reason in (
        (tmp_path / "none.txt", "No such file"),
        (tmp_path / "bytes.txt", "byte 0xff"),
        (tmp_path, ""),
    ):
        with pytest.raises(ValueError, match=f"cannot be read as UTF-8 text.*{reason}"):
            as_prompts(model, path)


def by_label(table: pd.DataFrame, column: str) -> np.ndarray:
    names = [
        name for name in ("sender", "label", "path", "layer", "where", "quantity", "lag", "order") if name in table
    ]
    return table.sort_values(names)[column].to_numpy()


ANALYSES = {  # of texts: what they find, as means over prompts
    "score_heads": lambda m, x: il.score_heads(m, x, scores=["prefix_matching", "previous_token"]).values[
        "prefix_matching"
    ],
    "weighed": lambda m, x: il.score_heads(m, x, scores=["previous_token"], weigh="values").values["previous_token"],
    "logit_attribution": lambda m, x: il.score_heads(m, x, scores=["logit_attribution"]).values["logit_attribution"],
    "attention_spread": lambda m, x: by_label(il.attention_spread(m, x), "value"),
    "attention_profiles": lambda m, x: attention_profiles(m, x).by_lag,
    "lag_profile": lambda m, x: by_label(il.lag_profile(m, x), "probability"),
    "pattern_preserving": lambda m, x: il.ablation_sweep(m, x, method="pattern_preserving").table["effect"],
    "ideal_induction": lambda m, x: il.ablation_sweep(m, x, method="ideal_induction").table["effect"],
    "a function": lambda m, x: il.ablation_sweep(m, x, metric=lambda logits, _: logits.logsumexp(-1).mean()).table[
        "effect"
    ],
    "attribute_logits": lambda m, x: il.attribute_logits(m, x).heads()[0],
    "logit_lens": lambda m, x: by_label(il.logit_lens(m, x), "value"),
    "score_shares": lambda m, x: by_label(il.score_shares(m, x, "L1H2"), "share"),
    "term_importance": lambda m, x: by_label(il.term_importance(m, x), "value"),
    "expand_paths": lambda m, x: by_label(il.expand_paths(m, x).attribution(), "logits"),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_of_texts_of_unlike_length_is_the_mean_of_those_of_each(model, name):
    together, fox, bird = (np.asarray(ANALYSES[name](model, x)) for x in ([FOX, BIRD], FOX, BIRD))
    np.testing.assert_allclose(together, np.nanmean([fox, bird], 0), atol=1e-5)
    assert np.nanmax(np.abs(fox - bird)) > 1e-5


def test_what_reads_one_text_says_so_and_the_advice_works(model):
    long = " ".join([FOX, BIRD] * 10)  # more than the context holds
    for analysis in (il.induction_activity, il.compare_predictions):
        for given in ([FOX, BIRD], long):
            with pytest.raises(ValueError, match=r"One text is wanted, got \d.*text_prompts") as refused:
                analysis(model, given, "L1H2")
        advice = re.search(r"text_prompts\(model, text, n_prompts=1\)", str(refused.value))[0]
        analysis(model, eval(advice, {"text_prompts": il.text_prompts, "model": model, "text": long}), "L1H2")


def test_indices_that_texts_do_not_have_are_refused_with_some_that_they_have(model):
    with pytest.raises(ValueError, match="the longest prompt here has only 18") as refused:
        il.ablation_sweep(model, [FOX, BIRD], metric="icl_score", method="zero")
    advice = re.search(r"metric=(icl_score\(early=\d+, late=\d+\))", str(refused.value))[1]
    il.ablation_sweep(model, [FOX, BIRD], metric=eval(advice, {"icl_score": il.icl_score}), method="zero")
