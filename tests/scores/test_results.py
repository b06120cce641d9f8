import json
import os

import numpy as np
import pandas as pd
import pytest
import torch

from induction_lab import Head, HeadScores
from induction_lab.results.tables import writing


@pytest.fixture
def scores():
    value = torch.tensor([[0.1, 0.9, 0.3], [0.7, 0.2, 0.5]])
    return HeadScores(
        model="a model",
        values={"prefix_matching": value, "ov_copying": -value},
        standard_errors={"prefix_matching": value / 10, "ov_copying": torch.zeros(2, 3)},
        uniform={"prefix_matching": 0.03, "ov_copying": 0.0},
        p_values={"prefix_matching": value / 100},
        q_values={"prefix_matching": torch.tensor([[0.5, 0.01, 0.2], [0.04, 0.3, 0.06]])},
        loss_by_copy=[5.0, 0.5],
        loss=[5.0, 5.0, 0.5],
        provenance={"prompts": {"period": 2, "gap": 0, "seed": 1}, "versions": {"torch": "2"}},
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
def test_what_is_saved_comes_back_whole(scores, tmp_path, suffix):
    path = scores.save(tmp_path / "new folder" / f"scores{suffix}")
    again = HeadScores.load(path)
    assert again.model == scores.model and again.scores == scores.scores
    for name in scores.scores:
        torch.testing.assert_close(again[name], scores[name])
        torch.testing.assert_close(again.standard_errors[name], scores.standard_errors[name])
    torch.testing.assert_close(again.q_values["prefix_matching"], scores.q_values["prefix_matching"])
    assert set(again.p_values) == {"prefix_matching"} and again.uniform == scores.uniform
    assert (again.loss, again.loss_by_copy, again.provenance) == (scores.loss, scores.loss_by_copy, scores.provenance)


def test_saved_tables_open_in_what_people_use(scores, tmp_path):
    frames = [
        pd.read_parquet(scores.save(tmp_path / "s.parquet")),
        pd.read_csv(scores.save(tmp_path / "s.csv")),
        pd.DataFrame(json.loads(scores.save(tmp_path / "s.json").read_text())["rows"]),
    ]
    for frame in frames:
        assert len(frame) == 2 * 6
        row = frame[(frame.label == "L1H0") & (frame.score == "prefix_matching")].iloc[0]
        assert row.value == pytest.approx(0.7) and row.q_value == pytest.approx(0.04) and row.uniform == 0.03


def test_scores_without_an_error_stay_without_one(scores, tmp_path):
    scores.standard_errors["prefix_matching"][:] = torch.nan
    for suffix in (".csv", ".json", ".parquet"):
        again = HeadScores.load(scores.save(tmp_path / f"s{suffix}"))
        assert again.standard_errors["prefix_matching"].isnan().all()


def test_a_plain_table_of_somebody_else_is_read(tmp_path):
    pd.DataFrame(
        {"model": "x", "layer": [0, 0], "head": [0, 1], "score": "prefix_matching", "value": [0.2, 0.4]}
    ).to_csv(tmp_path / "theirs.csv", index=False)
    again = HeadScores.load(tmp_path / "theirs.csv")
    assert again.top("prefix_matching", 1) == [(Head(0, 1), pytest.approx(0.4))]
    assert np.isnan(again.uniform["prefix_matching"])


def test_top_above_of_and_significant_name_the_heads(scores):
    assert [str(head) for head, _ in scores.top("prefix_matching", 2)] == ["L0H1", "L1H0"]
    assert scores.above("prefix_matching", 0.4) == [Head(0, 1), Head(1, 0), Head(1, 2)]
    assert scores.significant("prefix_matching") == [Head(0, 1), Head(1, 0)]
    scores.uniform["prefix_matching"] = 0.8  # different from the null is not enough
    assert scores.significant("prefix_matching") == [Head(0, 1)]
    assert scores.of("L1H0") == {"prefix_matching": pytest.approx(0.7), "ov_copying": pytest.approx(-0.7)}
    assert len(scores.top("prefix_matching", 100)) == 6


def test_scores_show_themselves_in_one_line(scores):
    assert repr(scores) == "HeadScores('a model', 2 layers x 3 heads: prefix_matching, ov_copying)"


def test_unknown_scores_heads_and_tests_are_refused(scores):
    with pytest.raises(ValueError, match="there are prefix_matching, ov_copying"):
        scores["copying"]
    with pytest.raises(ValueError, match="layers 0 to 1"):
        scores.of("2.0")
    with pytest.raises(ValueError, match="chance_test=True"):
        scores.significant("ov_copying")


@pytest.mark.parametrize("name", ["scores.xlsx", "scores"])
def test_other_suffixes_are_refused_before_anything_is_written(scores, tmp_path, name):
    with pytest.raises(ValueError, match=".parquet, .csv, .json"):
        scores.save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"a,b\n1,2\n", b"\x00\x01"])
def test_damaged_files_are_one_clear_error(tmp_path, suffix, content):
    path = tmp_path / f"s{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no readable head scores"):
        HeadScores.load(path)
    with pytest.raises(ValueError, match="There is no file"):
        HeadScores.load(tmp_path / f"other{suffix}")


def test_an_error_while_writing_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), writing(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["file.csv"]


def test_a_folder_that_cannot_be_made_is_one_clear_error(scores, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        scores.save(tmp_path / "file" / "scores.csv")


def test_written_files_have_ordinary_permissions(tmp_path):
    with writing(tmp_path / "file.txt") as part:
        part.write_text("x")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "file.txt").stat().st_mode & 0o777 == 0o666 & ~mask
