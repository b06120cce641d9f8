import dataclasses
import hashlib
import json
import shutil

import pytest
from families import random_network
from hub import publishes
from killing import RECIPE

from induction_lab import load_model, load_sweep_plan, sweep
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.sweeps import plan as plan_module
from induction_lab.sweeps.prompt_settings import RepeatsSpec, prompts_identity
from induction_lab.training.one_run import train_run

WHOLE = """
seeds = [0, 1]
device = "cpu"
[[models]]
name = "induction-2l"
[[models]]
name = "no/such-model-70m"
steps = [0, 512]
label = "family"
[prompts.short]
kind = "repeats"
period = 5
n_prompts = 2
[prompts.words]
kind = "text"
file = "words.txt"
[measurements.losses]
[measurements.edges]
kind = "circuit"
edges = 3
"""


def plan(**changes) -> dict:
    base = {"models": ["induction-2l"], "prompts": {"short": {"period": 5}}, "measurements": ["losses"]}
    return base | changes


def test_a_file_becomes_cells_of_everything_with_everything_that_fits(tmp_path, monkeypatch):
    publishes(monkeypatch, "main", "step0", "step256", "step512")
    (tmp_path / "sweep.toml").write_text(WHOLE)
    (tmp_path / "words.txt").write_text("one two three")
    chosen = load_sweep_plan(tmp_path / "sweep.toml")
    cells = chosen.cells()
    assert len(cells) == (1 + 2) * 3 * 2 == len({cell.key for cell in cells}) == len({cell.place_key for cell in cells})
    assert chosen.left_out == ["edges on words: it wants repeated tokens"]
    assert [str(cell.snapshot) for cell in cells[::6]] == ["induction-2l", "family step0", "family step512"]
    assert [cell.snapshot.step for cell in cells[::6]] == [None, 0, 512]
    assert str(cells[0]) == "induction-2l: losses on short, seed 0"


def test_a_key_is_the_hash_of_what_determines_the_cell(monkeypatch):
    monkeypatch.setattr(plan_module, "DEFINITIONS_VERSION", 1)
    (cell,) = load_sweep_plan(plan(models=["no/such-model"])).cells()
    facts = {
        "definitions": 1,
        "dtype": "float32",
        "measurement": {"kind": "losses"},
        "model": "no/such-model",
        "name": "losses",
        "prompts": {"gap": 0, "kind": "repeats", "n_prompts": 16, "n_repeats": 2, "period": 5},
        "prompts_name": "short",
        "revision": None,
        "seed": 0,
        "weights": "hub:no/such-model",
    }
    text = json.dumps(facts, separators=(",", ":"), sort_keys=True)
    assert cell.key == hashlib.sha256(text.encode()).hexdigest()[:32] == "c9579a44c92ab2fe3a3bfedee845c416"
    monkeypatch.setattr(plan_module, "DEFINITIONS_VERSION", 2)
    (other,) = load_sweep_plan(plan(models=["no/such-model"])).cells()
    assert other.key != cell.key and other.place_key == cell.place_key


def test_what_determines_the_numbers_changes_the_key_and_nothing_else_does(tmp_path):
    def key(**changes) -> str:
        return load_sweep_plan(plan(**changes)).cells()[0].key

    text = tmp_path / "a.txt"
    text.write_text("one")
    words = {"words": {"kind": "text", "file": str(text)}}
    base, on_text = key(), key(prompts=words)
    assert key(seeds=[0, 1]) == base == key(device="cpu")
    others = [
        {"seeds": [1]},
        {"dtype": "float64"},
        {"prompts": {"short": {"period": 6}}},
        {"prompts": {"other": {"period": 5}}},
        {"measurements": ["head_scores"]},
        {"measurements": {"losses": {"kind": "head_scores", "scores": ["copying"]}}},
        {"models": [{"name": "induction-2l", "label": "ours"}]},
    ]
    assert len({key(**other) for other in others} | {base, on_text}) == len(others) + 2
    moved = tmp_path / "b.txt"
    moved.write_text("one")
    assert key(prompts={"words": {"kind": "text", "file": str(moved)}}) == on_text
    text.write_text("two")
    assert key(prompts=words) != on_text


def test_local_weights_are_known_by_their_contents(tmp_path):
    def key(folder, label="ours") -> str:
        return load_sweep_plan(plan(models=[{"name": str(folder), "label": label}])).cells()[0].key

    config = AttentionOnlyConfig(d_vocab=20)
    AttentionOnlyTransformer(config, seed=0).save(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    AttentionOnlyTransformer(config, seed=1).save(tmp_path / "two")
    assert key(tmp_path / "one") == key(tmp_path / "copy") != key(tmp_path / "two")
    (tmp_path / "one" / "notes.txt").write_text("mine")
    assert key(tmp_path / "one") == key(tmp_path / "copy")


def test_a_run_gives_its_checkpoints(tmp_path):
    run = train_run(RECIPE, tmp_path / "run", device="cpu")
    every = load_sweep_plan(plan(models=[str(run.folder)])).cells()
    assert [cell.snapshot.step for cell in every] == run.steps and len({cell.key for cell in every}) == len(run.steps)
    some = load_sweep_plan(plan(models=[{"name": str(run.folder), "steps": [5, 99]}])).cells()
    assert some[0].key == every[-1].key and some[0].place["revision"] == "step5"
    with pytest.raises(ValueError, match="has no step 99; it has 0, 1"):
        some[1].snapshot.load(device="cpu", dtype="float32")
    model = some[0].snapshot.load(device="cpu", dtype="float64")
    assert str(model.dtype) == "torch.float64"


def test_a_folder_of_checkpoints_gives_each_of_them(tmp_path):
    for step in (5, 10, 100):
        random_network("llama", seed=step).save_pretrained(tmp_path / "out" / f"checkpoint-{step}")
    every = load_sweep_plan(plan(models=[str(tmp_path / "out")]))
    cells = every.cells()
    assert every.elsewhere == [] and len({cell.key for cell in cells}) == 3
    assert [cell.place["revision"] for cell in cells] == ["step5", "step10", "step100"]
    (last,) = load_sweep_plan(plan(models=[{"name": str(tmp_path / "out"), "n": 1}])).cells()
    assert last.key == cells[-1].key and last.snapshot.load(device="cpu", dtype="float32").n_layers == 2


def test_revisions_of_other_names_are_found_by_their_steps(monkeypatch):
    publishes(monkeypatch, "main", *(f"step{step}-tokens{step // 250}B" for step in (0, 1000, 2000)))
    chosen = load_sweep_plan(plan(models=[{"name": "allenai/OLMo-1B", "n": 2}]))
    places = [(cell.snapshot.revision, cell.snapshot.step) for cell in chosen.cells()]
    assert places == [("step0-tokens0B", 0), ("step2000-tokens8B", 2000)] and chosen.elsewhere == ["allenai/OLMo-1B"]
    named = load_sweep_plan(plan(models=[{"name": "allenai/OLMo-1B", "revisions": ["step1000-tokens4B"]}])).cells()
    assert named[0].snapshot.step == 1000
    with pytest.raises(ValueError, match="no step 7 among those of allenai/OLMo-1B"):
        load_sweep_plan(plan(models=[{"name": "allenai/OLMo-1B", "steps": [7]}])).cells()


def test_blocks_are_as_long_as_a_model_has_room_for_unless_their_length_is_said(tmp_path):
    room = {"short": (21, 300), "few": (300, 13), "roomy": (300, 300)}
    sizes = {name: {"n_ctx": n_ctx, "d_vocab": d_vocab} for name, (n_ctx, d_vocab) in room.items()}
    models = {}
    for name, size in sizes.items():
        AttentionOnlyTransformer(AttentionOnlyConfig(**size)).save(tmp_path / name)
        models[name] = load_model(tmp_path / name)
    spec, said = RepeatsSpec(n_prompts=2), RepeatsSpec(n_prompts=2, period=50)
    found = {name: spec.prompts(model, 0) for name, model in models.items()}
    assert {name: prompts.period for name, prompts in found.items()} == {"short": 10, "few": 12, "roomy": 50}
    assert found["roomy"].tokens.equal(said.prompts(models["roomy"], 0).tokens) and "not 50" in found["few"].note
    with pytest.raises(ValueError, match="prompts of 101 tokens"):
        said.prompts(models["short"], 0)
    assert spec.n_tokens == said.n_tokens == 202
    names = [{"name": str(tmp_path / name)} for name in sizes]
    every = plan(models=names, prompts={"default": {}}, measurements=["head_scores", "losses", "circuit"])
    assert not sweep({**every, "device": "cpu"}, tmp_path / "all").failed


def test_a_text_is_cut_and_drawn_by_the_seed(smollm2, tmp_path):
    (tmp_path / "words.txt").write_text("one two three four five six seven eight nine ten " * 20)
    words = {"kind": "text", "file": str(tmp_path / "words.txt"), "n_prompts": 2, "length": 8}
    spec = load_sweep_plan(plan(prompts={"words": words})).prompts["words"]
    drawn = [spec.prompts(smollm2, seed) for seed in (0, 0, 1)]
    assert drawn[0].tokens.shape == (2, 8) and drawn[0].tokens.equal(drawn[1].tokens)
    assert not drawn[0].tokens.equal(drawn[2].tokens) and spec.n_tokens == 16


MISTAKES = {
    "no models": ({"models": []}, "needs `models`"),
    "models are no list": ({"models": "gpt2"}, "`models` is a list"),
    "a model without name": ({"models": [{"label": "x"}]}, "a table with a `name`"),
    "unknown entry of a model": ({"models": [{"name": "gpt2", "step": [1]}]}, r"\[models\] has no step"),
    "steps that are none": (
        {"models": [{"name": "gpt2", "steps": ["1"]}]},
        "must be a list, each a whole number",
    ),
    "negative steps": ({"models": [{"name": "gpt2", "steps": [-1]}]}, "must not be negative"),
    "one step twice": ({"models": [{"name": "gpt2", "steps": [1, 1]}]}, "must differ"),
    "both revisions and steps": ({"models": [{"name": "g", "steps": [1], "revisions": ["a"]}]}, "without `steps`"),
    "steps of one model": ({"models": [{"name": "induction-2l", "steps": [1]}]}, "are for training runs"),
    "revisions of a folder": ({"models": [{"name": "induction-2l", "revisions": ["a"]}]}, "Hugging Face ids"),
    "one label twice": ({"models": ["gpt2", "gpt2"]}, "labels of models must differ"),
    "a label too long": ({"models": [{"name": "gpt2", "label": "x" * 201}]}, "1 to 200 characters"),
    "a label too long in a folder's name": ({"models": [{"name": "gpt2", "label": "é" * 70}]}, "fewer beyond ASCII"),
    "unknown section": ({"model": []}, "unknown entries"),
    "seeds are no list": ({"seeds": 3}, "`seeds` is a list of whole numbers"),
    "seeds twice": ({"seeds": [1, 1]}, "seeds must differ"),
    "negative seed": ({"seeds": [-1]}, "0 or more"),
    "unknown dtype": ({"dtype": "int8"}, "`dtype` must be one of"),
    "a device that is none": ({"device": "banana"}, "`device` is a name such as cpu, cuda or auto"),
    "unknown method": ({"measurements": {"ablation": {"method": "x"}}}, "`method` must be one of"),
    "device is a number": ({"device": 0}, "`device` is a name"),
    "unknown kind of prompts": ({"prompts": {"a": {"kind": "songs"}}}, "must be one of repeats, text"),
    "prompts without tables": ({"prompts": {"a": 3}}, "are sections"),
    "text without file": ({"prompts": {"a": {"kind": "text"}}}, "needs a `file`"),
    "text that is not there": ({"prompts": {"a": {"kind": "text", "file": "no.txt"}}}, "cannot be read"),
    "one repeat": ({"prompts": {"a": {"n_repeats": 1}}}, "n_repeats ≥ 2"),
    "unknown setting": ({"prompts": {"a": {"length": 1}}}, r"\[prompts.a\] has no length"),
    "unknown measurement": ({"measurements": ["weight"]}, "needs `kind`, one of"),
    "unknown score": ({"measurements": {"head_scores": {"scores": ["x"]}}}, "Unknown scores"),
    "unknown metric": ({"measurements": {"ablation": {"metric": "x"}}}, "`metric` must be one of"),
    "no edges": ({"measurements": {"circuit": {"edges": 0}}}, "at least 1"),
    "no heads": ({"measurements": {"ablation": {"most": 0}}}, "at least 1"),
    "no function": ({"measurements": {"function": {}}}, "needs a `function`"),
    "a function that is nowhere": ({"measurements": {"function": {"function": "nowhere:f"}}}, "must be module:name"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_clear_error(mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        load_sweep_plan(plan(**changes))


@pytest.mark.parametrize("text", ["seeds = [", "seeds = 1", None, b"\xff"])
def test_a_file_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "sweep.toml"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match="sweep.toml"):
        load_sweep_plan(path)


@pytest.mark.parametrize("name", ["./nowhere", "words.gguf"])
def test_a_folder_that_is_not_there_is_a_mistake_of_the_plan(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="There is no file or folder"):
        load_sweep_plan(plan(models=[name])).cells()


def test_cells_can_be_sent_to_other_machines(tmp_path):
    import pickle

    (tmp_path / "words.txt").write_text("one two three")
    words = {"kind": "text", "file": str(tmp_path / "words.txt")}
    (cell,) = load_sweep_plan(plan(prompts={"words": words})).cells()
    sent = pickle.dumps(cell)
    (tmp_path / "words.txt").unlink()
    back = pickle.loads(sent)
    assert back == cell and back.key == cell.key and back.prompts.text == "one two three"
    assert dataclasses.is_dataclass(back)


def test_a_period_left_to_the_model_is_of_the_identity_that_fifty_has():
    """Cells measured when 50 was written out are not measured again."""
    assert prompts_identity(RepeatsSpec()) == prompts_identity(RepeatsSpec(period=50))
    assert prompts_identity(RepeatsSpec(period=25)) != prompts_identity(RepeatsSpec())
