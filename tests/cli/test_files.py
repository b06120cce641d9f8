"""No command writes over what another model, or other arguments, left there."""

import json
from pathlib import Path

import pytest
import transformers as hf
from families import publish, random_network

from induction_lab import HeadScores, sweep
from induction_lab.cli.shared import own_place

QUICK = ("--no-figures", "--prompts", "2", "--period", "8", "--scores", "prefix_matching")


@pytest.fixture
def checkpoints(tmp_path):
    for seed, run in enumerate(("runA", "runB")):
        random_network("llama", seed=seed).save_pretrained(tmp_path / run / "checkpoint-1000")
        random_network("llama", seed=seed).save_pretrained(tmp_path / run / "same-name")
    return tmp_path


def tables() -> list[str]:
    return sorted(path.name for path in Path("results").glob("*.csv"))


def test_checkpoints_of_two_runs_are_told_apart_by_name(command, checkpoints):
    for run in ("runA", "runB", "runA"):
        assert command("score", f"{run}/checkpoint-1000", *QUICK)[0] == 0
    assert tables() == ["runA_checkpoint-1000.csv", "runB_checkpoint-1000.csv"]
    assert command("circuit", "runB/checkpoint-1000", "--no-figures", "--prompts", "2", "--period", "8")[0] == 0
    assert "runB_checkpoint-1000_circuit.csv" in tables()


def test_folders_of_one_name_and_other_weights_do_not_overwrite_each_other(command, checkpoints):
    kept = {}
    for run in ("runA", "runB"):
        code, out, err = command("score", f"{run}/same-name", *QUICK)
        assert code == 0 and ("holds other results and is kept" in err) == (run == "runB")
        (new,) = set(tables()) - set(kept)
        kept[new] = Path("results", new).read_bytes()
        assert new in out
    for run in ("runB", "runA"):  # the same again writes over its own
        command("score", f"{run}/same-name", *QUICK)
    assert {name: Path("results", name).read_bytes() for name in tables()} == kept


def test_other_arguments_do_not_overwrite_and_formats_share_a_name(command, checkpoints):
    command("score", "runA/same-name", *QUICK)
    command("score", "runA/same-name", *QUICK, "--seed", "1")
    assert len(tables()) == 2
    code, _, err = command("score", "runB/same-name", *QUICK, "--format", "parquet")
    assert code == 0 and "results/same-name.csv holds other results" in err
    (written,) = Path("results").glob("*.parquet")
    assert written.stem != "same-name" and HeadScores.load(written).model == "same-name"


def test_revisions_stand_in_the_name(command, tmp_path, monkeypatch):
    publish(tmp_path / "hub", "some/model", "llama", steps=(1, 2))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for step in ("step1", "step2"):
        code, _, err = command("score", "some/model", "--revision", step, *QUICK)
        assert code == 0, err
    assert tables() == ["some_model_step1.csv", "some_model_step2.csv"]


def test_files_without_facts_are_somebody_elses(tmp_path, capsys):
    place = tmp_path / "mine"
    assert own_place(place, {}) == place
    for name in ("mine.csv", "mine.json", "mine.parquet"):
        (tmp_path / name).write_text("not ours")
        assert own_place(place, {"provenance": {"model": "a"}}) != place
        (tmp_path / name).unlink()


def test_a_report_is_not_written_over_that_of_another_model(command, checkpoints):
    quick = ("--prompts", "2", "--period", "8", "--no-ablate")
    for run in ("runA", "runB", "runA"):
        code, _, err = command("report", f"{run}/checkpoint-1000", *quick)
        assert code == 0 and ("is of other models and is kept" in err) == (run == "runB"), err
    first, second = sorted(Path().glob("report*.html"))
    assert first.name == "report.html" and second.name.startswith("report_runB_checkpoint-1000_")
    assert command("report", "runB/checkpoint-1000", *quick, "-o", "report.html")[0] == 0  # the user's own word


def test_figures_are_not_drawn_over_those_of_another_model_s_table(command, checkpoints):
    quick = ("--prompts", "2", "--period", "8", "--scores", "prefix_matching")
    command("score", "runA/same-name", *quick)
    figure = Path("results/same-name_scores.png")
    before = figure.read_bytes()
    command("score", "runB/same-name", *quick, "--format", "parquet", "--out", "others")
    Path("others/same-name.parquet").rename("results/same-name.parquet")  # as people do
    code, out, err = command("plot", "results/same-name.parquet")
    assert code == 0 and "holds other results and is kept" in err and figure.read_bytes() == before
    (drawn,) = set(Path("results").glob("*_scores.png")) - {figure}
    assert drawn.name in out
    figure.unlink()
    (Path("results") / "same-name.parquet").unlink()
    code, _, err = command("plot", "results/same-name.csv")
    assert code == 0 and figure.is_file() and "is kept" not in err


def test_an_atlas_is_not_written_over_another_page(command):
    prompts = {"short": {"period": 5, "n_prompts": 2}}
    sweep({"models": ["induction-2l"], "prompts": prompts, "measurements": ["head_scores"], "device": "cpu"}, "all")
    Path("all.html").write_text("a report")
    code, out, err = command("atlas", "all")
    assert code == 0 and "all.html is another page and is kept" in err and "all_prefix_matching_0.4.html" in out
    assert Path("all.html").read_text() == "a report"
    Path("all.html").unlink()
    for options, kept in (((), False), ((), False), (("--score", "copying"), True), (("--threshold", "0.2"), True)):
        code, _, err = command("atlas", "all", *options)
        assert code == 0 and ("is kept" in err) == kept
    assert {"all.html", "all_copying_0.4.html", "all_prefix_matching_0.2.html"} <= {
        p.name for p in Path().glob("*.html")
    }


@pytest.mark.parametrize("config", [hf.OpenAIGPTConfig, hf.BertConfig, hf.ElectraConfig])
def test_networks_whose_stream_is_normalised_in_every_layer_have_a_circuit_too(command, config):
    sizes = dict(vocab_size=300, num_hidden_layers=3, num_attention_heads=4, hidden_size=48, is_decoder=True)
    hf.AutoModelForCausalLM.from_config(config(**sizes)).save_pretrained("post-norm")
    code, out, _ = command("circuit", "./post-norm", "--no-figures", "--format", "json")
    assert code == 0
    assert all(row["K"] is not None and row["qk_matching"] is not None for row in json.loads(out)["rows"])
