import pandas as pd
import pytest
from scripts import script, verdicts_of

from induction_lab import capture, load_model
from induction_lab.scores.kinds.match_length import MATCH_LENGTHS

match_length = script("claims.causes.match_length")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("match") / "figures"
    match_length.main(["--models", "induction-2l", "--seeds", "0", "--out", str(folder)])
    return folder


def test_the_table_is_the_attention_to_what_followed(folder):
    model, table = load_model(), pd.read_csv(folder / "match_length.csv")
    for score in (MATCH_LENGTHS[1], MATCH_LENGTHS[9]):
        prompts = score.own_prompts(model)
        pattern = capture(model, prompts, "pattern")["pattern", 1]
        looks = [pattern[row, :, q, k] for row, tokens in enumerate(prompts.tokens) for q, k in score.pairs(tokens)]
        found = table[table["layer"] == 1].sort_values("head")[score.name].to_list()
        assert found == pytest.approx((sum(looks) / len(looks)).tolist(), abs=1e-5)


def test_it_writes_a_table_verdicts_and_a_picture(folder):
    one, sooner = verdicts_of(folder / "match_length.json")
    assert one["beforehand"] and sooner["beforehand"] and (folder / "match_length.png").is_file()
    heads = pd.read_csv(folder / "match_length.csv").query("prefix_matching > 0.4")
    expected = (heads["match_1"] / heads["match_6"]).mean()
    assert one["classes"]["small models"]["value"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("first", "outcome"), [(0.9, "holds"), (0.1, "does not hold here")])
def test_one_token_is_enough_or_not(first, outcome):
    columns = {f"match_{m}{mode}": 0.95 for m in range(1, 7) for mode in ("", "_in_repeats")}
    rows = [
        {"model": model, "prefix_matching": 0.8 - 0.7 * bystander} | columns | {"match_1": first + 0.01 * i}
        for model in ("a", "b", "c")
        for bystander in (0, 1)
        for i in range(3)
    ]
    table = pd.DataFrame([*rows, rows[-1] | {"model": "d"}])
    verdict = match_length.one_is_enough(table)
    assert verdict.outcome == outcome and "not read" in verdict.numbers["d"]


def test_a_mistake_is_told(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        match_length.main(["--models", "no-such-model", "--seeds", "0", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2 and "no-such-model" in capsys.readouterr().err and not (tmp_path / "out").exists()
