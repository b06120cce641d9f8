"""What a name means: a training run, published checkpoints, or one model."""

from pathlib import Path

import pytest
import torch
from families import random_network
from hub import publishes
from killing import RECIPE as RUN
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from induction_lab import CheckpointFolder, Checkpoints, HookedModel, Revisions, Run, follow_training, load_model
from induction_lab.training.checkpoints import find_checkpoints, open_by_name
from induction_lab.training.one_run import train_run
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


def test_of_a_run_the_steps_that_are_asked_for_are_looked_at(tmp_path):
    run = train_run(RUN, tmp_path / "run", device="cpu")
    assert run.steps == [0, 1, 2, 3, 5]
    some = open_by_name(str(run.folder), [1, 3])
    assert some.steps == [1, 3] and some.name == run.name and some.model(3).revision == "step3"
    assert follow_training(some, scores=["prefix_matching"], probes=()).steps == [1, 3]
    assert open_by_name(str(run.folder / "checkpoints"), n=2).steps == [0, 5]
    with pytest.raises(ValueError, match="has no step 2; it has 1, 3"):
        some.model(2)
    with pytest.raises(ValueError, match="There is no step 9 among those of run: 0, 1, 2, 3, 5"):
        open_by_name(str(run.folder), [9])


LOCAL = {
    "empty": "The folder .*empty is no training run: it has no recipe.toml, nor folders of checkpoints .*Nor is it a "
    "model: it has no config.json of its own",
    "halves": "In it checkpoint-5 lacks weights, step7 lacks config.json and weights.*Nor is it a model",
    "nothing/there/at/all": "There is no file or folder .*nothing/there/at/all",
    "notes.txt": "notes.txt is a file",
}


@pytest.mark.parametrize("name", LOCAL)
@pytest.mark.parametrize("asked", [[], [0, 512]])
def test_of_a_name_on_this_disk_it_is_said_what_is_lacking_and_no_hub_is_asked(name, asked, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.list_repo_refs", lambda repo: pytest.fail(f"the hub is asked for {repo}"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "halves" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "halves" / "checkpoint-5" / "config.json").write_text("{}")
    (tmp_path / "halves" / "step7").mkdir()
    with pytest.raises(ValueError, match=LOCAL[name]) as raised:
        open_by_name(str(tmp_path / name), asked)
    assert "hub" not in str(raised.value) and "repo" not in str(raised.value).lower()
    with pytest.raises(ValueError, match=LOCAL[name].split(".*Nor")[0]):
        Revisions(str(tmp_path / name), asked)
    with pytest.raises(ValueError, match="is one model"):
        Revisions("induction-2l")


def test_a_run_is_found_in_the_home_folder(run, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    found = find_checkpoints(f"~/{run.name}")
    assert isinstance(found, Run) and found.folder == run


def test_a_name_with_steps_is_published_checkpoints_and_nothing_is_fetched(monkeypatch):
    with pytest.raises(ValueError, match="'no-one/model' has no training checkpoints .* nor could it be fetched"):
        open_by_name("no-one/model", [0, 512])
    publishes(monkeypatch, "step0", "step512")
    found = open_by_name("no-one/model", [0, 512], device="cpu", dtype="float32")
    assert isinstance(found, Revisions) and (found.name, found.steps) == ("no-one/model", [0, 512])
    assert (found.device, found.dtype) == ("cpu", "float32")


def test_every_other_name_is_one_model(tmp_path):
    assert isinstance(open_by_name("induction-2l"), HookedModel)
    assert find_checkpoints("induction-2l") is None
    assert find_checkpoints(str(tmp_path), [0, 1]) is None  # a folder is here, whose steps nobody publishes
    with pytest.raises(ValueError):
        open_by_name(str(tmp_path), [0, 1])


def test_revisions_are_chosen_by_step_or_spread_evenly_and_say_how_many_tokens(monkeypatch):
    publishes(
        monkeypatch, "main", "step2000-tokens8B", tags=("step0-tokens0B", "step1000-tokens4B", "step3000-tokens12B")
    )
    every = Revisions("allenai/OLMo-1B")
    assert every.tokens == {0: 0.0, 1000: 4e9, 2000: 8e9, 3000: 12e9}
    assert Revisions("allenai/OLMo-1B", n=2).steps == [0, 3000] and Revisions("allenai/OLMo-1B", n=1).steps == [3000]
    assert Revisions("allenai/OLMo-1B", [3000, 0]).steps == [0, 3000]
    assert every.revision(2000) == "step2000-tokens8B"
    with pytest.raises(ValueError, match=r"no step 1500 among those of allenai.*Near it: 0, 1000, 2000, 3000"):
        Revisions("allenai/OLMo-1B", [1500])
    for ask in ({"n": 5}, {"n": 0}, {"n": 2, "steps": [0]}):
        with pytest.raises(ValueError, match="has 4 checkpoints; ask for steps or for n of 1 to 4"):
            Revisions("allenai/OLMo-1B", **ask)


@pytest.fixture
def trained(tmp_path) -> Path:
    """A folder of checkpoints as `transformers.Trainer` leaves it, the tokenizer beside them, and one half written."""
    folder = tmp_path / "out"
    for step in (5, 10, 100):
        random_network("llama", seed=step).save_pretrained(folder / f"checkpoint-{step}")
    (folder / "checkpoint-200").mkdir()
    (folder / "checkpoint-200" / "config.json").write_text("{}")
    (folder / "runs").mkdir()
    vocabulary = {"<unk>": 0, "<s>": 1} | {f"word{i}": i for i in range(2, 300)}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>").save_pretrained(folder)
    return folder


def test_a_trainers_folder_is_a_history_in_the_order_of_its_steps(trained):
    found = open_by_name(str(trained))
    assert isinstance(found, CheckpointFolder) and isinstance(found, Checkpoints)
    assert (found.name, found.steps) == ("out", [5, 10, 100])
    followed = follow_training(found, scores=["previous_token"], probes=())
    assert followed.runs == ["out"] and followed.steps == [5, 10, 100]
    model = found.model(100)
    assert (model.name, model.revision) == ("out", "checkpoint-100")
    assert torch.equal(model.network.lm_head.weight, random_network("llama", seed=100).lm_head.weight)
    assert open_by_name(str(trained), [10]).steps == [10] and open_by_name(str(trained), n=2).steps == [5, 100]
    with pytest.raises(ValueError, match="no step 200 among those of out: 5, 10, 100. Near it: 10, 100"):
        open_by_name(str(trained), [200])


def test_checkpoints_without_a_tokenizer_take_that_of_the_folder_they_are_in(trained):
    for model in (open_by_name(str(trained)).model(5), load_model(trained / "checkpoint-5")):
        assert model.tokenizer.get_vocab()["word3"] == 3
    (trained / "checkpoint-5").rename(trained / "another")
    assert load_model(trained / "another").tokenizer is None  # no checkpoint's name: it may be anybody's


def test_a_folder_with_a_model_and_its_checkpoints_is_the_model_until_steps_are_asked_for(trained):
    with pytest.raises(ValueError, match=r"no config.json. It holds checkpoints: checkpoint-5, checkpoint-10, checkp"):
        load_model(trained)
    random_network("llama").save_pretrained(trained)
    assert isinstance(open_by_name(str(trained)), HookedModel)
    assert isinstance(open_by_name(str(trained), [5]), CheckpointFolder)
    assert isinstance(find_checkpoints(str(trained)), CheckpointFolder)


def test_the_checkpoints_inside_a_run_are_the_run(run):
    (run / "checkpoints").mkdir()
    assert isinstance(find_checkpoints(str(run / "checkpoints")), Run)
