"""Seconds of a fresh process are shared out among what it imports and its work; and checkouts compared in pairs."""

import pandas as pd
import pytest

from experiments.benchmarks import first_second
from experiments.harness import ROOT


def test_seconds_are_shared_out_and_each_library_is_charged_with_its_own(tmp_path):
    light = first_second.measure("models", ROOT, tmp_path)
    assert all(light[name] == 0 for name in first_second.LIBRARIES) and 0 < light["rest"] <= light["seconds"] + 0.02
    heavy = first_second.measure(first_second.LIBRARY_CALL, ROOT, tmp_path)
    assert heavy["torch"] > 0.2 and heavy["transformers"] == heavy["transformer_lens"] == heavy["pandas"] == 0
    assert sum(heavy[name] for name in (*first_second.LIBRARIES, "rest")) <= heavy["seconds"] + 0.02


def test_a_command_that_fails_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(first_second.COMMANDS, "nothing", "raise RuntimeError('nothing here')")
    with pytest.raises(ValueError, match="nothing here"):
        first_second.measure("nothing", ROOT, tmp_path)


def test_ratios_are_those_of_pairs():
    pairs = [[1.0, 2.0], [3.0, 4.0], [1.0, 10.0]]
    assert first_second.ratio("score", pairs) == {
        "command": "score", "before": 4.0, "now": 1.0, "ratio": 0.5, "lowest": 0.1, "highest": 0.75,
    }  # fmt: skip
    found = [{"seconds": x, "rest": 0.25} | dict.fromkeys(first_second.LIBRARIES, 0.0) for x in (1.0, 3.0, 2.0)]
    row = first_second.row("score", found)
    assert (row["seconds"], row["lowest"], row["highest"], row["rest"], row["work"]) == (2.0, 1.0, 3.0, 0.25, 1.75)


def test_the_tables_name_every_command_that_is_measured():
    for name in ("first_second.csv", "first_second_ratio.csv"):
        table = pd.read_csv(first_second.HERE / name)
        assert list(table["command"]) == list(first_second.COMMANDS)
    cold = pd.read_csv(first_second.HERE / "first_second_cold.csv")
    assert {first_second.LIBRARY_CALL, "score", "report"} <= set(cold["command"]) <= set(first_second.COMMANDS)


def test_cold_processes_are_timed_by_the_clock_in_alternating_order(tmp_path, monkeypatch):
    forgotten, run = [], []
    monkeypatch.setattr(first_second, "forget", forgotten.append)
    found = {"seconds": 1.0, "by the clock": 3.0, "rest": 0.25} | dict.fromkeys(first_second.LIBRARIES, 0.0)
    monkeypatch.setattr(first_second, "measure", lambda *given: run.append(given[1]) or found)
    arguments = ["--command", "models", "--cold", "--rounds", "3", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        first_second.main(arguments)
    first_second.main([*arguments, "--against", str(tmp_path)])
    assert run == [ROOT, tmp_path, tmp_path, ROOT, ROOT, tmp_path] and len(forgotten) == 3 * len(run)
    table = pd.read_csv(tmp_path / "first_second_cold.csv")
    assert table[["before", "now", "ratio"]].to_numpy().tolist() == [[3.0, 3.0, 1.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["first_second_cold.csv"]


def test_what_is_forgotten_is_still_there(tmp_path):
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_text("text")
    first_second.forget(tmp_path)
    assert (tmp_path / "below" / "file").read_text() == "text"
