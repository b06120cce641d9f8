import math
import re

import pandas as pd
import pytest
import sweeping
from killing import RECIPE

from induction_lab import formation, induction_counts, load_sweep, sweep, write_atlas
from induction_lab.sweeps.summaries import head_map, last_snapshots
from induction_lab.training.one_run import train_run

TOML = """
models = ["induction-2l"]
seeds = [0, 1]
device = "cpu"
measurements = ["losses", "circuit"]
[prompts.short]
period = 6
n_prompts = 2
[prompts.words]
kind = "text"
file = "words.txt"
"""
NAME = "<script>alert(1)</script>"


@pytest.fixture
def lab(tmp_path, command):
    """The command in a folder with a plan."""
    (tmp_path / "my.toml").write_text(TOML)
    (tmp_path / "words.txt").write_text("one two")
    return command


def head_frame(rows) -> pd.DataFrame:
    columns = ["model", "step", "seed", "layer", "head", "value"]
    rest = {"cell": "x", "revision": "", "prompts": "short", "metric": "prefix_matching", "n_layers": 2, "n_heads": 2}
    frame = pd.DataFrame(rows, columns=columns).assign(**rest, n_parameters=100)
    return frame.astype({"step": "Int64"})


def test_a_dry_run_lists_cells_and_writes_nothing(lab, tmp_path):
    code, out, _ = lab("sweep", "my.toml", "--dry-run")
    assert code == 0 and "0 of" not in out and not (tmp_path / "results").exists()
    assert re.search(r"^induction-2l +1 +circuit +2 +0 +\d\.\d+ s +0\.7 GB$", out, re.MULTILINE)
    assert "6 of 6 cells to measure, about" in out and "left out: circuit on words: it wants repeated tokens" in out
    code, out, _ = lab("sweep", "my.toml", "--dry-run", "--cells")
    lines = re.findall(r"^induction-2l +(\w+) +(\w+) +(\d) +no +\d\.\d+ s +0\.7 GB$", out, re.MULTILINE)
    assert code == 0 and len(set(lines)) == 6 and ("losses", "words", "1") in lines
    assert lab("sweep", "my.toml", "--cells")[0] == 2


def test_a_sweep_says_what_it_did_and_exits_with_1_where_cells_failed(lab, tmp_path):
    code, out, err = lab("sweep", "my.toml")  # the bundled model has no tokenizer
    assert code == 1 and "6 cells: 4 measured, 0 were there, 2 failed" in out and err.strip() == ""
    assert (
        "failed: induction-2l: losses on words, seed 0 and 1 more: induction-2l has no tokenizer and cannot read text"
        in out
    )
    (tmp_path / "my.toml").write_text(TOML[: TOML.index("[prompts.words]")])
    code, out, _ = lab("sweep", "my.toml")
    assert code == 0 and "4 cells: 0 measured, 4 were there, 0 failed" in out and "results/my" in out
    code, out, _ = lab("sweep", "my.toml", "--no-resume", "-o", "results/my")
    assert code == 0 and "4 cells: 4 measured, 0 were there" in out


def test_an_interrupted_sweep_says_how_to_go_on(lab, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("induction_lab.sweeps.sweeping.sweep", interrupted)
    code, _, err = lab("sweep", "my.toml")
    assert code == 130 and "finished cells are kept in results/my; the same command goes on" in err


MISTAKES = {
    "no file": (["sweep", "none.toml"], "none.toml is no readable sweep"),
    "no TOML": (["sweep", "words.txt"], "words.txt is no readable sweep"),
    "unknown executor": (["sweep", "my.toml", "--executor", "slurm"], "is not one of 'local', 'pool', 'ray'"),
    "workers of one process": (["sweep", "my.toml", "--workers", "2"], "goes with pool and ray"),
    "no cluster": (["sweep", "my.toml", "--executor", "ray", "--address", "127.0.0.1:1"], "There is no Ray cluster"),
    "output is a file": (["sweep", "my.toml", "-o", "words.txt"], "cannot be written"),
    "no dataset": (["atlas", "nowhere"], "holds no cells of a sweep"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_message_and_exit_code_2(lab, tmp_path, mistake):
    arguments, message = MISTAKES[mistake]
    code, out, err = lab(*arguments)
    assert code == 2 and message in err and "Traceback" not in err and "written" not in out
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("name", ["sweep", "atlas"])
def test_help_shows_examples(lab, name):
    code, out, _ = lab(name, "--help")
    assert code == 0 and "Example" in out and f"induction-lab {name}" in out


def test_the_atlas_of_a_run_is_one_page_in_which_names_are_text(lab, tmp_path):
    pytest.importorskip("plotly", reason="Plotly is not here: pip install 'induction-lab[report]'")
    run = train_run(RECIPE, tmp_path / "run", device="cpu")
    models = [{"name": str(run.folder), "label": NAME, "steps": [0, 5]}, "induction-2l"]
    measurements = {"head_scores": {"scores": ["prefix_matching"]}}
    sweep({**sweeping.plan(models=models, seeds=2), "measurements": measurements}, "all")
    assert set(load_sweep("all")["model"]) == {NAME, "induction-2l"}
    code, out, _ = lab("atlas", "all", "-o", "atlas.html", "--threshold", "0.01")
    page = (tmp_path / "atlas.html").read_text()
    assert code == 0 and "atlas.html" in out and "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert page.count("<h2>") == 6 and "Over training" in page and "https://cdn" not in page.split("<h2>Against")[1]
    assert lab("atlas", "all", "--score", "copying")[0] == 2
    with pytest.raises(ValueError, match="The atlas is a page"):
        write_atlas(load_sweep("all"), "atlas.png")


def test_counts_and_formation_are_those_of_a_table_made_by_hand():
    rows = []
    for seed, onset in ((0, 20), (1, 30)):
        for step in (0, 10, 20, 30):
            rows += [("grows", step, seed, 0, 0, 0.1), ("grows", step, seed, 1, 0, 0.9 if step >= onset else 0.2)]
    rows += [("never", step, 0, 0, 0, 0.1) for step in (0, 10)] + [("alone", None, 0, 1, 1, 0.5)]
    frame = head_frame(rows)
    formed = formation(frame).set_index("model")
    assert list(formed.index) == ["grows", "never"]  # the other was seen once
    grows = formed.loc["grows"]
    assert (grows["seen"], grows["formed"], grows["step"], grows["lowest"], grows["highest"]) == (2, 2, 25, 20, 30)
    assert grows["standard_error"] == pytest.approx(5) and formed.loc["never", "formed"] == 0
    assert grows["after"] == 10 and math.isnan(formed.loc["never", "after"])
    counts = induction_counts(frame)
    at = counts[(counts["model"] == "grows") & (counts["step"] == 20)].iloc[0]
    assert (at["count"], at["lowest"], at["highest"], at["best"]) == (0.5, 0, 1, pytest.approx(0.55))
    assert counts[counts["model"] == "alone"]["count"].item() == 1
    heads = head_map(frame)
    assert len(heads) == 4 and heads[heads["model"] == "alone"]["depth"].item() == 1
    assert heads[(heads["model"] == "grows") & (heads["layer"] == 1)]["value"].item() == pytest.approx(0.9)
    with pytest.raises(ValueError, match="There is no score 'x' of heads in this sweep; there are prefix_matching"):
        formation(frame, "x")


def test_the_last_snapshot_is_the_greatest_step_else_the_last_revision():
    """Never a mean over snapshots, nor a revision without a step beside those with one."""
    frame = pd.concat(
        [
            head_frame([("steps", 0, 0, 1, 1, 0.1), ("steps", 143_000, 0, 1, 1, 0.9), ("steps", None, 0, 1, 1, 0.0)]),
            head_frame([("named", None, 0, 1, 1, 0.2)]).assign(revision="main"),
            head_frame([("named", None, 0, 1, 1, 0.7)]).assign(revision="v1"),
        ]
    )
    for table in (frame, frame.assign(step=frame["step"].astype("Int64"))):
        maps = head_map(table).set_index("model")["value"]
        assert maps.to_dict() == {"steps": 0.9, "named": 0.7}
        best = last_snapshots(induction_counts(table)).set_index("model")["best"]
        assert best.to_dict() == {"steps": 0.9, "named": 0.7}


def test_an_atlas_says_what_failed_and_where_nothing_formed(lab, tmp_path):
    pytest.importorskip("plotly", reason="Plotly is not here: pip install 'induction-lab[report]'")
    run = train_run(RECIPE, tmp_path / "run", device="cpu")
    models = [{"name": str(run.folder), "label": "ours", "steps": [0, 5]}, {"name": "induction-2l", "label": "other"}]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    measurements = {"head_scores": {"scores": ["prefix_matching"]}}
    done = sweep({**sweeping.plan(models=[*models, "broken"], seeds=1), "measurements": measurements}, "all")
    assert len(done.failed) == 1
    code, _, err = lab("atlas", "all", "-o", "atlas.html", "--threshold", "0.999")
    page = (tmp_path / "atlas.html").read_text()
    assert code == 0 and "1 cell failed and are not drawn" in err and "width=device-width" in page
    assert "Never reached by ours." in page and "3 cells of 2 models" in page
    assert lab("atlas", "all", "--threshold", "nan")[0] == 2


def test_a_dry_run_names_models_that_are_not_here(lab, tmp_path):
    (tmp_path / "my.toml").write_text(TOML.replace("induction-2l", "runs/mistyped"))
    code, out, _ = lab("sweep", "my.toml", "--dry-run")
    assert code == 0 and "runs/mistyped is no file or folder here: it is taken as an id on the Hugging Face hub" in out
