from pathlib import Path

import pandas as pd
import pytest
from scripts import script

before_after = script("benchmarks.before_after")
profiles = script("benchmarks.profiles")
HERE = Path(__file__).parents[2]
JOB = "explain, bundled model"


def test_both_checkouts_do_the_jobs_in_pairs(tmp_path, capsys):
    out = tmp_path / "before_after.csv"
    before_after.main(["--before", str(HERE), "--job", JOB, "--rounds", "2", "--out", str(out)])
    row = pd.read_csv(out).iloc[0]
    assert row["job"] == JOB and row["rounds"] == 2
    assert 0 < row["lowest"] <= row["ratio"] <= row["highest"] and row["seconds_before"] > 0
    assert row["mb_before"] >= 1 and 0.5 < row["mb_ratio"] < 2  # of one library with itself
    assert str(out) in capsys.readouterr().out


def test_each_process_has_the_library_of_its_checkout(tmp_path):
    package = tmp_path / "induction_lab"
    package.mkdir()
    (package / "__init__.py").write_text("def load_model(name):\n    raise SystemExit('of another checkout')\n")
    with before_after.Worker(tmp_path) as worker:
        with pytest.raises(SystemExit, match=rf"{JOB} failed with the library in {tmp_path}"):
            worker.does(JOB)
    assert worker.process.returncode is not None  # nothing is left running


def test_what_is_no_checkout_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="is no checkout of this library: git worktree add"):
        before_after.main(["--before", str(tmp_path)])


def test_profiles_of_both_checkouts_are_shares_of_the_time(tmp_path):
    out = tmp_path / "profiles.csv"
    profiles.main(["--before", str(HERE), "--job", JOB, "--out", str(out)])
    table = pd.read_csv(out)
    assert table["library"].tolist() == ["before", "now"] and set(table["command"]) == {JOB}
    shares = table[["products", "attention", "all_others", "outside"]]
    assert ((shares >= 0) & (shares <= 1)).all(axis=None) and (abs(shares.sum(axis=1) - 1) < 0.05).all()
    assert (table["its_share"] <= table["all_others"]).all()
