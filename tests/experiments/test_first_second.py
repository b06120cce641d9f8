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
