"""What a name means: a training run, published checkpoints, or one model."""

import pytest

from induction_lab import HookedModel, Revisions, Run
from induction_lab.training.checkpoints import find_checkpoints, open_by_name
from induction_lab.training.recipes import load_recipe
from induction_lab.training.runs import RECIPE, is_run


@pytest.fixture
def run(tmp_path):
    (tmp_path / RECIPE).write_text(load_recipe("minute").to_toml())
    return tmp_path


def test_a_folder_with_a_recipe_is_a_run_whatever_steps_are_asked_for(run):
    for steps in ((), (0, 512)):
        assert isinstance(open_by_name(str(run), steps), Run)
    assert is_run(run) and not is_run(run / "checkpoints")


def test_a_run_is_found_in_the_home_folder(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    found = find_checkpoints(f"~/{run.name}")
    assert isinstance(found, Run) and found.folder == run


def test_a_name_with_steps_is_published_checkpoints_and_nothing_is_fetched():
    found = open_by_name("no-one/model", [0, 512], device="cpu", dtype="float32")
    assert found == Revisions("no-one/model", [0, 512], device="cpu", dtype="float32")


def test_every_other_name_is_one_model(tmp_path):
    assert isinstance(open_by_name("attn-only-2l"), HookedModel)
    assert find_checkpoints("attn-only-2l") is None
    assert find_checkpoints(str(tmp_path), [0, 1]) is None  # a folder is here, whose steps nobody publishes
    with pytest.raises(ValueError):
        open_by_name(str(tmp_path), [0, 1])
