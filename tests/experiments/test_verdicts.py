import json

import pytest
from scripts import script


@pytest.fixture(scope="module")
def module():
    return script("verdicts")


def verdict(module, **changes):
    given = {
        "claim": "It rains", "source": "a proverb", "criterion": "drops > 3", "numbers": {"today": "5 drops"},
        "control": "a roof: 0", "outcome": "holds",
    }  # fmt: skip
    return module.Verdict(**given | changes)


def page_of(module, folder, name="weather"):
    return module.pages(folder)[f"pages/{name}.md"]


def test_an_outcome_is_one_of_the_kinds_there_are(module, tmp_path):
    with pytest.raises(ValueError, match="An outcome is one of"):
        module.save_verdicts([verdict(module, outcome="maybe")], tmp_path / "weather.json")
    judged = script("judging").votes({"a": True})
    judged["classes"]["small models"]["outcome"] = "maybe"
    with pytest.raises(ValueError, match="An outcome is one of"):
        module.save_verdicts([verdict(module, **judged)], tmp_path / "weather.json")
    judged = script("judging").votes({"a": True}) | {"outcome": "holds"}
    with pytest.raises(ValueError, match="what the classes have in common"):
        module.save_verdicts([verdict(module, **judged)], tmp_path / "weather.json")


def test_a_criterion_is_called_fixed_beforehand_only_where_that_is_claimed(module, tmp_path):
    claims = [verdict(module), verdict(module, claim="It snows", beforehand=True, would_change="sun")]
    module.save_verdicts(claims, tmp_path / "weather.json")
    rain, snow = page_of(module, tmp_path).split("## 2. It snows")
    assert "Criterion (not fixed beforehand: it and the numbers came together): drops > 3" in rain
    assert "Criterion (fixed beforehand): drops > 3" in snow and "What would have changed it: sun" in snow


def test_files_from_before_there_were_classes_are_rendered_without_a_claim_to_have_been_fixed(module, tmp_path):
    fields = ("claim", "source", "criterion", "numbers", "control", "outcome", "caveat", "measured")
    old = {name: value for name, value in verdict(module)._asdict().items() if name in fields}
    (tmp_path / "weather.json").write_text(json.dumps([old]))
    page = page_of(module, tmp_path)
    assert "Criterion (not fixed beforehand" in page and "Verdict: **✓ holds**" in page


def test_each_class_of_models_has_its_own_line_with_its_interval(module, tmp_path):
    judging = script("judging")
    effects = {"smollm2-135m": judging.Effect(0.9, 0.02, 16)}
    effects |= {f"kind {seed}": judging.Effect(value) for seed, value in enumerate((0.1, 0.11, 0.12))}
    one = verdict(module, **judging.judge(effects, 0.5, unit="of the fall"))
    assert one.outcome == "differs by class of models"
    module.save_verdicts([one], tmp_path / "weather.json")
    page = page_of(module, tmp_path)
    assert "Verdict: **small models: ✗ does not hold**; **language models: (✓) with a caveat**" in page
    assert "**Small models: does not hold here.** (0.11 of the fall, 90 % interval [0.0931, 0.127], 3 models" in page
    assert "**Language models: holds with a caveat.** One model, smollm2-135m" in page
    assert "What would have changed it: an interval below 0.5 of the fall" in page
    overview = module.pages(tmp_path)["README.md"]
    assert "small: 0.11 of the fall [0.0931, 0.127]; > 0.5<br>language: 0.9 of the fall" in overview


def test_files_are_judged_again_where_they_keep_what_was_found_and_the_rule_has_changed(module, tmp_path):
    judging = script("judging")
    effects = {f"seed {seed}": judging.Effect(value) for seed, value in enumerate((0.8, 0.81, 0.82))}
    module.save_verdicts([verdict(module, **judging.judge(effects, 0.5))], tmp_path / "weather.json")
    module.save_verdicts([verdict(module)], tmp_path / "old.json")
    (tmp_path / "facts.json").write_text("{}")
    assert module.judge_again(tmp_path) == []
    page = page_of(module, tmp_path)
    assert "3 seeds of one recipe; above 0.5 is wanted" in page and "nothing is said about others" in page
    text = (tmp_path / "weather.json").read_text()
    (tmp_path / "weather.json").write_text(text.replace("holds with a caveat", "holds"))  # as another rule had it
    assert [path.stem for path in module.judge_again(tmp_path)] == ["weather"]
    assert (tmp_path / "weather.json").read_text() == text


def test_verdicts_that_are_committed_are_what_today_s_rule_gives(module, tmp_path):
    for path in module.FIGURES.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    assert module.judge_again(tmp_path) == [], "run `python -m experiments verdicts`"
