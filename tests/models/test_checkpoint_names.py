"""Names of checkpoints: what they say, and where they are listed."""

import pytest
import torch
from families import random_network
from hub import publishes

from induction_lab import Revisions
from induction_lab.models.checkpoint_names import parse_checkpoint, published_checkpoints

READ = {
    "step512": ("", 512, None),
    "checkpoint-1000": ("", 1000, None),
    "step1000-tokens4B": ("", 1000, 4e9),
    "stage1-step1000-tokens5B": ("stage1", 1000, 5e9),
    "stage2-ingredient3-step20-tokens0B": ("stage2-ingredient3", 20, 0.0),
    "step-125000": ("", 125000, None),
    "stage1-step-40000": ("stage1", 40000, None),
    "global_step1000": ("", 1000, None),
    "step-00000050": ("", 50, None),
    "step7-tokens1.5T": ("", 7, 1.5e12),
}


@pytest.mark.parametrize("name", READ)
def test_a_name_is_read_for_its_stage_step_and_tokens(name):
    assert parse_checkpoint(name) == (name, *READ[name])


@pytest.mark.parametrize("name", ["main", "v1.0", "step", "checkpoint-best", "step10-backup", "footstep5", "5", ""])
def test_other_names_are_no_checkpoints(name):
    assert parse_checkpoint(name) is None


def test_pretraining_is_meant_where_there_are_stages_and_others_are_asked_for(monkeypatch):
    first, second = "stage1-step1000-tokens5B", "stage2-ingredient{}-step1000-tokens5B"
    publishes(monkeypatch, "main", "step0-tokens0B", first, second.format(1), second.format(2))
    found = Revisions("allenai/OLMo-2")  # some of the first stage's names leave the stage out
    assert found.steps == [0, 1000] and found.revision(1000) == first
    assert Revisions("allenai/OLMo-2", stage="stage2-ingredient2").revision(1000) == second.format(2)
    with pytest.raises(ValueError, match=r"has the stages \(none\), stage1, stage2-ingredient1, .*; got 'stage3'"):
        Revisions("allenai/OLMo-2", stage="stage3")


def test_what_is_not_clear_is_refused(monkeypatch):
    publishes(monkeypatch, "web-step10", "code-step10")
    with pytest.raises(ValueError, match="has the stages code, web; say which is meant"):
        Revisions("some/model")
    publishes(monkeypatch, "step10", "step10-tokens1B")
    with pytest.raises(ValueError, match="two checkpoints of step 10: step10 and step10-tokens1B"):
        Revisions("some/model")
    publishes(monkeypatch, "main", "v1.0")
    with pytest.raises(ValueError, match=r"'some/model' has no training checkpoints .* but main, v1.0 published"):
        Revisions("some/model")


def cached(hub, names, *, safe=True):
    """The local cache of a GPT-2 with a revision of each name, and weights of its own in each."""
    folder = hub / "models--stanford-crfm--tiny"
    (folder / "refs").mkdir(parents=True)
    for seed, name in enumerate(names):
        commit = f"{seed:040x}"
        network = random_network("gpt2", seed=seed)
        network.save_pretrained(folder / "snapshots" / commit)
        if not safe:
            (folder / "snapshots" / commit / "model.safetensors").unlink()
            torch.save(network.state_dict(), folder / "snapshots" / commit / "pytorch_model.bin")
        (folder / "refs" / name).write_text(commit)
    return folder


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pytorch_model.bin only"])
def test_without_a_hub_revisions_are_those_in_the_cache_which_hold_weights(tmp_path, monkeypatch, safe):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = cached(tmp_path, ["checkpoint-0", "checkpoint-10", "checkpoint-2000", "main"], safe=safe)
    (folder / "refs" / "checkpoint-50").write_text("f" * 40)  # its configuration alone was looked at
    (folder / "snapshots" / ("f" * 40)).mkdir()
    (folder / "snapshots" / ("f" * 40) / "config.json").write_text("{}")
    assert [each.step for each in published_checkpoints("stanford-crfm/tiny")] == [0, 10, 2000]
    found = Revisions("stanford-crfm/tiny", [10, 2000])
    model = found.model(10)
    assert (model.name, model.revision) == ("stanford-crfm/tiny", "checkpoint-10")
    assert torch.equal(model.network.transformer.wte.weight, random_network("gpt2", seed=1).transformer.wte.weight)
    with pytest.raises(ValueError, match="no step 50 .*: 0, 10, 2000. Near it: 0, 10, 2000"):
        Revisions("stanford-crfm/tiny", [50])
