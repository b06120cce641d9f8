import tomllib

import pandas as pd
from scripts import EXPERIMENTS, script

from induction_lab.training import many_runs


def test_the_sweep_over_checkpoints_writes_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(many_runs, "cores", lambda: 1)
    arguments = ["--seeds", "2", "--steps", "20", "--out", str(tmp_path / "figures")]
    script("showcase.sweep_minute").main(
        [*arguments, "--runs", str(tmp_path / "runs"), "--data", str(tmp_path / "data")]
    )
    formed = pd.read_csv(tmp_path / "figures" / "sweep_minute.csv")
    assert formed["model"].tolist() == ["minute-20-seed0", "minute-20-seed1"] and formed["formed"].tolist() == [0, 0]
    assert (tmp_path / "figures" / "sweep_minute.png").read_bytes()[:4] == b"\x89PNG"
    assert "cells" in capsys.readouterr().out


def test_the_plan_is_that_of_three_seeds():
    plan = tomllib.loads((EXPERIMENTS / "showcase" / "sweep_minute.toml").read_text())
    assert [name.removeprefix("runs/") for name in plan["models"]] == [f"minute-400-seed{seed}" for seed in range(3)]
