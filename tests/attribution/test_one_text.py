"""Texts where the answer is known: what a hand-built circuit copies, and nothing else, comes from context."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from induction_lab import HookedModel, ablate, compare_predictions, distinct_tokens, induction_activity, repeated_tokens
from induction_lab.attribution.one_text import FROM_CONTEXT
from induction_lab.data.prompts import as_prompts
from induction_lab.interventions.outputs import REFERENCE
from induction_lab.models.attention_only.by_hand import induction_circuit
from induction_lab.results.heads import other_heads, parse_heads
from induction_lab.results.tables import facts_of as load_facts


@pytest.fixture(scope="module")
def model():
    return HookedModel(induction_circuit(d_vocab=64, n_ctx=64), name="by hand")


@pytest.fixture(scope="module")
def prompt(model):
    return repeated_tokens(model, n_prompts=1, period=12)


def test_what_is_copied_comes_from_context_and_nothing_else_does(model, prompt):
    found = induction_activity(model, prompt)
    tokens = found.tokens
    copied = (tokens["position"] >= 13) & (tokens["position"] < 24)
    assert (tokens.loc[copied, "from_context"] > math.log(30)).all()  # from certain to one of 64
    new = (tokens["position"] < 12) & (tokens["position"] > 0)
    assert tokens.loc[new, "from_context"].abs().max() < FROM_CONTEXT
    assert set(tokens.loc[copied, "awake"]) == {"L1H0"} and set(tokens.loc[new, "awake"]) == {""}
    heads = found.heads[found.heads["position"].between(13, 23)]
    assert (heads["looks_at"] == heads["position"] - 12 + 1).all() and (heads["attention"] > 0.999).all()
    assert (heads["logit"] > 15).all()
    assert repr(found) == "TextActivity('by hand': 11 of 24 next tokens from context, 0 by as many random heads)"


def test_numbers_are_those_of_ablating(model, prompt):
    found = induction_activity(model, prompt, "L1H0")
    reference = distinct_tokens(model, n_prompts=REFERENCE, length=24)
    with ablate(model, "L1H0", reference=reference), torch.no_grad():
        slow = model.logits(prompt.tokens)[0].double().log_softmax(-1)
    t = 15
    assert found.tokens["log_p_without"][t] == pytest.approx(float(slow[t, prompt.tokens[0, t + 1]]), abs=1e-6)
    table = compare_predictions(model, prompt, "L1H0", position=t, k=3)
    right = table.iloc[0]
    assert right["token_id"] == prompt.tokens[0, t + 1] and right["probability"] > 0.999
    assert right["without"] == pytest.approx(math.exp(found.tokens["log_p_without"][t]), abs=1e-9)
    assert right["nats"] == pytest.approx(found.tokens["from_context"][t], abs=1e-6)
    assert table["probability"].is_monotonic_decreasing and 3 <= len(table) <= 6


def test_a_bystander_changes_nothing(model, prompt):
    table = compare_predictions(model, prompt, "L1H1", position=15)
    assert table["nats"].abs().max() < 1e-4


def test_chance_is_what_random_heads_of_the_same_layers_carry(smollm2):
    text, heads = "The zorblat quexed. The zorblat quexed", ["L17H3", "L18H6", "L18H7"]
    found = induction_activity(smollm2, text, heads, n_random=3, seed=4)
    sets = other_heads(parse_heads(heads), smollm2.n_heads, 3, seed=4)
    assert found.control["heads"].tolist() == [" ".join(map(str, some)) for some in sets]
    reference = distinct_tokens(smollm2, n_prompts=REFERENCE, length=len(found.tokens) - 1)
    prompt, log_p, lost = as_prompts(smollm2, text), found.tokens["log_p"][:-1], []
    for some in sets:  # the slow way
        with ablate(smollm2, some, reference=reference), torch.no_grad():
            logits = smollm2.logits(prompt.tokens)[0, :-1].log_softmax(-1).double()
        without = logits.gather(1, prompt.tokens[0, 1:, None])[:, 0]
        lost.append(log_p - without.numpy())
        row = found.control.iloc[len(lost) - 1]
        assert row["nats"] == pytest.approx(lost[-1].mean(), abs=1e-5)
        assert row["n_from_context"] == ((lost[-1] >= math.log(2)) & (log_p >= math.log(0.01))).sum()
    lost = pd.concat(lost, axis=1)
    assert found.tokens["others"][:-1].tolist() == pytest.approx(lost.mean(axis=1).tolist(), abs=1e-5)
    assert found.tokens["others_most"][:-1].tolist() == pytest.approx(lost.max(axis=1).tolist(), abs=1e-5)
    assert found.provenance["n_random"] == 3 and found.provenance["seed"] == 4
    own = int(found.is_from_context.sum())
    assert (
        found.chance.startswith(f"3 heads: {own} tokens from context, ")
        and "3 random sets of 3 other heads in the same" in found.chance
    )
    assert found.chance in found._repr_html_() and own > found.control["n_from_context"].max()


def test_what_is_hardly_likely_with_the_heads_does_not_come_from_context(model, prompt):
    found = induction_activity(model, prompt)
    tiny = found.tokens.assign(log_p=math.log(1e-6), from_context=5.0)
    assert not replace(found, tokens=tiny).is_from_context.any()
    assert replace(found, tokens=tiny.assign(log_p=math.log(0.01))).is_from_context.all()
    assert "rgba(213, 94, 0, 1.00)" not in replace(found, tokens=tiny)._repr_html_()


@pytest.mark.parametrize("how", [{"heads": ["L1H0", "L1H1", "L1H2", "L1H3"]}, {"heads": "L1H0", "n_random": 0}])
def test_without_other_heads_chance_is_not_known_and_that_is_said(bundled, how):
    found = induction_activity(bundled, repeated_tokens(bundled, n_prompts=1, period=5), **how)
    assert found.control.empty and found.tokens["others"].isna().all() and "random" not in repr(found)
    assert "No others of the same layers were measured" in found.chance


def test_a_number_of_sets_that_is_none_is_refused(model, prompt):
    with pytest.raises(ValueError, match="`n_random` must not be negative, got -1"):
        induction_activity(model, prompt, n_random=-1)


def test_a_text_of_words_is_read_and_shown(smollm2):
    found = induction_activity(smollm2, "The zorblat quexed. The zorblat quexed <b>")
    assert {"L18H6", "L17H3"} <= set(found.heads["label"])
    assert found.tokens["from_context"].max() > FROM_CONTEXT
    page = found._repr_html_()
    assert "&lt;" in page and "<b>" not in page and "nats from context" in page and "</span> <span" not in page


def test_tokens_that_bring_no_space_are_shown_apart(model, prompt):
    assert "</span> <span" in induction_activity(model, prompt)._repr_html_()


def test_saved_tables_hold_a_row_a_token_and_head(model, prompt, tmp_path):
    found = induction_activity(model, prompt)
    read = pd.read_parquet(found.save(tmp_path / "activity.parquet"))
    assert len(read) == prompt.tokens.shape[1] and read["label"].eq("L1H0").all()
    pd.testing.assert_series_equal(read["from_context"], found.tokens["from_context"])
    assert list(load_facts(tmp_path / "activity.parquet")["control"][0]) == list(found.control)
    assert read.loc[15, "looks_at"] == 4 and read.loc[15, "next_token"] == found.tokens.loc[16, "token"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"position": 99}, r"`position` must be in \[-25, 25\), got 99"),
        ({"k": 0}, "`k` must be a number of tokens from 1 to 64, got 0"),
    ],
)
def test_mistakes_are_refused(model, prompt, how, message):
    with pytest.raises(ValueError, match=message):
        compare_predictions(model, prompt, "L1H0", **how)


def test_more_than_one_text_and_models_without_such_heads_are_refused(model, small):
    with pytest.raises(ValueError, match="One text is wanted, got 2"):
        induction_activity(model, repeated_tokens(model, n_prompts=2, period=5))
    with pytest.raises(ValueError, match="has no induction head"):
        induction_activity(small, repeated_tokens(small, n_prompts=1, period=5))


@pytest.mark.parametrize("arguments", [[], ["--text", " "]])
def test_the_command_wants_a_text(arguments, monkeypatch, capsys):
    from induction_lab.cli.app import main

    monkeypatch.setattr("sys.argv", ["induction-lab", "activity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "A text is wanted" in capsys.readouterr().err


def test_the_command_shows_what_comes_from_context(tmp_path, monkeypatch, capsys, smollm2):
    from induction_lab.cli.app import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("The zorblat quexed. The zorblat quexed.")
    monkeypatch.setattr("sys.argv", ["induction-lab", "activity", "--text", "text.txt", "--heads", "L18H6,L17H3"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().out
    assert ended.value.code in (0, None) and "tokens come from context" in said and "L18H6" in said
    assert "10 random sets of 2 other heads in the same layers:" in " ".join(said.split()) and "others" in said
    assert (tmp_path / "results" / "smollm2-135m_activity.csv").is_file()
