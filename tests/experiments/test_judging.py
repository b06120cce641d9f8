import json
import math

import numpy as np
import pytest
from scipy import stats
from scripts import script

judging = script("judging")
Effect, judge, pooled, votes = judging.Effect, judging.judge, judging.pooled, judging.votes


def outcome_of(found, kind="small models"):
    return found["classes"][kind]["outcome"]


def test_an_effect_is_a_mean_over_items_with_its_error():
    items = [1.0, 2.0, 4.0]
    assert judging.effect(items) == pytest.approx((np.mean(items), np.std(items, ddof=1) / math.sqrt(3), 3))
    assert judging.effect([2.0]) == (2.0, None, 1)
    with pytest.raises(ValueError, match="at least one item"):
        judging.effect([])


def test_the_interval_over_models_is_student_s():
    values = [0.1, 0.4, 0.3, 0.9]
    low, high = stats.t.interval(0.9, 3, np.mean(values), stats.sem(values))
    assert pooled([Effect(x) for x in values]) == pytest.approx((np.mean(values), low, high))


def test_models_that_happen_to_agree_are_no_surer_than_their_own_errors_allow():
    agreeing = pooled([Effect(0.5, 0.2)] * 3)
    assert agreeing.high - agreeing.value == pytest.approx(stats.t.ppf(0.95, 2) * 0.2 / math.sqrt(3))


@pytest.mark.parametrize(("one", "half"), [(Effect(1.0, 0.1, 5), stats.t.ppf(0.95, 4) * 0.1), (Effect(1.0), math.inf)])
def test_one_model_is_bounded_by_its_own_items_or_not_at_all(one, half):
    assert pooled([one]).high - 1.0 == pytest.approx(half)


def test_effects_that_are_no_numbers_are_refused():
    for bad in ([], [Effect(math.inf)], [Effect(1.0), Effect(math.nan)]):
        with pytest.raises(ValueError, match="Finite effects of at least one model"):
            pooled(bad)


@pytest.mark.parametrize(
    ("values", "at_most", "expected"),
    [
        ([0.8, 0.9, 0.85], False, "holds"),
        ([0.1, 0.2, 0.15], False, "does not hold here"),
        ([0.2, 0.9, 0.7], False, "not decided"),
        ([0.8, 0.9, 0.85, 0.8, 0.9, 0.45], False, "holds with a caveat"),
        ([0.1, 0.2, 0.15], True, "holds"),
        ([0.8, 0.9, 0.85], True, "does not hold here"),
        ([0.8], False, "not decided"),
    ],
)
def test_the_outcome_is_where_the_interval_lies(values, at_most, expected):
    effects = {f"kind {seed}": Effect(value) for seed, value in enumerate(values)}
    found = judge(effects, 0.5, at_most=at_most)
    assert found["outcome"] == outcome_of(found) == expected
    assert ("kind 5" in found["classes"]["small models"]["caveat"]) == (expected == "holds with a caveat")


def test_classes_of_models_are_judged_apart_and_one_language_model_is_a_caveat():
    effects = {f"kind {seed}": Effect(0.1 + 0.01 * seed) for seed in range(5)} | {"smollm2-135m": Effect(0.9, 0.01, 16)}
    found = judge(effects, 0.5)
    assert found["outcome"] == "differs by class of models" and outcome_of(found) == "does not hold here"
    assert outcome_of(found, "language models") == "holds with a caveat"
    assert outcome_of(judge({"gemma3-270m": Effect(0.6, 0.2, 16)}, 0.5), "language models") == "not decided"


def test_a_failed_control_leaves_it_undecided_and_no_model_untested():
    found = judge({f"kind {seed}": Effect(0.9) for seed in range(5)}, 0.5, undecided="The control failed.")
    assert found["outcome"] == "not decided" and found["classes"]["small models"]["caveat"] == "The control failed."
    assert judge({}, 0.5)["outcome"] == votes({})["outcome"] == judging.by_construction({})["outcome"] == "not tested"


@pytest.mark.parametrize("models", [1, 2, 3, 5, 15])
@pytest.mark.parametrize("between", [0.0, 0.3])
def test_null_effects_are_said_to_hold_once_in_twenty_at_most(models, between):
    """Effects that lie on the threshold, models unlike each other, prompts inside them: 2,000 draws."""
    if models == 1 and between:
        return  # one model tells nothing about others, and says so
    draw, held, failed, n = np.random.default_rng(models), 0, 0, 2000
    for _ in range(n):
        means = draw.normal(0.5, between, models)
        effects = {f"kind {i}": judging.effect(draw.normal(mean, 1.0, 16).tolist()) for i, mean in enumerate(means)}
        (found,) = judge(effects, 0.5)["classes"].values()
        if "nothing is said about others" in found["caveat"] and models > 1:
            continue  # of these models alone: next test
        held += found["outcome"].startswith("holds")
        failed += found["outcome"] == "does not hold here"
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / n)
    assert held / n < limit and failed / n < limit


@pytest.mark.parametrize("at_most", [False, True])
def test_a_model_more_that_agrees_does_not_undo_a_verdict(at_most):
    """Two models far apart, each above by its own items: what either shows alone, both show of themselves."""
    sign = -1 if at_most else 1
    above, far, across = Effect(sign * 0.6, 0.02, 16), Effect(sign * 1.6, 0.02, 16), Effect(sign * 0.52, 0.02, 16)
    for other, outcome in ((above, "holds with a caveat"), (across, "not decided")):
        found = judge({"gemma3-270m": far, "smollm2-135m": other}, sign * 0.5, at_most=at_most)
        assert found["outcome"] == outcome
        assert ("In each of these 2" in found["classes"]["language models"]["caveat"]) == (other is above)
    below = judge({"gemma3-270m": far, "smollm2-135m": above}, sign * 1.7, at_most=at_most)
    assert below["outcome"] == "does not hold here"
    assert judge({"a": far, "b": Effect(sign * 0.6)}, sign * 0.5, at_most=at_most)["outcome"] == "not decided"


def test_models_that_each_show_it_by_chance_are_one_in_twenty_at_most():
    """Models that lie on the threshold, each of them: what is said of these alone is wrong that seldom as well."""
    draw, said, n = np.random.default_rng(7), 0, 2000
    for _ in range(n):
        effects = {f"kind {i}": judging.effect(draw.normal(0.5, 1.0, 16).tolist()) for i in range(2)}
        said += judge(effects, 0.5)["outcome"] != "not decided"
    assert said / n < 0.1  # 0.05 on either side


@pytest.mark.parametrize(
    ("model", "recipe"),
    [("repeats-600-seed0", "repeats-600"), ("seed 3", ""), ("deviation 0.02, seed 10", "deviation 0.02"),
     ("one-layer-smeared, seed 0", "one-layer-smeared"), ("induction-2l", "induction-2l"),
     ("linseed 4", "linseed 4"), ("text-1l-seed0-pruned", "text-1l-seed0-pruned")],
)  # fmt: skip
def test_a_recipe_is_a_name_without_its_seed(model, recipe):
    assert judging.recipe_of(model) == recipe


def seeds(recipes, n=5, spread=0.01):
    """Means by recipe, each of `n` seeds around it."""
    return {
        f"{name}-seed{i}": Effect(mean + spread * (i - (n - 1) / 2), 0.001, 16)
        for name, mean in recipes.items()
        for i in range(n)
    }


def test_seeds_of_a_recipe_are_the_items_of_one_effect():
    means = {"a": 0.7, "b": 0.8, "c": 0.9}
    (found,) = judge(seeds(means), 0.5)["classes"].values()
    low, high = stats.t.interval(0.9, 2, 0.8, stats.sem(list(means.values())))
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.8, low, high), rel=1e-5)
    assert (found["models"], found["recipes"], found["outcome"]) == (15, 3, "holds")
    lone = judge(seeds(means) | {"d-seed0": Effect(0.8, 0.02, 16)}, 0.5)["classes"]["small models"]
    assert (lone["models"], lone["recipes"]) == (16, 4)


def test_one_recipe_alone_is_a_caveat_however_many_seeds_and_its_interval_is_over_these():
    effects = {f"seed {i}": Effect(value, 0.001, 16) for i, value in enumerate((0.7, 0.8, 0.9))}
    (found,) = judge(effects, 0.5)["classes"].values()
    low, high = stats.t.interval(0.9, 2, 0.8, stats.sem([0.7, 0.8, 0.9]))
    assert (found["low"], found["high"]) == pytest.approx((low, high), rel=1e-5)
    assert found["outcome"] == "holds with a caveat"
    assert found["caveat"] == "3 seeds of one recipe: nothing is said about others."
    (below,) = judge(seeds({"a": 0.2}), 0.5)["classes"].values()
    assert below["outcome"] == "does not hold here" and "5 seeds of one recipe, a:" in below["caveat"]


def test_seeds_are_no_surer_of_their_recipe_than_their_own_errors_allow():
    (found,) = judge({f"seed {i}": Effect(0.6, 0.2, 16) for i in range(5)}, 0.5)["classes"].values()
    assert found["high"] - 0.6 == pytest.approx(stats.t.ppf(0.95, 4) * 0.2 / math.sqrt(5), rel=1e-5)
    assert found["outcome"] == "not decided"


@pytest.mark.parametrize(("between", "within"), [(0.3, 0.05), (0.0, 0.3)])
def test_recipes_on_the_threshold_hold_once_in_twenty_where_their_seeds_taken_as_models_would_not(between, within):
    draw, n = np.random.default_rng(0), 1000
    held = {"-seed": 0, " number ": 0}  # the control: no names of seeds
    for _ in range(n):
        values = [(name, i, mean + within * draw.normal()) for name, mean in
                  zip("abcd", draw.normal(0.5, between, 4), strict=True) for i in range(5)]  # fmt: skip
        for named in held:
            effects = {f"{name}{named}{i}": Effect(value) for name, i, value in values}
            (found,) = judge(effects, 0.5)["classes"].values()
            held[named] += found["outcome"].startswith("holds") and "In each of these" not in found["caveat"]
    assert held["-seed"] / n < 0.05 + 3 * math.sqrt(0.05 * 0.95 / n)
    assert (held[" number "] / n > 0.15) == (between > within)


def test_seeds_vote_on_their_recipe_and_recipes_on_the_claim():
    one = votes({f"seed {i}": True for i in range(5)})["classes"]["small models"]
    assert one["outcome"] == "holds with a caveat" and one["unit"] == "of seeds pass" and one["low"] > 0.5
    three = votes({f"{kind}, seed {i}": True for kind in "abc" for i in range(5)})["classes"]["small models"]
    assert three["outcome"] == "holds with a caveat" and "In each of these 3, a, b, c" in three["caveat"]
    assert (three["models"], three["recipes"], three["unit"]) == (15, 3, "of recipes pass")
    six = {f"{kind}, seed {i}": True for kind in "abcdef" for i in range(5)}
    assert votes(six)["outcome"] == "holds"
    assert votes(six | {"a, seed 0": False})["outcome"] == "holds with a caveat"
    few = votes({f"{kind}, seed {i}": True for kind in "abc" for i in range(3)})
    assert few["outcome"] == "not decided"  # three recipes, of none of which its seeds can tell


def test_what_was_found_in_each_model_is_kept_and_judged_again_the_same(monkeypatch):
    effects = seeds({"a": 0.7, "b": 0.8}) | {"smollm2-135m": Effect(0.123456789, None, None)}
    found = judge(effects, 0.5, unit="nats", undecided={"smollm2-135m": "Too short."}, caveat="By eye.")
    kept = json.loads(json.dumps(found))["classes"]
    assert kept["language models"]["effects"] == {"smollm2-135m": {"value": 0.123457, "error": None, "items": None}}
    assert judging.again(kept) == {name: found[name] for name in ("outcome", "classes")}
    voted = votes({"seed 0": True, "seed 1": False}, caveat="By eye.")
    assert judging.again(json.loads(json.dumps(voted))["classes"])["classes"] == voted["classes"]
    monkeypatch.setattr(judging, "recipe_of", lambda model: model)
    changed = judging.again(kept)["classes"]["small models"]
    assert (changed["recipes"], changed["models"]) == (10, 10)
    del kept["small models"]["effects"]
    assert judging.again(kept) == judging.again({}) == {}


def test_a_caveat_stands_beside_whatever_comes_out():
    for mean, outcome in ((0.9, "holds with a caveat"), (0.1, "does not hold here")):
        effects = {f"kind {i}": Effect(mean + 0.01 * i) for i in range(5)}
        (found,) = judge(effects, 0.5, caveat="By eye.")["classes"].values()
        assert (found["outcome"], found["caveat"]) == (outcome, "By eye.")


def test_effects_far_from_the_threshold_are_seen_by_five_models():
    draw = np.random.default_rng(0)
    for true, expected in ((0.9, "holds"), (0.1, "does not")):
        found = 0
        for _ in range(200):
            effects = {f"kind {i}": judging.effect(draw.normal(true, 0.3, 16).tolist()) for i in range(5)}
            found += judge(effects, 0.5)["outcome"].startswith(expected)
        assert found > 190


@pytest.mark.parametrize(
    ("n", "passing", "expected"),
    [(1, 1, "not decided"), (4, 4, "not decided"), (5, 5, "holds"), (5, 0, "does not hold here"),
     (5, 4, "not decided"), (10, 9, "holds with a caveat"), (10, 8, "not decided")],
)  # fmt: skip
def test_votes_decide_where_they_leave_half_of_the_models_behind(n, passing, expected):
    found = votes({f"kind {i}": i < passing for i in range(n)})
    assert found["outcome"] == expected
    told = found["classes"]["small models"]
    low, high = stats.binomtest(passing, n).proportion_ci(0.9, method="exact")
    assert (told["low"], told["high"]) == pytest.approx((low, high))


def test_votes_of_a_coin_hold_once_in_twenty_at_most():
    for n in range(1, 16):
        chance = [stats.binom.pmf(k, n, 0.5) for k in range(n + 1)]
        held = [votes({f"kind {i}": i < k for i in range(n)})["outcome"].startswith("holds") for k in range(n + 1)]
        assert sum(p for p, ok in zip(chance, held, strict=True) if ok) <= 0.05


def test_what_is_true_by_construction_is_called_so_where_the_check_comes_out():
    assert judging.by_construction({"a": True})["outcome"] == "true by construction, checked"
    failed = judging.by_construction({"a": True, "b": False})
    assert failed["outcome"] == "does not hold here" and "failed for b" in failed["caveat"]


@pytest.mark.parametrize(
    ("passed", "expected", "caveat"),
    [
        ({}, "not tested", "No model here has what the claim is about."),
        ({"a": True}, "holds", ""),
        ({"a": True, "b": True, "c": False}, "holds with a caveat", "Fails for c."),
        ({"a": True, "b": False}, "does not hold here", "Fails for b."),
    ],
)
def test_parts_of_a_claim_in_one_model_are_named_where_they_fail(passed, expected, caveat):
    assert judging.outcome(passed) == {"outcome": expected, "caveat": caveat}


def test_what_is_undecided_of_one_model_leaves_the_other_class_decided():
    effects = {"repeats-seed0": Effect(1.0, 0.01, 20), "smollm2-135m": Effect(1.0, 0.01, 20)}
    found = judge(effects, 0.5, undecided={"repeats-seed0": "Its control failed."})
    outcomes = {kind: each["outcome"] for kind, each in found["classes"].items()}
    assert outcomes == {"small models": "not decided", "language models": "holds with a caveat"}
    everywhere = judge(effects, 0.5, undecided="Nobody knows.")
    assert everywhere["outcome"] == "not decided"


def test_one_model_of_a_class_makes_a_caveat_and_no_difference_between_classes():
    effects = {f"kind {i}": Effect(1.0 + i / 100, 0.01, 20) for i in range(5)}
    found = judge(effects | {"smollm2-135m": Effect(1.0, 0.01, 20)}, 0.5)
    assert found["outcome"] == "holds with a caveat"
    assert {each["outcome"] for each in found["classes"].values()} == {"holds", "holds with a caveat"}
    assert judge(effects | {"smollm2-135m": Effect(0.0, 0.01, 20)}, 0.5)["outcome"] == "differs by class of models"
