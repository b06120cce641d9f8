import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from filelock import FileLock
from folders import ROOT, SUPPORT
from killing import RECIPE, fingerprint

from induction_lab import AttentionOnlyTransformer, score_heads
from induction_lab.data.corpora import TextFiles
from induction_lab.training.one_run import train_run
from induction_lab.training.runs import LOG, RESUME, Run, checkpoint_folder
from induction_lab.training.trainer import Trainer, TrainingPlan


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return train_run(RECIPE, tmp_path_factory.mktemp("runs") / "whole", device="cpu")


@pytest.fixture(scope="module")
def hindered(tmp_path_factory) -> dict:
    """What `killing` tells of runs that were killed or had no room."""
    command = [sys.executable, str(SUPPORT / "killing.py"), str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Cut(BaseException):
    """As when somebody pulls the plug."""


def cut_at(wanted: int):
    def on_step(step: int) -> None:
        if step == wanted:
            raise Cut

    return on_step


def cut_off(folder: Path, step: int, recipe=RECIPE) -> None:
    with pytest.raises(Cut):
        train_run(recipe, folder, device="cpu", on_step=cut_at(step))


def test_a_run_leaves_its_recipe_checkpoints_log_and_means_to_go_on(run):
    names = {str(path.relative_to(run.folder)) for path in run.folder.rglob("*") if path.is_file()}
    steps = [0, 1, 2, 3, 5]
    kept = {f"checkpoints/step-{step:08}/{name}" for step in steps for name in ("config.json", "model.safetensors")}
    assert names == kept | {"recipe.toml", LOG, RESUME, ".lock"}
    assert run.steps == steps and run.finished and run.recipe == RECIPE and run.name == "whole"
    assert repr(run) == "Run('whole', 5 checkpoints, step 5)"


def test_checkpoints_and_log_are_those_of_the_training(run):
    trainer = Trainer(AttentionOnlyTransformer(RECIPE.model), RECIPE.data, RECIPE.training)
    for step in range(6):
        if step in run.steps:
            for name, weights in run.model(step).network.state_dict().items():
                assert torch.equal(weights, trainer.network.state_dict()[name])
        if step == 5:
            break
        update, row = trainer.advance(), run.log.iloc[step]
        assert (row["step"], row["tokens"]) == (step + 1, (step + 1) * 4 * 16)
        assert row["loss"] == update.loss.item() and row["gradient_norm"] == update.gradient_norm.item()
        assert row["rate"] == RECIPE.training.rate(step)
    assert list(run.log) == ["step", "tokens", "loss", "gradient_norm", "rate", "seconds"]
    assert run.log["seconds"].is_monotonic_increasing and len(run.log) == 5
    assert run.model().revision == "step5"


def test_a_step_that_was_not_kept_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="has no step 4; it has 0, 1, 2, 3, 5"):
        run.model(4)
    with pytest.raises(ValueError, match="is no training run: it has no recipe.toml"):
        Run(tmp_path)


def test_a_finished_run_is_only_read(run):
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.*") if path.name != ".lock"}
    assert train_run(RECIPE, run.folder, device="cpu", on_step=cut_at(0)).finished
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.*") if path.name != ".lock"}


@pytest.mark.parametrize("steps", [[1], [3], [4], [2, 2, 4]])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(run, tmp_path, steps):
    for step in steps:
        if step not in Run(tmp_path / "cut").steps if (tmp_path / "cut").exists() else True:
            cut_off(tmp_path / "cut", step)
    assert fingerprint(train_run(RECIPE, tmp_path / "cut", device="cpu").folder) == fingerprint(run.folder)


def test_another_seed_leaves_another_fingerprint(run, tmp_path):
    other = train_run(replace(RECIPE, seed=1), tmp_path / "other", device="cpu")
    assert fingerprint(other.folder) != fingerprint(run.folder)


def test_a_run_that_was_killed_at_steps_ends_with_the_same_bits(hindered):
    assert hindered["whole"]["last"] == "done"
    assert hindered["steps"]["ends"] == ["killed"] * 4 and hindered["steps"]["last"] == "done"
    assert hindered["steps"]["print"] == hindered["whole"]["print"]


def test_a_run_that_was_killed_at_any_time_leaves_whole_files_and_ends_with_the_same_bits(hindered):
    assert any("killed" in found["ends"] for found in hindered["times"])
    for found in hindered["times"]:
        assert found["wrong"] == [] and found["last"] == "done"
        assert found["print"] == hindered["whole"]["print"]


def test_a_run_that_was_killed_around_any_file_leaves_whole_files_and_ends_with_the_same_bits(hindered):
    found = hindered["files"]
    assert found["kills"] == 1 + 2 * 5 + 2 * 4  # recipe; checkpoints; log and resume
    assert found["wrong"] == []
    assert found["prints"] == [hindered["whole"]["print"]]


def test_a_full_disk_is_one_error_that_leaves_nothing_half_written_and_the_run_goes_on(hindered):
    for found in hindered["room"]:
        assert found["message"].startswith("ValueError: ") and "cannot be written at step" in found["message"]
        assert "File too large" in found["message"] and "room" in found["message"] and "goes on" in found["message"]
        assert found["wrong"] == found["hidden"] == []
        assert found["last"] == "done" and found["print"] == hindered["whole"]["print"]


@pytest.mark.parametrize("name", [LOG, "model.safetensors"])
def test_a_run_is_not_finished_before_all_its_files_are_there(tmp_path, monkeypatch, name):
    plain = Path.replace

    def replace_but(self, target):
        if Path(target).name == name and (tmp_path / "cut" / "checkpoints" / "step-00000003").exists():
            raise Cut
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace_but)
    with pytest.raises(Cut):
        train_run(RECIPE, tmp_path / "cut", device="cpu")
    assert not Run(tmp_path / "cut").finished


def test_a_second_training_in_the_folder_is_refused(run, tmp_path):
    folder = tmp_path / "busy"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(ValueError, match="is in use: another process trains there"):
        train_run(RECIPE, folder, device="cpu")
    context, told = multiprocessing.get_context("fork"), []
    with pytest.raises(Cut):  # a true process, while this one trains

        def on_step(step: int) -> None:
            queue = context.SimpleQueue()
            other = context.Process(target=_try, args=(folder, queue))
            other.start()
            told.append(queue.get())
            other.join()
            raise Cut

        train_run(RECIPE, folder, device="cpu", on_step=on_step)
    assert "is in use" in told[0]
    assert fingerprint(train_run(RECIPE, folder, device="cpu").folder) == fingerprint(run.folder)


def _try(folder, queue) -> None:
    try:
        train_run(RECIPE, folder, device="cpu")
        queue.put("trained")
    except ValueError as error:
        queue.put(str(error))


def test_another_recipe_in_the_folder_is_refused_and_what_differs_is_said(run):
    other = replace(RECIPE, training=replace(RECIPE.training, steps=7), clamps={"L0H0": "previous_token"})
    with pytest.raises(ValueError, match="another recipe") as caught:
        train_run(other, run.folder, device="cpu")
    for part in ("steps = 5 there", "steps = 7 here", 'L0H0 = "previous_token" here'):
        assert part in str(caught.value)
    assert "batch" not in str(caught.value)


def test_a_folder_that_cannot_be_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"{folder} cannot be written"):
            train_run(RECIPE, folder, device="cpu")


def test_a_loss_that_is_no_number_any_more_stops_the_run_and_says_what_to_do(tmp_path):
    plan = TrainingPlan(steps=40, batch=4, every=5, warm_up=8, peak_rate=1e30)
    with pytest.raises(ValueError, match="The loss is (nan|inf) at step") as caught:
        train_run(replace(RECIPE, training=plan), tmp_path / "wild", device="cpu")
    run = Run(tmp_path / "wild")
    assert f"is step {run.steps[-1]}" in str(caught.value) and "Lower `peak_rate` (now 1e+30)" in str(caught.value)
    kept = AttentionOnlyTransformer.load(checkpoint_folder(run.folder, run.steps[-1]))
    assert all(bool(x.isfinite().all()) for x in kept.state_dict().values())
    assert not run.finished


def test_a_gradient_without_end_stops_the_run_before_the_weights_it_spoils_are_kept(tmp_path, monkeypatch):
    plain = torch.nn.utils.clip_grad_norm_

    def spoiled(parameters, limit):
        parameters = list(parameters)
        if len(Run(tmp_path / "run").steps) == 2:  # 0 and 1
            parameters[0].grad[0, 0] = float("inf")
        return plain(parameters, limit)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoiled)
    with pytest.raises(ValueError, match=r"at step 2 \(gradient norm inf\). The last good checkpoint of .* is step 1"):
        train_run(RECIPE, tmp_path / "run", device="cpu")
    assert Run(tmp_path / "run").steps == [0, 1]


@pytest.mark.parametrize("size", [0, 7, 500])
def test_a_damaged_file_to_go_on_from_is_refused(tmp_path, size):
    cut_off(tmp_path / "cut", 4)
    whole = (tmp_path / "cut" / RESUME).read_bytes()
    (tmp_path / "cut" / RESUME).write_bytes(whole[:size])
    with pytest.raises(ValueError, match=f"{RESUME} is damaged.*Delete .* and train again"):
        train_run(RECIPE, tmp_path / "cut", device="cpu")
    (tmp_path / "cut" / RESUME).write_bytes(whole)
    (tmp_path / "cut" / LOG).unlink()
    with pytest.raises(ValueError, match="There is no file .*log.parquet"):
        train_run(RECIPE, tmp_path / "cut", device="cpu")


def test_a_log_that_is_ahead_of_the_means_to_go_on_is_cut_back(run, tmp_path):
    cut_off(tmp_path / "cut", 4)
    log = Run(tmp_path / "cut").log
    ahead = pd.concat([log, log.tail(1).assign(step=4, loss=99.0)])
    ahead.to_parquet(tmp_path / "cut" / LOG)
    again = train_run(RECIPE, tmp_path / "cut", device="cpu")
    assert fingerprint(again.folder) == fingerprint(run.folder)


def test_the_loss_is_drawn_and_the_bar_shown_where_asked(tmp_path, capsys):
    train_run(RECIPE, tmp_path / "drawn", device="cpu", plot=True, progress=True)
    assert (tmp_path / "drawn" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == ""


def test_a_run_on_text_does_not_go_on_with_another_text(tmp_path, monkeypatch):
    monkeypatch.setenv("INDUCTION_LAB_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat\n\n" * 40)
    data = TextFiles((str(path),), 262, separator="\n\n")
    recipe = replace(RECIPE, model=replace(RECIPE.model, d_vocab=262), data=data)
    cut_off(tmp_path / "run", 2, recipe)
    path.write_text("the dog ran to the sea\n\n" * 40)
    with pytest.raises(ValueError, match="The text that .*run was trained on has changed"):
        train_run(recipe, tmp_path / "run", device="cpu")
    path.write_text("the cat sat on the mat\n\n" * 40)
    assert train_run(recipe, tmp_path / "run", device="cpu").finished


def test_what_a_killed_process_was_writing_is_swept_away_and_strangers_stay(run, tmp_path):
    folder = tmp_path / "cut"
    cut_off(folder, 4)
    (folder / ".resume-abcdefgh.safetensors").write_bytes(b"half")
    (folder / "checkpoints" / "step-00000003" / ".model-abcdefgh.safetensors").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    (folder / ".pre-commit-config.yaml").write_text("mine")
    for mine in (".my-folder", ".tmp", "checkpoints/step-00000003/.tmp-mine"):
        (folder / mine).mkdir()
        (folder / mine / "notes.txt").write_text("mine")
    (folder / "checkpoints" / "step-old").mkdir()
    train_run(RECIPE, folder, device="cpu")
    strangers = {".lock", ".pre-commit-config.yaml", ".my-folder", ".tmp", ".tmp-mine"}
    assert {path.name for path in folder.rglob(".*")} == strangers and len(list(folder.rglob("notes.txt"))) == 4
    assert (folder / "notes.txt").exists() and Run(folder).steps == run.steps


def test_the_run_that_comes_with_the_package_forms_induction_heads_unless_a_folder_has_its_name(tmp_path, monkeypatch):
    forming = Run("forming")
    best = [float(score_heads(forming.model(step), loss=False)["prefix_matching"].max()) for step in forming.steps]
    assert best[0] < 0.05 and best[-1] > 0.85 and best == sorted(best)
    assert sum(path.stat().st_size for path in forming.folder.rglob("*") if path.is_file()) < 2_000_000
    monkeypatch.chdir(tmp_path)
    (tmp_path / "forming").mkdir()
    with pytest.raises(ValueError, match="forming is no training run"):
        Run("forming")
