"""Texts of a user's own on the command line: as a file or as they are."""

from pathlib import Path

import pytest
import torch
from worded import SAID, worded_folder

from induction_lab import HeadScores, load_model, score_heads

FOX = SAID[0]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "fox.txt").write_text(FOX)
    return worded_folder(tmp_path / "fox.txt", tmp_path / "model")


@pytest.mark.parametrize("given", ["fox.txt", FOX], ids=["file", "words"])
def test_a_text_is_a_file_or_the_words_themselves(command, folder, given):
    code, _, err = command(
        "score", str(folder), "--text", given, "--scores", "previous_token", "--no-figures", "--out", "o"
    )
    assert code == 0, err
    (table,) = Path("o").glob("*.csv")
    assert table.stem == f"model_{'fox' if given == 'fox.txt' else 'text'}"
    wanted = score_heads(load_model(folder), FOX, scores=["previous_token"])["previous_token"]
    torch.testing.assert_close(HeadScores.load(table)["previous_token"], wanted, atol=1e-6, rtol=1e-6)
    code, _, err = command("activity", str(folder), "--text", given, "--heads", "L1H2", "--out", "o")
    assert code == 0, err


@pytest.mark.parametrize("name", ["score", "activity", "report", "follow"])
@pytest.mark.parametrize(
    ("given", "said"),
    [("none.txt", "none.txt cannot be read"), (" ", "A text is wanted, this one is empty"), (".", "cannot be read")],
)
def test_what_is_no_text_is_one_message_before_a_model_is_looked_for(command, name, given, said):
    code, _, err = command(name, "./no-model", "--text", given)
    assert code == 2 and said in err
