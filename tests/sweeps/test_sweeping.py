import json
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pandas as pd
import pytest
import sweeping
from folders import SUPPORT
from sweeping import MARK, plan

from induction_lab import find_circuit, load_sweep, load_sweep_plan, repeated_tokens, score_heads, sweep
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.sweeps.dataset import CellFiles
from induction_lab.sweeps.estimates import Estimates
from induction_lab.sweeps.executors import try_again
from induction_lab.sweeps.measurements import MEASUREMENTS
from induction_lab.sweeps.sweeping import CHUNK, chunks_of, dry_run

EVERYTHING = {
    "models": ["induction-2l"],
    "prompts": {"short": {"period": 8, "n_prompts": 4}},
    "measurements": ["head_scores", "losses", "circuit", "ablation"],
    "seeds": [3],
    "device": "cpu",
}


@pytest.fixture(scope="module")
def hindered(tmp_path_factory):
    """Sweeps that were killed or had no room: what became of them, and where."""
    folder = tmp_path_factory.mktemp("hindered")
    command = [sys.executable, str(SUPPORT / "sweeping.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), folder


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


def identities(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.rglob("*.parquet")}


def test_cells_hold_what_the_library_says(bundled, tmp_path):
    done = sweep(EVERYTHING, tmp_path / "data", progress=True)
    assert (done.cells, done.found, done.computed, done.failed) == (4, 0, 4, {})
    frame = load_sweep(tmp_path / "data")
    assert set(frame["model"]) == {"induction-2l"} and set(frame["seed"]) == {3} and frame["step"].isna().all()
    assert set(frame["n_parameters"]) == {sum(p.numel() for p in bundled.network.parameters())}
    prompts = repeated_tokens(bundled, period=8, n_prompts=4, seed=3)

    scores = score_heads(bundled, prompts)
    heads = frame[frame["measurement"] == "head_scores"].set_index(["metric", "label"])
    for name in scores.scores:
        for head, value in scores.top(name, 8):
            assert heads.loc[(name, str(head)), "value"] == pytest.approx(value, abs=1e-6)
        assert heads.loc[(name, "L1H3"), "uniform"] == pytest.approx(scores.uniform[name])
    losses = frame[frame["measurement"] == "losses"].set_index(["metric", "index"])["value"]
    assert losses["loss_by_copy"].tolist() == pytest.approx(scores.loss_by_copy, abs=1e-5)
    assert losses["loss"].tolist() == pytest.approx(scores.loss, abs=1e-5)
    assert losses["mean_loss"].tolist() == pytest.approx([sum(scores.loss) / len(scores.loss)], abs=1e-5)
    edges = frame[frame["metric"] == "edge_strength"]
    best = find_circuit(bundled, prompts).edges.iloc[0]
    assert edges.iloc[0]["label"] == f"{best['previous']}>{best['induction']}"
    assert edges.iloc[0]["value"] == pytest.approx(best["strength"], abs=1e-6)
    effects = frame[frame["metric"] == "copy_loss_effect"].set_index("label")["value"]
    assert effects["induction heads"] > 1 > 0.5 > effects["random heads"] - effects["previous-token head"]
    assert pd.read_parquet(tmp_path / "data").shape == frame.shape  # by others' readers


def test_finished_cells_are_never_measured_again_unless_asked(tmp_path, monkeypatch):
    mark, folder = tmp_path / "mark", tmp_path / "data"
    mark.mkdir()
    monkeypatch.setenv(MARK, str(mark))
    assert sweep(plan("traced", 2), folder).computed == 2
    again = sweep(plan("traced", 3), folder)
    assert (again.found, again.computed) == (2, 1) and len(list(mark.iterdir())) == 3
    anew = sweep(plan("traced", 3), folder, resume=False)
    assert (anew.found, anew.computed) == (0, 3) and len(list(mark.iterdir())) == 6
    assert hidden(folder) == []


def test_the_pool_gives_the_same_tables_though_a_worker_is_killed(tmp_path, monkeypatch):
    (tmp_path / "mark").mkdir()
    monkeypatch.setenv(MARK, str(tmp_path / "mark"))
    deadly = {"deadly": {"kind": "function", "function": "sweeping:deadly"}}  # kills its worker, once
    asked = {**EVERYTHING, "seeds": [2], "measurements": {name: {} for name in EVERYTHING["measurements"]} | deadly}
    done = sweep(asked, tmp_path / "pool", executor="pool", workers=2, progress=True)
    assert done.computed == 5 and done.failed == {}
    sweep(asked, tmp_path / "one")  # the mark is there now
    pd.testing.assert_frame_equal(load_sweep(tmp_path / "one"), load_sweep(tmp_path / "pool"), check_exact=True)
    assert identities(tmp_path / "one").keys() == identities(tmp_path / "pool").keys()


def test_cells_whose_worker_dies_are_tried_one_by_one_and_given_up_after_three_times():
    cells, lost = load_sweep_plan(plan(seeds=2)).cells(), Counter()
    for _ in range(2):
        failed, again = try_again(cells, lost)
        assert failed == [] and again == [[cells[0]], [cells[1]]]
    failed, again = try_again(cells[:1], lost)
    assert again == [] and failed[0].cell == cells[0] and "its worker died 3 times" in failed[0].error


def test_what_fails_is_written_down_and_forgotten_when_it_succeeds(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=20), seed=0).save(tmp_path / "broken")
    whole = (tmp_path / "broken" / "model.safetensors").read_bytes()
    (tmp_path / "broken" / "model.safetensors").write_bytes(whole[:100])
    asked = plan("wrong", 4, models=["induction-2l", str(tmp_path / "broken"), "no/such-model"])
    done = sweep(asked, folder)
    assert done.computed == 1 and len(done.failed) == 11
    reasons = [done.failed[f"induction-2l: wrong on short, seed {seed}"] for seed in (1, 2, 3)]
    assert reasons[0].startswith("RuntimeError: it went wrong (") and reasons[1].startswith("MemoryError: no memory")
    assert reasons[2].startswith("SystemExit: 3")
    assert "nor could it be fetched" in done.failed["no/such-model: wrong on short, seed 0"]
    assert "broken" in done.failed["broken: wrong on short, seed 0"]
    assert CellFiles(folder).failures() == done.failed

    (tmp_path / "broken" / "model.safetensors").write_bytes(whole)  # other weights now, the same place in the sweep
    monkeypatch.setattr(sweeping, "wrong", sweeping.tiny)
    again = sweep(asked, folder)
    assert (
        again.found == 1
        and again.computed == 7
        and set(again.failed) == {f"no/such-model: wrong on short, seed {seed}" for seed in range(4)}
    )
    assert CellFiles(folder).failures() == again.failed


def test_a_model_that_cannot_be_had_is_tried_once_for_all_its_cells(tmp_path, monkeypatch):
    tried = []

    def load(name, **how):
        tried.append(name)
        raise ValueError("not here")

    monkeypatch.setattr("induction_lab.sweeps.snapshots.load_model", load)
    done = sweep(plan(seeds=12, models=["no/such-model"]), tmp_path)
    assert len(done.failed) == 12 and set(done.failed.values()) == {"not here"} and tried == ["no/such-model"]


def test_a_function_that_returns_no_table_fails_its_cells_alone(tmp_path):
    done = sweep(plan("no_table", 1), tmp_path)
    (error,) = done.failed.values()
    assert "must return a table with at least `metric` and `value`" in error


@pytest.mark.parametrize("what", ["truncated", "empty", "foreign", "text", "another cell's"])
def test_a_damaged_file_is_found_reported_and_measured_anew(tmp_path, what):
    sweep(plan(seeds=3), tmp_path)
    whole = load_sweep(tmp_path)
    path, other = CellFiles(tmp_path).files()[:2]
    content = {
        "truncated": path.read_bytes()[: path.stat().st_size // 2],
        "empty": b"",
        "text": b"not a table",
        "another cell's": other.read_bytes(),
    }
    if what == "foreign":
        pd.DataFrame({"x": [1]}).to_parquet(path)
    else:
        path.write_bytes(content[what])
    if what != "another cell's":
        with pytest.warns(UserWarning, match="1 damaged file is left out"):
            assert len(load_sweep(tmp_path)) == len(whole) - 2
    done = sweep(plan(seeds=3), tmp_path)
    assert done.damaged == [path] and (done.found, done.computed) == (2, 1)
    pd.testing.assert_frame_equal(load_sweep(tmp_path), whole)


def test_rows_that_are_damaged_inside_are_left_out_with_a_warning_and_measured_anew(tmp_path):
    sweep(plan("large", 2), tmp_path)
    whole = load_sweep(tmp_path)
    path = max(CellFiles(tmp_path).files(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    at = len(content) // 3
    content[at : at + 64] = bytes(64)
    path.write_bytes(bytes(content))
    path_of_other = next(each for each in CellFiles(tmp_path).files() if each != path)
    path_of_other.rename(tmp_path / "aside")
    with pytest.raises(ValueError, match="holds 1 file, all of it damaged"):
        load_sweep(tmp_path)
    (tmp_path / "aside").rename(path_of_other)
    with pytest.warns(UserWarning, match="1 damaged file is left out"):
        assert set(load_sweep(tmp_path)["seed"]) == {0}
    done = sweep(plan("large", 2), tmp_path)
    assert done.damaged == [path] and (done.found, done.computed) == (1, 1)
    pd.testing.assert_frame_equal(load_sweep(tmp_path), whole)


def test_the_last_asked_for_counts_where_settings_changed(tmp_path):
    def asked(period: int) -> dict:
        return {**plan(seeds=1), "prompts": {"short": {"period": period, "n_prompts": 2}}}

    def total() -> float:
        return float(load_sweep(tmp_path).query("metric == 'total'")["value"].item())

    sweep(asked(5), tmp_path)
    first = total()
    sweep(asked(6), tmp_path)
    assert total() != first
    assert sweep(asked(5), tmp_path).found == 1
    assert total() == first and len(CellFiles(tmp_path).files()) == 2


def test_a_sweep_killed_at_any_file_goes_on_with_what_is_missing(hindered, tmp_path):
    sweep(plan(), tmp_path / "whole")
    for at in (1, 3):
        folder = hindered[1] / f"kill-{at}"
        assert hindered[0]["kills"][str(at)] == {"signal": 9}
        before = {path.name: path.stat().st_ino for path in folder.glob("model=*/*.parquet")}
        assert len(before) == at - 1 and any(name.endswith(".parquet") for name in hidden(folder))
        again = sweep(plan(), folder)
        assert (again.found, again.computed) == (at - 1, 4 - at + 1)
        assert before.items() <= identities(folder).items() and hidden(folder) == []
        pd.testing.assert_frame_equal(load_sweep(folder), load_sweep(tmp_path / "whole"))


def test_a_full_disk_is_one_error_and_finished_cells_stay_readable(hindered):
    told, folder = hindered[0]["room"], hindered[1] / "room"
    assert "cannot be written" in told["error"] and "finished so far are whole and readable" in told["error"]
    assert hidden(folder) == []
    seeds = set(load_sweep(folder)["seed"])
    assert 0 in seeds and len(seeds) < 6
    again = sweep(plan("large", 6), folder)
    assert again.found == len(seeds) and again.computed == 6 - len(seeds) and not again.damaged


def test_two_sweeps_at_once_do_each_other_no_harm(tmp_path):
    done = []
    asked = [plan("slow", 8), {**plan("slow", 8), "seeds": list(range(7, 1, -1))}]
    threads = [threading.Thread(target=lambda a=a: done.append(sweep(a, tmp_path / "data"))) for a in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.failed for each in done] == [{}, {}] and sum(each.computed for each in done) >= 8
    sweep(plan("slow", 8), tmp_path / "alone")
    pd.testing.assert_frame_equal(load_sweep(tmp_path / "data"), load_sweep(tmp_path / "alone"))
    assert hidden(tmp_path / "data") == []


def test_what_a_sweep_at_work_is_writing_is_not_swept_up(tmp_path):
    with CellFiles(tmp_path).writing_to() as one:
        (part,) = tmp_path.glob(".writing-*")
        sweep(plan(seeds=1), tmp_path)
        assert part.is_dir() and hidden(tmp_path) == [part.name]
        one.keep_failure(load_sweep_plan(plan(seeds=1)).cells()[0], "no reason")
    assert hidden(tmp_path) == []


def test_an_interrupted_sweep_leaves_a_clean_dataset_and_goes_on(tmp_path, monkeypatch):
    plain = sweeping.tiny

    def interrupted(model, prompts, seed):
        if seed == 2:
            raise KeyboardInterrupt
        return plain(model, prompts, seed)

    with monkeypatch.context() as patched:
        patched.setattr(sweeping, "tiny", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(plan(), tmp_path)
    assert hidden(tmp_path) == [] and CellFiles(tmp_path).failures() == {}
    assert sweep(plan(), tmp_path).found == 2


def test_chunks_keep_snapshots_together_and_are_even(tmp_path):
    cells = load_sweep_plan({**plan(seeds=100), "models": ["induction-2l", "no/such-model"]}).cells()
    for workers, sizes in ((1, {25}), (2, {25}), (100, {1})):
        chunks = chunks_of(cells, workers)
        assert [cell for chunk in chunks for cell in chunk] == cells
        assert {len(chunk) for chunk in chunks} <= sizes | {24, 26}
        assert all(len({cell.snapshot for cell in chunk}) == 1 for chunk in chunks)
    assert max(map(len, chunks_of(cells * 10, 1))) <= CHUNK
    assert chunks_of([], 2) == []


@pytest.mark.parametrize(
    ("seconds", "loading", "most"), [(10.0, 0.1, 3), (10.0, 20.0, 20), (99.0, 0.1, 1), (0.01, 0.1, 32)]
)
def test_slow_cells_go_in_small_chunks_since_what_is_not_handed_in_may_be_lost(monkeypatch, seconds, loading, most):
    cells = load_sweep_plan(plan(seeds=400)).cells()
    monkeypatch.setattr(Estimates, "seconds", lambda self, cell: seconds)
    monkeypatch.setattr(Estimates, "loading", lambda self, cell: loading)
    chunks = chunks_of(cells, 2, Estimates())
    assert [cell for chunk in chunks for cell in chunk] == cells and 0.5 * most < max(map(len, chunks)) <= most


def test_a_dry_run_learns_from_what_is_finished(tmp_path):
    asked = {**EVERYTHING, "models": ["induction-2l", "no/such-model-70m", "no/size"], "seeds": [0, 1]}
    before = dry_run(load_sweep_plan(asked), tmp_path / "data").set_index(["model", "measurement", "seed"])
    assert not (tmp_path / "data").exists() and before["done"].sum() == 0 and len(before) == 24
    assert 0.7e9 < before.loc["induction-2l", "memory"].max() < 0.71e9
    assert before.loc["no/such-model-70m", "memory"].max() == pytest.approx(0.7e9 + 1.2 * 4 * 70e6)
    assert before.loc["no/size"][["seconds", "memory"]].isna().all(axis=None)
    sweep({**EVERYTHING, "measurements": ["losses"], "seeds": [0]}, tmp_path / "data")
    after = dry_run(load_sweep_plan(asked), tmp_path / "data").set_index(["model", "measurement", "seed"])
    one, other = ("induction-2l", "losses", 0), ("induction-2l", "losses", 1)
    assert after.loc[one, "done"] and after["done"].sum() == 1 and after.loc[one, "seconds"] == 0
    assert after.loc[other, "seconds"] != before.loc[other, "seconds"]


@dataclass(frozen=True)
class Tokens:
    """A measurement of one number: how many tokens the prompts have, times a factor."""

    factor: int = 1
    repeats_only: ClassVar[bool] = False
    forwards: ClassVar[float] = 7.0

    def measure(self, model, prompts, seed):
        return pd.DataFrame({"metric": ["tokens"], "value": [float(self.factor * prompts.tokens.numel())]})


def test_a_measurement_of_one_s_own_kind_is_estimated_and_measured(tmp_path, monkeypatch):
    monkeypatch.setitem(MEASUREMENTS, "tokens", Tokens)
    prompts = {"short": {"kind": "repeats", "period": 5, "n_prompts": 2}}
    asked = {"models": ["induction-2l"], "prompts": prompts, "measurements": {"tokens": {"factor": 3}, "losses": {}}}
    seconds = dry_run(load_sweep_plan(asked), tmp_path / "data").set_index("measurement")["seconds"]
    (own, usual), fixed = load_sweep_plan(asked).cells(), 0.02
    loading = Estimates().loading(own) / 2
    assert seconds["tokens"] - loading - fixed == pytest.approx(7 * (seconds["losses"] - loading - fixed))
    assert (own.measurement, usual.measurement.forwards) == (Tokens(3), 1.0)
    assert not sweep(asked, tmp_path / "data").failed
    rows = load_sweep(tmp_path / "data").set_index("metric")
    assert rows.loc["tokens", "value"] == 3 * 2 * 11


MISTAKES = {
    "unknown executor": ({"executor": "slurm"}, "`executor` must be one of local, pool, ray"),
    "workers of one process": ({"workers": 2}, "`workers` must be at least 1, and goes with pool and ray"),
    "no workers": ({"executor": "pool", "workers": 0}, "`workers` must be at least 1"),
    "an address of no cluster": ({"executor": "pool", "address": "here"}, "it goes with the executor ray"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error_and_leaves_nothing(tmp_path, mistake):
    arguments, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        sweep(plan(), tmp_path / "data", **arguments)
    assert not (tmp_path / "data").exists()


def test_a_dataset_that_is_none_or_cannot_be_written_is_one_error(tmp_path):
    with pytest.raises(ValueError, match="holds no cells of a sweep. Make some: induction-lab sweep"):
        load_sweep(tmp_path / "nowhere")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="cannot be written"):
        sweep(plan(), tmp_path / "file")
