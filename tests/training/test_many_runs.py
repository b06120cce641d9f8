from dataclasses import replace

import pytest
import torch
from killing import RECIPE, fingerprint

from induction_lab.training import many_runs
from induction_lab.training.many_runs import over_seeds, train_runs
from induction_lab.training.one_run import train_run
from induction_lab.training.runs import Run
from induction_lab.training.stacked_runs import train_stacked
from induction_lab.training.trainer import TrainingPlan

WILD = replace(RECIPE, training=TrainingPlan(steps=40, batch=4, warm_up=8, peak_rate=1e30))
ACCUMULATED = replace(RECIPE, training=replace(RECIPE.training, steps=6, accumulate=2))


@pytest.fixture(autouse=True)
def quiet():
    torch._C._functorch._set_vmap_fallback_warning_enabled(False)
    yield
    torch._C._functorch._set_vmap_fallback_warning_enabled(True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs that come to an end and one that does not, in two processes."""
    folder = tmp_path_factory.mktemp("many")
    with pytest.raises(ValueError, match="1 of 3 runs failed. wild: The loss is"):
        train_runs({"wild": WILD, **over_seeds(RECIPE, 2)}, folder, workers=2, device="cpu", progress=True)
    return folder


def weights(run: Run, step: int | None = None) -> torch.Tensor:
    return torch.cat([x.flatten() for x in run.model(step).network.state_dict().values()])


def assert_same_runs(one: Run, other: Run) -> None:
    """To the order of sums."""
    assert one.steps == other.steps
    for step in one.steps:
        torch.testing.assert_close(weights(one, step), weights(other, step), atol=2e-5, rtol=1e-4)
    for name in one.log.columns.drop("seconds"):
        assert one.log[name].tolist() == pytest.approx(other.log[name].tolist(), abs=1e-5, rel=1e-4)


def test_two_processes_give_the_bits_of_one_after_another_though_a_third_run_fails(folder, tmp_path):
    for name, recipe in over_seeds(RECIPE, 2).items():
        alone = train_run(recipe, tmp_path / name, device="cpu")
        assert fingerprint(folder / name) == fingerprint(alone.folder)
    assert fingerprint(folder / "seed0") != fingerprint(folder / "seed1")
    assert not Run(folder / "wild").finished


def test_finished_runs_are_only_read(folder):
    def times():
        return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name != ".lock"}

    before = times()
    runs = train_runs(over_seeds(RECIPE, 2), folder, device="cpu")
    assert times() == before and list(runs) == ["seed0", "seed1"] and all(run.finished for run in runs.values())
    with pytest.raises(ValueError, match="seed0: .*another recipe"):
        train_runs({"seed0": replace(RECIPE, seed=7)}, folder, device="cpu", workers=1)


def test_one_worker_names_what_fails_and_trains_the_others(tmp_path):
    with pytest.raises(ValueError, match="1 of 2 runs failed. wild"):
        train_runs({"wild": WILD, "tame": RECIPE}, tmp_path, workers=1, device="cpu")
    assert Run(tmp_path / "tame").finished


def test_over_seeds_counts_from_zero():
    recipes = over_seeds(RECIPE, 3, name="s")
    assert {name: recipe.seed for name, recipe in recipes.items()} == {"s0": 0, "s1": 1, "s2": 2}
    assert {replace(recipe, seed=0).fingerprint for recipe in recipes.values()} == {RECIPE.fingerprint}
    with pytest.raises(ValueError, match="At least one seed"):
        over_seeds(RECIPE, 0)
    with pytest.raises(ValueError, match="`workers` must be at least 1, got 0"):
        train_runs(recipes, "nowhere", workers=0)


@pytest.mark.parametrize("recipe", [RECIPE, ACCUMULATED], ids=["plain", "accumulated"])
def test_stacked_runs_are_those_of_one_by_one(tmp_path, recipe):
    recipes, told = over_seeds(recipe, 2), []
    train_stacked(recipes, tmp_path / "stacked", device="cpu", on_step=told.append)
    assert told == list(range(1, recipe.training.steps + 1))
    for name, each in recipes.items():
        assert_same_runs(Run(tmp_path / "stacked" / name), train_run(each, tmp_path / name, device="cpu"))
    one, other = (weights(Run(tmp_path / "stacked" / name)) for name in recipes)
    assert (one - other).abs().max() > 0.1


class Cut(BaseException):
    pass


def cut_at(wanted: int):
    def on_step(step: int) -> None:
        if step == wanted:
            raise Cut

    return on_step


def test_stacked_runs_that_were_cut_off_end_with_the_same_bits(tmp_path):
    recipes = over_seeds(ACCUMULATED, 2)
    train_stacked(recipes, tmp_path / "whole", device="cpu")
    for step in (2, 5):
        with pytest.raises(Cut):
            train_stacked(recipes, tmp_path / "cut", device="cpu", on_step=cut_at(step))
    train_stacked(recipes, tmp_path / "cut", device="cpu")
    for name in recipes:
        assert fingerprint(tmp_path / "cut" / name) == fingerprint(tmp_path / "whole" / name)


def test_a_stacked_run_goes_on_by_itself(tmp_path):
    recipes = over_seeds(RECIPE, 2)
    with pytest.raises(Cut):
        train_stacked(recipes, tmp_path, device="cpu", on_step=cut_at(4))
    again = train_run(recipes["seed1"], tmp_path / "seed1", device="cpu")
    assert_same_runs(again, train_run(recipes["seed1"], tmp_path / "alone", device="cpu"))
    with pytest.raises(ValueError, match="different steps: seed0 at 3, seed1 at 5"):
        train_stacked(recipes, tmp_path, device="cpu")


def test_runs_that_differ_in_more_than_their_seed_are_not_stacked(tmp_path):
    for other in (
        replace(RECIPE, training=replace(RECIPE.training, steps=6)),
        replace(RECIPE, model=replace(RECIPE.model, d_model=8)),
        replace(RECIPE, data=replace(RECIPE.data, longest=7)),
    ):
        with pytest.raises(ValueError, match="differ in their seed alone"):
            train_stacked({"one": RECIPE, "other": other}, tmp_path, device="cpu")
    clamped = replace(RECIPE, clamps={"L0H0": "previous_token"})
    with pytest.raises(ValueError, match="Clamped runs cannot be stacked"):
        train_stacked(over_seeds(clamped, 2), tmp_path, device="cpu")
    compiled = replace(RECIPE, training=replace(RECIPE.training, compile=True))
    with pytest.raises(ValueError, match="Stacked runs are not compiled"):
        train_stacked(over_seeds(compiled, 2), tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("smeared_keys", [False, True])
def test_stacked_runs_in_bfloat16_are_near_those_of_one_by_one(tmp_path, smeared_keys):
    shape = replace(RECIPE.model, smeared_keys=smeared_keys)
    recipes = over_seeds(replace(RECIPE, model=shape, training=replace(RECIPE.training, precision="bfloat16")), 2)
    train_stacked(recipes, tmp_path / "stacked", device="cpu")
    for name, each in recipes.items():
        alone = train_run(each, tmp_path / name, device="cpu")
        assert (weights(alone) - weights(Run(tmp_path / "stacked" / name))).abs().max() < 0.01
        assert (weights(alone) - weights(alone, 0)).abs().max() > 0.01


def test_a_group_that_is_too_large_to_be_stacked_is_trained_one_by_one(tmp_path, monkeypatch):
    def too_large(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(many_runs, "train_stacked", too_large)
    assert many_runs._stacked(over_seeds(RECIPE, 2), tmp_path, torch.device("cpu"), lambda n: None) == {}
    assert all(Run(tmp_path / name).finished for name in ("seed0", "seed1"))


def test_other_devices_than_cpu_and_cuda_are_used_too(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(many_runs, "train_run", lambda recipe, folder, *, device, on_step: asked.append(str(device)))
    with pytest.raises(ValueError, match="is no training run"):  # nothing was trained
        train_runs(over_seeds(RECIPE, 2), tmp_path, device="meta")
    assert asked == ["meta", "meta"]
    with pytest.raises(ValueError, match="There is no device 'nowhere' here"):
        train_runs(over_seeds(RECIPE, 2), tmp_path, device="nowhere")


def test_a_worker_that_is_interrupted_takes_no_other_run(monkeypatch, tmp_path):
    codes = []

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(many_runs, "train_run", interrupted)
    monkeypatch.setattr(many_runs.os, "_exit", codes.append)
    many_runs._train_one(RECIPE, tmp_path)
    assert codes == [130]


def test_what_cannot_be_stacked_is_trained_by_itself(tmp_path):
    clamped = replace(RECIPE, clamps={"L0H0": "previous_token"})
    recipes = {**over_seeds(RECIPE, 2), **over_seeds(clamped, 2, name="clamped"), **over_seeds(WILD, 1, name="wild")}
    train_run(recipes["seed0"], tmp_path / "seed0", device="cpu")
    failures = many_runs._stacked(recipes, tmp_path, torch.device("cpu"), lambda n: None)
    assert list(failures) == ["wild0"]
    assert all(Run(tmp_path / name).finished for name in recipes if name != "wild0")
