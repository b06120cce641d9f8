"""What is left of a kind where another is ablated: against the slow way, on circuits by hand, and its bystanders."""

import math

import pandas as pd
import pytest
import torch
from by_hand import hooked_logits, model_of, z_of

from induction_lab import HeadKinds, HookedModel, distinct_tokens, repeated_tokens, score_heads, surviving_kinds
from induction_lab.circuits.kinds import COLUMNS
from induction_lab.circuits.surviving import _left, bystanders
from induction_lab.data.prompts import Prompts
from induction_lab.interventions.ablating import constant_heads
from induction_lab.interventions.outputs import means_over_positions
from induction_lab.models.attention_only.by_hand import head_gallery
from induction_lab.results.heads import Head
from induction_lab.scores.kinds.dual_route import TokenMatching
from induction_lab.scores.results import HeadScores


def kinds(model, **members):
    """Heads by kind, as `classify_heads` would say it: values are not read."""
    scores = {"induction": "prefix_matching", "previous": "previous_token", "token_matching": "token_matching"}
    names = {"induction": "induction", "previous": "previous-token", "token_matching": "token-matching"}
    rows = [
        (str(Head(layer, head)), layer, head, names[kind], scores[kind], 1.0, 0.0, 0.0, 0.0, (layer, head) in chosen)
        for kind, chosen in members.items()
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
    ]
    return HeadKinds(model.name, pd.DataFrame(rows, columns=COLUMNS))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gemma3", "bloom", "gpt_oss", "small", "bundled"])
def test_heads_put_out_their_mean_over_positions_as_by_hand(name):
    model = model_of(name)
    tokens, reference = repeated_tokens(model, n_prompts=2, period=9).tokens, distinct_tokens(model, length=7)
    lengths = torch.tensor([8, 5] * 8)
    padded = Prompts(reference.tokens, lengths)
    z = z_of(model, reference.tokens)
    means = means_over_positions(model, padded)
    for layer in range(model.n_layers):
        slow = torch.cat([z[layer][i, 1:n] for i, n in enumerate(lengths.tolist())]).mean(0)
        torch.testing.assert_close(means[layer], slow, atol=1e-5, rtol=1e-4)

    def change(layer, z, v):
        if layer == 0:
            z[:, 1:, 1] = means[0][1]
        return z

    with torch.inference_mode():
        slow, clean = hooked_logits(model, tokens, change), model.logits(tokens)
        with constant_heads(model, [Head(0, 1)], means):
            torch.testing.assert_close(model.logits(tokens), slow, atol=1e-4, rtol=1e-4)
    assert torch.equal(model.logits(tokens), clean)


def test_what_is_left_is_as_measured_one_by_one(bundled):
    found = kinds(bundled, induction={(1, 1), (1, 3)}, previous={(0, 3)})
    prompts = repeated_tokens(bundled, n_prompts=4, period=20)
    table = surviving_kinds(bundled, found, prompts, n_draws=3)
    (row,) = table.to_dict("records")
    assert (row["ablated"], row["kind"], row["n_heads"], row["n_draws"]) == ("previous-token", "induction", 2, 3)
    reference = distinct_tokens(bundled, n_prompts=8, length=20, seed=1)
    means = means_over_positions(bundled, reference)
    sets, _ = bystanders(found, [Head(0, 3)], n=3)
    left = []
    clean = score_heads(bundled, prompts, scores="prefix_matching")
    chance, before = clean.uniform["prefix_matching"], float(clean["prefix_matching"][1, [1, 3]].mean())
    for heads in ([Head(0, 3)], *sets):
        with constant_heads(bundled, heads, means):
            after = score_heads(bundled, prompts, scores="prefix_matching")["prefix_matching"][1, [1, 3]].mean()
        left.append((float(after) - chance) / (before - chance))
    assert row["clean"] == pytest.approx(before, abs=1e-6)
    assert row["left"] == pytest.approx(left[0], abs=1e-5) and row["left"] < 0.1
    assert row["others"] == pytest.approx(sum(left[1:]) / 3, abs=1e-5)
    assert row["others_sd"] == pytest.approx(float(torch.tensor(left[1:]).std()), abs=1e-5)
    assert row["others_least"] == pytest.approx(min(left[1:]), abs=1e-5)
    assert row["others_most"] == pytest.approx(max(left[1:]), abs=1e-5)


def test_an_induction_head_by_hand_is_gone_without_its_previous_token_head_and_untouched_without_another():
    model = HookedModel(head_gallery(), name="gallery")
    found = kinds(model, induction={(1, 0)}, previous={(0, 0)}, token_matching={(1, 0)})
    table = surviving_kinds(model, found, n_draws=10, scores=["prefix_matching", TokenMatching(n_prompts=4)])
    table = table.set_index(["ablated", "kind"])
    for kind in ("induction", "token-matching"):
        row = table.loc[("previous-token", kind)]
        assert row["clean"] > 0.999 and row["left"] < 0.01
        assert row["others"] == pytest.approx(1.0, abs=1e-3) and row["n_draws"] >= 3
    assert len(table) == 2  # nothing stands behind heads of the last layer


def test_bystanders_are_of_no_kind_and_of_the_same_layers_where_there_are_enough(small):
    del small
    network = HookedModel(head_gallery(), name="gallery")
    found = kinds(network, induction={(1, 0)}, previous={(0, 0)})
    sets, farthest = bystanders(found, [Head(1, 0)], n=3)
    assert farthest == 0 and sorted(sets) == [[Head(1, 1)], [Head(1, 2)], [Head(1, 3)]]
    sets, farthest = bystanders(found, [Head(1, 0)], n=5)
    assert farthest == 1 and len(sets) == 5 and len({tuple(some) for some in sets}) == 5
    full = kinds(network, induction={(1, 0), (1, 1), (1, 2)}, previous={(0, 0)})
    sets, farthest = bystanders(full, full.of("induction"), n=10, seed=1)
    assert farthest == 1 and all(len(set(some)) == 3 and Head(0, 0) not in some for some in sets)
    everything = kinds(network, induction={(0, h) for h in range(4)} | {(1, h) for h in range(4)})
    assert bystanders(everything, everything.of("induction")) == ([], 0)


def test_what_cannot_be_had_is_refused(bundled):
    found = kinds(bundled, induction={(1, 1)}, previous={(0, 3)})
    with pytest.raises(ValueError, match="`n_draws` must be at least 1, got 0"):
        surviving_kinds(bundled, found, n_draws=0)
    with pytest.raises(ValueError, match="resting: no kind here has this score; they have prefix_matching"):
        surviving_kinds(bundled, found, scores="resting")
    empty = surviving_kinds(bundled, kinds(bundled, induction={(1, 1)}, previous=set()))
    assert len(empty) == 0 and "left" in empty.columns


def test_a_score_at_chance_has_no_share(recwarn):
    """Also with bystanders: of what is not there nothing can be left."""
    values = {"prefix_matching": torch.full((2, 4), 0.25)}
    clean = HeadScores("m", values, values, {"prefix_matching": 0.25})
    changed = [HeadScores("m", {"prefix_matching": torch.full((2, 4), x)}, values, {}) for x in (0.1, 0.25, 0.3)]
    row = _left("prefix_matching", [Head(1, 0)], clean, changed)
    assert (row["clean"], row["n_heads"]) == (0.25, 1) and row["without"] == pytest.approx(0.1)
    assert all(math.isnan(row[name]) for name in ("left", "others", "others_sd", "others_least", "others_most"))
    assert not recwarn.list
