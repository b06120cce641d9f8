"""Every number of the live page is what a public function gives."""

import json

import pytest
import torch
from by_hand import model_of
from live_pages import TEXT

from induction_lab import (
    HookedModel,
    ablate,
    ablation_sweep,
    attribute_logits,
    capture,
    compare_predictions,
    induction_activity,
    induction_circuit,
    mean_outputs,
    scale_heads,
    score_heads,
    score_shares,
)
from induction_lab.data.prompts import Prompts, distinct_tokens
from induction_lab.pages.live.answers import KINDS, LiveModel
from induction_lab.pages.live.scene import MOST_CHARACTERS


@pytest.fixture(scope="module")
def live(bundled):
    return LiveModel(bundled)


@pytest.fixture(scope="module")
def prompt(bundled):
    return Prompts(torch.tensor([[bundled.bos_token_id, *map(int, TEXT.split())]]))


def test_answers_are_json_that_a_browser_reads(live):
    asked = [
        {"mode": "copying"}, {"position": 6, "head": "L1H2", "query": 7, "key": 3, "token": 33, "mode": "adds",
         "groups": [["L0H0"]]},
    ]  # fmt: skip
    for what in live.asked:
        answer = live.answer(what, {"text": TEXT, "heads": {"L0H1": "zero"}} | asked[what != "map"])
        assert json.loads(json.dumps(answer, allow_nan=False))
    json.dumps(live.facts(), allow_nan=False)


def test_predictions_are_those_of_compare_predictions_with_and_without(live, bundled, prompt):
    answer = live.answer("predict", {"text": TEXT, "heads": {"L0H3": "mean", "L0H2": "mean"}})
    for position in range(1, prompt.tokens.shape[1]):
        table = compare_predictions(bundled, prompt, ["L0H2", "L0H3"], position=position, k=6).set_index("token_id")
        for side, column in (("whole", "probability"), ("changed", "without")):
            for token, p in zip(answer[side]["ids"][position], answer[side]["p"][position], strict=True):
                assert p == pytest.approx(table.loc[token, column], rel=1e-4)
    log_p = bundled.logits(prompt.tokens)[0].log_softmax(-1)
    right = log_p[:-1].gather(1, prompt.tokens[0, 1:, None])[:, 0]
    assert answer["whole"]["nats"] == pytest.approx(right.tolist(), abs=1e-4)
    assert answer["changed"]["nats"][-1] < answer["whole"]["nats"][-1] - 0.5  # what fed the copying is gone


def test_one_model_alone_where_no_head_is_changed(live):
    assert "changed" not in live.answer("predict", {"text": TEXT})


def test_scaled_heads_and_ideal_ones_are_changed_as_by_their_public_names(live, bundled, prompt):
    answer = live.answer("predict", {"text": TEXT, "heads": {"L1H0": 0.5, "L0H0": "ideal_previous_token"}})
    with scale_heads(bundled, "L1H0", 0.5), ablate(bundled, "L0H0", method="ideal_previous_token"):
        p = bundled.logits(prompt.tokens)[0].softmax(-1)
    for row, (ids, values) in enumerate(zip(answer["changed"]["ids"], answer["changed"]["p"], strict=True)):
        assert values == pytest.approx(p[row, ids].tolist(), abs=1e-5)


@pytest.mark.parametrize("family", ["bundled", "llama", "gemma2"])
def test_what_heads_cost_is_what_a_sweep_of_the_text_says_whatever_is_changed(bundled, family):
    model = bundled if family == "bundled" else model_of(family)
    live, groups = LiveModel(model), [["L1H0"], ["L0H1", "L1H2"], ["L0H2"]]
    live.answer("costs", {"text": "7 8", "groups": [["L0H0"]]})  # what was kept of another text is no part of it
    given = {"text": TEXT, "heads": {"L0H0": "zero"}, "groups": groups}
    prompt = Prompts(torch.tensor([[model.bos_token_id, *map(int, TEXT.split())]]))
    effects = ablation_sweep(model, prompt, heads=groups, metric="loss").table["effect"]
    for _ in range(2):
        assert live.answer("costs", given)["values"] == pytest.approx(effects.tolist(), abs=1e-5)
    means = mean_outputs(model, distinct_tokens(model, n_prompts=16, length=9))
    with ablate(model, groups[1], reference=means):
        lost = -model.logits(prompt.tokens)[0].log_softmax(-1)[:-1].gather(1, prompt.tokens[0, 1:, None]).mean()
    whole = live.answer("predict", {"text": TEXT})["whole"]["nats"]
    assert float(lost) + sum(whole) / len(whole) == pytest.approx(effects.iloc[1], abs=1e-4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"groups": []}, "Groups are lists of heads"),
        ({"groups": [["L0H0"], []]}, "Groups are lists of heads"),
        ({"groups": "L0H0"}, "Groups are lists of heads"),
        ({"groups": [["L0H0", "L0H0"]]}, "Each head may be given once, got L0H0"),
        ({"groups": [["L9H0"]]}, "L9H0 is not there"),
        ({"groups": [["L0H0"]], "text": ""}, "at least one token after BOS"),
    ],
)
def test_what_cannot_be_left_out_is_refused(live, given, said):
    with pytest.raises(ValueError, match=said):
        live.answer("costs", {"text": TEXT} | given)


def test_means_are_the_same_for_whatever_longer_text_they_were_found(bundled, prompt):
    fresh, n = LiveModel(bundled), prompt.tokens.shape[1]
    wanted = mean_outputs(bundled, distinct_tokens(bundled, n_prompts=16, length=n - 1))
    for length in (n, 40, n):
        found = fresh.means(length)
        for layer, z in wanted.heads.items():
            torch.testing.assert_close(found.heads[layer][:, :, :n], z, atol=1e-5, rtol=1e-4)


def test_the_map_is_prefix_matching_of_the_text_of_one_token_and_of_pairs(live, bundled, prompt):
    values = torch.tensor(live.answer("map", {"text": TEXT, "mode": "copying"})["values"])
    scores = score_heads(bundled, prompt, scores=["prefix_matching"], loss=False)["prefix_matching"]
    torch.testing.assert_close(values, scores, atol=1e-5, rtol=1e-4)
    here = torch.tensor(live.answer("map", {"text": TEXT, "mode": "copying", "position": 7})["values"])
    every = [(layer, head) for layer in range(2) for head in range(4)]
    heads = induction_activity(bundled, prompt, every).heads
    assert here.flatten().tolist() == pytest.approx(heads[heads["position"] == 7]["attention"].tolist(), abs=1e-5)
    pattern = torch.stack([capture(bundled, prompt, "pattern")["pattern", layer][0] for layer in range(2)])
    from_8 = live.answer("map", {"text": TEXT, "mode": "looks_at", "position": 3, "query": 8})["values"]
    torch.testing.assert_close(torch.tensor(from_8), pattern[:, :, 8, 3], atol=1e-5, rtol=1e-4)
    later = live.answer("map", {"text": TEXT, "mode": "looks_at", "position": 3})["values"]
    torch.testing.assert_close(torch.tensor(later), pattern[:, :, 4:, 3].mean(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("heads", [{}, {"L0H3": "zero"}])
def test_what_heads_add_is_attribute_logits_of_the_model_as_it_is_changed(live, bundled, prompt, heads):
    answers = torch.full_like(prompt.tokens, -1)
    answers[0, 7] = 33
    if heads:
        with ablate(bundled, list(heads), method="zero"):
            found = attribute_logits(bundled, prompt, answers=answers)
    else:
        found = attribute_logits(bundled, prompt, answers=answers)
    parts = dict(zip(found.labels, found.values[:, 0, 7].tolist(), strict=True))
    asked = {"text": TEXT, "heads": heads, "position": 7, "token": 33}
    values = live.answer("map", asked | {"mode": "adds"})["values"]
    assert values[1][2] == pytest.approx(parts["L1H2"], abs=1e-4)
    why = live.answer("why_token", asked)
    assert dict(why["parts"]) == pytest.approx(parts, abs=1e-4) and why["others"][0] == 0
    assert why["sum"] == pytest.approx(sum(parts.values()), abs=1e-3)


def test_an_attention_weight_is_split_as_by_score_shares(live, bundled, prompt):
    answer = live.answer("why_weight", {"text": TEXT, "head": "L1H2", "query": 7, "key": 3})
    for component in ("q", "k"):
        parts = score_shares(bundled, prompt, "L1H2", component, pairs=[(7, 3)]).set_index("sender")["score"]
        assert dict(answer[component]["parts"]) == pytest.approx(parts.to_dict(), abs=1e-4)
    assert answer["k"]["sum"] == pytest.approx(answer["q"]["sum"], abs=1e-3)


def test_what_one_head_writes_adds_up_to_what_it_is_said_to_add(live, bundled, prompt):
    answer = live.answer("head", {"text": TEXT, "head": "L1H3", "position": 8})
    assert len(answer["written"]) == prompt.tokens.shape[1]
    for token, value in answer["writes"]["for"] + answer["writes"]["against"]:
        answers = torch.full_like(prompt.tokens, -1)
        answers[0, 8] = int(token)
        found = attribute_logits(bundled, prompt, answers=answers)
        assert value == pytest.approx(float(found.values[found.labels.index("L1H3"), 0, 8]), abs=1e-4)
    assert [x for _, x in answer["writes"]["for"]] == sorted((x for _, x in answer["writes"]["for"]), reverse=True)
    assert all(x < 0 for _, x in answer["writes"]["against"])


def test_kinds_are_the_heads_above_the_line(live, bundled):
    scores = score_heads(bundled, scores=list(KINDS), loss=False)
    answer = live.answer("kinds", {"text": ""})
    for name in KINDS:
        assert answer[name] == [str(head) for head in scores.above(name, 0.4)]


def test_by_hand_the_circuit_is_seen_and_falls_with_its_previous_token_head():
    model = HookedModel(induction_circuit(), name="by-hand")
    live, text = LiveModel(model), "3 7 5 3"
    whole = live.answer("predict", {"text": text, "heads": {"L0H0": "zero"}})
    assert whole["whole"]["ids"][-1][0] == 7 and whole["whole"]["p"][-1][0] > 0.99
    assert whole["changed"]["p"][-1][0] < 0.5
    values = live.answer("map", {"text": text, "mode": "copying"})["values"]
    assert (
        values[1][0] > 0.99
        and live.answer("map", {"text": text, "mode": "copying", "heads": {"L0H0": "zero"}})["values"][1][0] < 0.5
    )


@pytest.mark.parametrize("name", ["llama", "bloom", "gemma3", "gpt_neo"])
def test_other_architectures_answer_or_say_why_not(name):
    live = LiveModel(model_of(name))
    text = "5 9 17 5 9" if live.model.tokenizer is None else "one two three one"
    for what in live.asked:
        given = {"text": text, "heads": {"L0H1": "mean"}, "mode": "copying", "position": 3, "query": 4, "key": 2}
        try:
            answer = live.answer(what, given | {"head": "L1H1", "token": 5, "groups": [["L1H1"]]})
        except ValueError as error:
            assert what in ("why_weight", "why_token", "head") and str(error)
        else:
            json.dumps(answer, allow_nan=False)


@pytest.mark.parametrize(
    "what, given",
    [
        ("predict", {"text": "x" * (MOST_CHARACTERS + 1)}),
        ("predict", {"text": " ".join(["7"] * 300)}),
        ("predict", {"text": "999999"}),
        ("predict", {"text": "one"}),
        ("predict", {"text": 5}),
        ("predict", {"text": TEXT, "heads": {"L9H0": "mean"}}),
        ("predict", {"text": TEXT, "heads": {"L0H0": "median"}}),
        ("predict", {"text": TEXT, "heads": {"L0H0": 1e9}}),
        ("predict", {"text": TEXT, "heads": {"L0H0": True}}),
        ("predict", {"text": TEXT, "heads": [1]}),
        ("map", {"text": TEXT, "mode": "beauty"}),
        ("map", {"text": TEXT, "mode": "looks_at"}),
        ("map", {"text": TEXT, "mode": "adds", "position": 3, "token": -1}),
        ("map", {"text": TEXT, "mode": "looks_at", "position": 3, "query": 2}),
        ("head", {"text": TEXT, "head": "L0", "position": 1}),
        ("head", {"text": TEXT, "head": "L0H1", "position": 99}),
        ("why_weight", {"text": TEXT, "head": "L1H1", "query": 3, "key": 0}),
        ("delete", {}),
    ],
)
def test_refuses(live, what, given):
    with pytest.raises(ValueError):
        live.answer(what, given)
