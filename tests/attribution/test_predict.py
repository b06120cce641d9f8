"""What is predicted behind each token, and what without some heads: the numbers of a run of the whole network."""

import math

import pandas as pd
import pytest
import torch

from induction_lab import HookedModel, ablate, compare_predictions, distinct_tokens, predict, repeated_tokens
from induction_lab.models.attention_only.by_hand import induction_circuit


@pytest.fixture(scope="module")
def model():
    return HookedModel(induction_circuit(d_vocab=64, n_ctx=64), name="by hand")


@pytest.fixture(scope="module")
def prompt(model):
    return repeated_tokens(model, n_prompts=1, period=6)


def test_the_likeliest_tokens_are_those_of_the_network(bundled):
    prompt = repeated_tokens(bundled, n_prompts=1, period=5)
    found = bundled.predict(prompt, k=3)
    assert list(found) == ["position", "token", "next_token", "next_id", "probability"] and len(found) == 3 * 11
    logits = bundled.network(prompt.tokens)[0].double()
    for position, rows in found.groupby("position"):
        best = logits[position].softmax(-1).topk(3)
        assert rows["next_id"].tolist() == best.indices.tolist()
        assert rows["probability"].tolist() == pytest.approx(best.values.tolist(), abs=1e-6)
    assert found["token"].iloc[0] == "BOS" and found["next_token"].tolist() == [str(i) for i in found["next_id"]]


def test_without_heads_it_is_what_ablating_leaves(model, prompt):
    found = predict(model, prompt, k=2, without=["L1H0"])
    reference = distinct_tokens(model, n_prompts=16, length=12)
    with ablate(model, "L1H0", reference=reference), torch.no_grad():
        slow = model.logits(prompt.tokens)[0].double().softmax(-1)
    for row in found.to_dict("records"):
        assert row["without"] == pytest.approx(float(slow[row["position"], row["next_id"]]), abs=1e-9)
        assert row["nats"] == pytest.approx(math.log(row["probability"] / row["without"]), abs=1e-6)
    copied = found[found["position"].between(7, 11)].groupby("position").first()
    assert copied["next_id"].tolist() == prompt.tokens[0, 8:].tolist() and (copied["nats"] > 2).all()


def test_one_position_is_what_is_compared(model, prompt):
    everywhere = predict(model, prompt, k=2, without="L1H0")
    for position in (-1, 7):
        here = compare_predictions(model, prompt, "L1H0", position=position, k=2)
        rows = everywhere[everywhere["position"] == position % 13]
        assert here["token_id"].tolist() == rows["next_id"].tolist()
        assert here["probability"].tolist() == rows["probability"].tolist()
        assert here["nats"].tolist() == rows["nats"].tolist()


def test_some_positions_have_the_rows_that_all_have(model, prompt):
    everywhere = predict(model, prompt, k=2, without="L1H0")
    for asked, meant in ((7, [7]), (-1, [12]), ([8, -1, 3, 8], [3, 8, 12]), (range(2), [0, 1])):
        here = model.predict(prompt, k=2, without="L1H0", positions=asked)
        wanted = everywhere[everywhere["position"].isin(meant)].reset_index(drop=True)
        pd.testing.assert_frame_equal(here, wanted)


@pytest.mark.usefixtures("unchecked")
def test_positions_that_are_none_are_refused(model, prompt):
    for wrong, got in ((13, "13"), ([0, -14], "-14"), ([], "none"), ([1.5], "1.5"), ("x", "'x'")):
        with pytest.raises(ValueError, match=rf"`positions` must be in \[-13, 13\), got {got}: the text has 13 tokens"):
            predict(model, prompt, positions=wrong)


def test_mistakes_are_refused(model, prompt):
    with pytest.raises(ValueError, match="`k` must be a number of tokens from 1 to 64, got 65"):
        predict(model, prompt, k=65)
    with pytest.raises(ValueError, match="L7H0 is not there"):
        predict(model, prompt, without="L7H0")
    with pytest.raises(ValueError, match="One text is wanted, got 2"):
        predict(model, repeated_tokens(model, n_prompts=2, period=5))


def test_the_command_shows_a_block_of_rows_for_each_position(command, smollm2):
    code, out, _ = command("predict", "smollm2-135m", "one 日", "--k", "2", "--without", "L18H6")
    assert code == 0 and "without L18H6" in out and "nats" in out
    assert [line.split()[:2] for line in out.splitlines() if line[:1].isdigit()] == [
        ["0", "BOS"], ["1", "one"], ["2", "日¹⁄₃"], ["3", "日²⁄₃"], ["4", "日³⁄₃"]
    ]  # fmt: skip
    code, out, _ = command("predict", "smollm2-135m", "one two three", "--k", "2", "--position", "-1,1")
    assert code == 0 and [line.split()[0] for line in out.splitlines() if line[:1].isdigit()] == ["1", "3"]
    code, out, _ = command("predict", "smollm2-135m", "one two", "--k", "1")
    assert code == 0 and "without" not in out and len(out.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["induction-2l", "a b"], "no tokenizer"),
        (["induction-2l", " "], "A text is wanted"),
        (["smollm2-135m", "a b", "--without", "nothing"], "No head is written 'nothing'"),
        (["smollm2-135m", "a b", "--position", "x"], "--position wants whole numbers separated by commas, e.g. 0,12"),
        (["smollm2-135m", "a b", "--position", "7"], "must be in [-3, 3), got 7: the text has 3 tokens"),
    ],
)
def test_the_command_refuses_in_one_message(command, arguments, message, smollm2):
    code, _, err = command("predict", *arguments)
    assert code == 2 and message in err
