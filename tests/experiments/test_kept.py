import pandas as pd
import pytest
import torch
from scripts import script, verdicts_of

kept = script("essay.kept")


def test_no_token_comes_twice_but_those_that_are_asked_for(bundled):
    plain, match = (kept.prompts(bundled, 40, match=each, seed=1) for each in (False, True))
    assert torch.equal(plain.drawn, match.drawn) and torch.equal(plain.tokens[:, :-3], match.tokens[:, :-3])
    assert all(len(row.unique()) == len(row) for row in plain.tokens)
    n = match.tokens.shape[1] - 3
    first = n - kept.PLACES + kept.AT
    assert torch.equal(match.tokens[:, n:], match.tokens[:, first : first + 3])
    assert all(len(row[:n].unique()) == n for row in match.tokens)


def test_what_is_there_is_decoded_and_what_is_not_is_not():
    y = torch.randint(8, (400,))
    centroids = torch.randn(8, 30)
    assert kept.decoded(centroids[y] + 0.1 * torch.randn(400, 30), y) > 0.99
    assert abs(kept.decoded(torch.randn(400, 30), y)) < 0.1
    far = torch.cat([centroids[y], 1e4 * torch.randn(400, 1)], 1)  # one coordinate is large for every token
    assert kept.decoded(far + 0.1 * torch.randn(400, 31), y) > 0.95


def test_before_the_first_layer_nothing_is_kept_and_then_induction_heads_bring_what_followed(bundled):
    rows = [row for match in (False, True) for row in kept.measured(bundled, 200, match=match, seed=0)]
    table = pd.DataFrame(rows)
    assert table[(table["layer"] == 0) & ~table["match"]]["decoded"].abs().max() < 0.15
    target = table[table["place"] == kept.AT + kept.ASKED].set_index(["match", "layer"])["decoded"]
    assert target[True, 2] - target[False, 2] > 0.5
    assert table["distance"].min() == 3 and table["distance"].max() == 26


@pytest.mark.parametrize(
    ("keeps", "more", "outcomes"),
    [(0.2, 0.6, ["not decided", "holds with a caveat"]), (0.8, 0.1, ["does not hold here"] * 2)],
)
def test_verdicts_can_come_out_either_way(keeps, more, outcomes):
    table = pd.DataFrame(
        [
            {"model": "gemma3", "set": s, "match": match, "layer": layer, "place": place, "distance": 26 - place}
            | {"decoded": layer * keeps + 0.01 * s + more * match * layer * (place == kept.AT + kept.ASKED)}
            for s in range(4)
            for match in (False, True)
            for layer in (0, 1)
            for place in range(kept.PLACES)
        ]
    )
    assert [kept.little(table).outcome, kept.asked_for(table).outcome] == outcomes


def test_it_writes_a_table_verdicts_and_a_picture(tmp_path):
    kept.main(["--models", "induction-2l", "--prompts", "32", "--out", str(tmp_path)])
    assert len(verdicts_of(tmp_path / "kept.json")) == 2 and (tmp_path / "kept.png").is_file()


@pytest.mark.parametrize(
    ("given", "message"), [(["--models", "nothing"], "nothing"), (["--prompts", "8"], "--prompts")]
)
def test_a_mistake_is_told(given, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        kept.main(["--models", "induction-2l", "--out", str(tmp_path / "out"), *given])
    assert stopped.value.code == 2 and message in capsys.readouterr().err and not (tmp_path / "out").exists()
