import json
import re

import pandas as pd
import pytest
from families import random_network
from hub import publishes

from induction_lab import Trajectory, rise
from induction_lab.cli.terminal import _when
from induction_lab.training.runs import Run

RECIPE = """# Very small.
[model]
n_layers = 2
n_heads = 2
d_model = 16
d_head = 8
n_ctx = 32
[data]
kind = "tiled"
d_vocab = 32
shortest = 3
longest = 8
[training]
steps = 6
batch = 4
warm_up = 2
every = 3
"""


@pytest.fixture
def lab(tmp_path, command):
    """The command in a folder with a recipe."""
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return command


@pytest.mark.parametrize("arguments", [["train"], ["train", "--list"]])
def test_the_ready_recipes_are_listed_with_what_they_say_of_themselves(lab, arguments):
    code, out, _ = lab(*arguments)
    assert code == 0 and re.search(r"^minute +Two attention layers learn", out, re.MULTILINE) and "text-2l" in out


def test_a_run_is_trained_and_followed_and_both_say_what_came_of_it(lab, tmp_path):
    code, out, err = lab("train", "tiny.toml", "--plot", "--device", "cpu")
    assert code == 0 and err.strip() == ""
    assert re.search(r"^tiny +6 +\d\.\d{3} +[\d,]+$", out, re.MULTILINE)
    assert "induction-lab follow runs/tiny" in out
    assert Run("runs/tiny").finished and (tmp_path / "runs/tiny/loss.png").is_file()

    code, out, _ = lab("follow", "runs/tiny", "--texts", "8")
    assert code == 0 and "tiny, 5 checkpoints" in out and "prefix_matching did not rise" in out
    assert re.search(r"^ +6 +\d\.\d{3} +-?\d\.\d{3} +L\dH\d 0\.\d\d +L\dH\d 0\.\d\d$", out, re.MULTILINE)
    kept = tmp_path / "results" / "tiny_training.parquet"
    assert Trajectory.load(kept).steps == [0, 1, 2, 3, 6]
    assert (tmp_path / "results/tiny_training.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "results/tiny_prefix_matching.gif").read_bytes()[:3] == b"GIF"
    before = kept.stat().st_mtime_ns
    assert lab("follow", "runs/tiny", "--texts", "8", "--no-animation")[0] == 0
    assert kept.stat().st_mtime_ns == before  # nothing was measured again
    code, _, err = lab("follow", "runs/tiny", "--texts", "9")
    assert code == 2 and "was made with other texts" in err


def test_seeds_make_runs_of_their_own_that_are_followed_together(lab, tmp_path):
    code, out, _ = lab("train", "tiny.toml", "--seeds", "2", "--steps", "4", "--workers", "1", "--device", "cpu")
    assert code == 0 and "tiny-4-seed1" in out
    runs = [f"runs/tiny-4-seed{seed}" for seed in (0, 1)]
    assert [Run(run).recipe.seed for run in runs] == [0, 1]
    code, out, _ = lab(
        "follow", *runs, "--texts", "8", "--no-probes", "--no-animation", "--score", "copying", "--steps", "0,4"
    )
    assert code == 0 and out.count("2 checkpoints") == 2 and "copying" in out
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == [f"tiny-4-seed{seed}_training.{kind}" for seed in (0, 1) for kind in ("parquet", "png")]
    assert "key_memory" not in Trajectory.load(tmp_path / "results" / names[0]).metrics


MISTAKES = {
    "unknown recipe": (["train", "hour"], "There is no recipe 'hour'"),
    "no seeds": (["train", "tiny.toml", "--seeds", "0"], "At least one seed"),
    "no steps": (["train", "tiny.toml", "--steps", "0"], "`steps` must be at least 1"),
    "workers of one run": (["train", "tiny.toml", "--workers", "2"], "--workers goes with --seeds"),
    "plot of several": (["train", "tiny.toml", "--seeds", "2", "--plot"], "--plot goes with one run"),
    "unknown device": (["train", "tiny.toml", "--device", "tpu"], "There is no device 'tpu'"),
    "output is a file": (["train", "tiny.toml", "--out", "tiny.toml"], "cannot be written"),
    "no run": (["follow", "runs/none"], "runs/none is no training run"),
    "a folder that is no run": (["follow", "."], "is no training run: it has no recipe.toml, nor folders of"),
    "a path that is none": (["follow", "/no/such/folder"], "There is no file or folder /no/such/folder"),
    "a model alone": (["follow", "smollm2-135m", "--steps", "1"], "smollm2-135m is one model"),
    "unknown score": (["follow", "runs/none", "--score", "prefix"], "there are prefix_matching"),
    "a probe without probes": (["follow", "x", "--score", "key_memory", "--no-probes"], "There is no score"),
    "steps that are none": (["follow", "runs/none", "--steps", "0,x"], "--steps wants whole numbers"),
    "one text": (["follow", "runs/none", "--texts", "1"], "--texts must be at least 2"),
    "a hub without network": (["follow", "no/such-model", "--steps", "0,1"], "nor could it be fetched"),
    "nothing to follow": (["follow"], "Which run? Train one: induction-lab train minute"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_message_and_exit_code_2(lab, tmp_path, mistake):
    arguments, message = MISTAKES[mistake]
    code, out, err = lab(*arguments)
    assert code == 2 and message in err and "Traceback" not in err and "written" not in out
    assert not list(tmp_path.rglob("*.parquet"))


def test_checkpoints_are_kept_as_often_as_is_asked_in_a_run_of_its_own(lab):
    assert lab("train", "tiny.toml", "--every", "2", "--device", "cpu")[0] == 0
    assert Run("runs/tiny-every2").steps == [0, 1, 2, 4, 6] and Run("runs/tiny-every2").recipe.training.every == 2
    assert lab("train", "tiny.toml", "--seeds", "2", "--steps", "4", "--every", "4", "--device", "cpu")[0] == 0
    assert Run("runs/tiny-4-every4-seed1").steps == [0, 1, 2, 4]
    code, _, err = lab("train", "tiny.toml", "--every", "0")
    assert code == 2 and "`every` must be at least 1, got 0" in err


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0, 0.1, 0.6, 0.9], "; 0.4 was first reached between steps 10 and 20."),
        ([0.45, 0.1, 0.6, 0.9], "; 0.4 was first reached at step 0."),
        ([0.0, 0.1, 0.2, 0.35], "0.35 at most."),
    ],
)
def test_between_which_checkpoints_a_head_appears_is_said(values, said):
    rows = [("r", 10 * i, "prefix_matching", "repeated", 0, 0, 0, value) for i, value in enumerate(values)]
    columns = ["run", "step", "metric", "prompts", "layer", "head", "index", "value"]
    table = pd.DataFrame(rows, columns=columns).assign(standard_error=0.0)
    trajectory = Trajectory(table)
    best = trajectory.best("prefix_matching")
    assert _when(trajectory, "prefix_matching", best, rise(best)).endswith(said)


def test_a_run_named_twice_is_refused(lab):
    assert lab("train", "tiny.toml", "--steps", "1")[0] == 0
    code, _, err = lab("follow", "runs/tiny-1", "runs/tiny-1")
    assert code == 2 and "different names" in err
    code, _, err = lab("follow", "runs/tiny-1", "--steps", "7")
    assert code == 2 and "has the checkpoints 0, 1" in err


def test_runs_of_one_name_are_followed_under_names_that_tell_them_apart(lab, tmp_path):
    quick = ("--no-probes", "--no-animation", "--texts", "4", "--steps", "0,1")
    for seed, folder in enumerate(("a/deep", "b/deep", "a/other")):
        (tmp_path / "seeded.toml").write_text(f"seed = {seed}\n{RECIPE}")
        assert lab("train", "seeded.toml", "--steps", "1", "--out", f"{folder}/run", "--device", "cpu")[0] == 0
    first, second, third = sorted(str(path.parent) for path in tmp_path.rglob("recipe.toml"))
    code, out, err = lab("follow", first, second, third, *quick)
    assert code == 0 and "is the name of another run too; this one is called" in err, err
    names = sorted(path.stem for path in (tmp_path / "results").glob("*.parquet"))
    assert len(names) == 3 and len({Trajectory.load(f"results/{name}.parquet").runs[0] for name in names}) == 3
    before = {name: (tmp_path / "results" / f"{name}.parquet").read_bytes() for name in names}
    assert lab("follow", first, second, third, *quick)[0] == 0  # the same again goes on with its own
    assert before == {name: (tmp_path / "results" / f"{name}.parquet").read_bytes() for name in before}
    for run in (first, second):  # one after the other, too
        code, _, err = lab("follow", run, *quick, "--out", "alone")
        assert code == 0 and ("is the name of another run too" in err) == (run == second), err
    assert len(list((tmp_path / "alone").glob("*.parquet"))) == 2
    assert lab("follow", first, first, *quick)[0] == 2


def test_a_report_shows_the_steps_of_a_run_that_are_asked_for(lab, tmp_path):
    assert lab("train", "tiny.toml", "--steps", "4", "--device", "cpu")[0] == 0
    quick = ("--period", "5", "--prompts", "2", "--no-ablate")
    code, _, err = lab("report", "runs/tiny-4", "--steps", "0,2", *quick)
    assert code == 0, err
    (shown,) = shown_on(tmp_path / "report.html")
    assert shown["training"]["steps"] == [0, 2]
    assert lab("report", "runs/tiny-4", "--n", "2", *quick, "-o", "ends.html")[0] == 0
    assert shown_on(tmp_path / "ends.html")[0]["training"]["steps"] == [0, 4]
    code, _, err = lab("report", "runs/tiny-4", "--steps", "7", *quick)
    assert code == 2 and "There is no step 7 among those of tiny-4" in err


def shown_on(page) -> list:
    """The models on a report's page, as its script reads them."""
    return json.loads(re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)[1])["models"]


@pytest.mark.parametrize("name", ["train", "follow"])
def test_help_shows_examples(lab, name):
    code, out, _ = lab(name, "--help")
    assert code == 0 and "Examples" in out and f"induction-lab {name}" in out


@pytest.fixture
def trained(tmp_path):
    for step in (5, 40):
        random_network("llama", seed=step).save_pretrained(tmp_path / "out" / "gpt" / f"checkpoint-{step}")


def test_a_trainers_folder_is_followed_as_a_run_is(lab, trained, tmp_path):
    code, out, err = lab("follow", "out/gpt", "--no-probes", "--no-animation", "--n", "1")
    assert code == 0, err
    found = Trajectory.load(tmp_path / "results" / "gpt_training.parquet")
    assert (found.runs, found.steps, "gpt" in out) == (["gpt"], [40], True)
    assert lab("follow", "out/gpt", "--no-probes", "--no-animation")[0] == 0  # the other, and not that one again
    assert Trajectory.load(tmp_path / "results" / "gpt_training.parquet").steps == [5, 40]


def test_a_model_without_steps_says_which_checkpoints_there_are(lab, monkeypatch):
    publishes(monkeypatch, "main", *(f"step{step}" for step in range(0, 20)))
    code, _, err = lab("follow", "EleutherAI/pythia-70m")
    assert (
        code == 2 and "has 20 checkpoints: 0, 1, 2, 3, …, 18, 19" in err and "--steps 0,19" in err and "--n 12" in err
    )
    code, _, err = lab("follow", "EleutherAI/pythia-70m", "--steps", "3,25")
    assert code == 2 and "no step 25 among those of EleutherAI/pythia-70m" in err and "Near it: 18, 19" in err


def test_steps_that_no_model_of_a_report_has_are_refused(lab):
    code, _, err = lab("report", "induction-2l", "--steps", "0,1")
    assert code == 2 and "--steps and --n are for training runs and Hugging Face ids, got induction-2l" in err
