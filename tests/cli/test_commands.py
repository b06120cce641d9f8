import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import transformers as hf
from families import random_network

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HeadScores
from induction_lab.cli.app import main
from induction_lab.runtime.machine import CACHE_VARIABLE

COMMAND = [str(Path(sys.executable).with_name("induction-lab"))]
PNG = b"\x89PNG"


def run(*arguments, cwd, **extra):
    environment = {**os.environ, "COLUMNS": "80", "TERM": "dumb", **extra}
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The main job, run once."""
    folder = tmp_path_factory.mktemp("score")
    return folder, run("score", cwd=folder)


def test_the_main_job_says_what_the_model_does_and_where_the_files_went(scored):
    folder, done = scored
    assert done.returncode == 0, done.stderr
    assert re.search(r"loss 5\.\d+ nats on the first\s+copy, 0\.0\d on the second copy", done.stdout)
    assert "4 of 8 heads exceed 0.4 in prefix_matching, 4 are above chance" in done.stdout.replace("\n", " ")
    assert re.search(r"prefix_matching +0\.014 +L1H\d 0\.9\d±0\.\d\d", done.stdout)
    assert re.search(r"previous_token +0\.037 +L0H\d 0\.[89]\d", done.stdout)
    files = re.findall(r"^  (results/\S+)$", done.stdout, re.MULTILINE)
    assert len(files) == 4 and all((folder / name).stat().st_size > 1000 for name in files)
    assert all((folder / name).read_bytes()[:4] == PNG for name in files if name.endswith(".png"))


@pytest.mark.parametrize(("prompts", "warned"), [("4", True), ("5", False)])
def test_prompts_too_few_for_a_lone_head_are_pointed_out(tmp_path, prompts, warned):
    done = run("score", "--prompts", prompts, "--scores", "prefix_matching", "--no-figures", cwd=tmp_path)
    said = done.stdout.replace("\n", " ")
    assert re.search(r"\d are above chance", said)
    assert (
        "a lone head could not pass the correction over all heads: use 5 or more" in " ".join(said.split())
    ) == warned


def test_an_explanation_is_a_table_a_verdict_on_the_whole_files_and_a_picture(tmp_path):
    done = run("explain", "--prompts", "4", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"^L0H3 +previous-token +\+[23]\.\d+±0\.\d+ ", done.stdout, re.MULTILINE)
    assert len(re.findall(r"^L1H\d +induction ", done.stdout, re.MULTILINE)) == 4
    assert re.search(r"faithfulness: the circuit of \d heads alone keeps (0\.9\d|1\.00) of it", done.stdout)
    stem = tmp_path / "results" / "induction-2l_explained"
    assert json.loads(stem.with_suffix(".json").read_text())["tests"][0]["heads"] == "circuit"
    assert stem.with_suffix(".png").read_bytes()[:4] == PNG
    (kept,) = stem.parent.glob("induction-2l_explained_sweep_????????.parquet")
    before = kept.stat().st_mtime_ns
    again = run("explain", "--prompts", "4", "--no-figures", "--format", "json", cwd=tmp_path)
    assert kept.stat().st_mtime_ns == before and json.loads(again.stdout)["model"] == "induction-2l"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "1"], "Two or more prompts of a block written twice are wanted"),
        (["--random", "-1"], "--random must not be negative, got -1"),
        (["--period", "100"], "the model's context holds 128"),
    ],
)
def test_what_cannot_be_explained_is_refused_in_one_message(tmp_path, arguments, said):
    done = run("explain", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in " ".join(done.stderr.split()) and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_circuit_is_a_table_a_file_and_a_picture(tmp_path):
    done = run("circuit", "--top", "3", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert "induction-2l, 8 heads: most likely L0H3 → keys of L1H3." in done.stdout
    assert re.search(r"^L0H3 +L1H3 +0\.8\d+ +0\.9\d+ +0\.0\d+ +1 ", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert (tmp_path / "results/induction-2l_circuit.png").read_bytes()[:4] == PNG
    assert len(pd.read_csv(tmp_path / "results/induction-2l_circuit.csv")) == 3


def test_the_circuit_as_json_is_for_programs(tmp_path):
    done = run("circuit", "--format", "json", "--no-figures", "--top", "2", cwd=tmp_path)
    facts = json.loads(done.stdout)
    assert [row["previous"] for row in facts["rows"]] == ["L0H3", "L0H3"] and facts["baseline"] > 0.1
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["induction-2l_circuit.json"]


def test_a_model_without_a_circuit_is_said_to_have_none(tmp_path):
    config = AttentionOnlyConfig(d_vocab=200, n_ctx=128)
    AttentionOnlyTransformer(config).save(tmp_path / "untrained")
    done = run("circuit", "untrained", "--no-figures", cwd=tmp_path)
    assert done.returncode == 0 and "no induction circuit shows: the nearest to one is" in done.stdout


@pytest.mark.parametrize("arguments", [["--top", "0"], ["--period", "1000"], ["no-such-model"]])
def test_a_circuit_that_cannot_be_found_is_one_message(tmp_path, arguments):
    done = run("circuit", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_output_fits_80_columns_and_is_plain_where_piped(scored):
    _, done = scored
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout + done.stderr and done.stderr == ""


def run_on_terminal(*arguments, cwd) -> tuple[int, bytes]:
    """Exit code, and all that a terminal was sent."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen([*COMMAND, *arguments], stdout=terminal, stderr=terminal, cwd=cwd, env=environment)
    os.close(terminal)
    shown = io.BytesIO()
    while True:
        try:
            shown.write(os.read(controller, 4096))
        except OSError:  # the command has ended
            break
    os.close(controller)
    return process.wait(), shown.getvalue()


def test_output_is_coloured_on_a_terminal(tmp_path):
    code, shown = run_on_terminal("models", cwd=tmp_path)
    assert code == 0 and b"\x1b[1m" in shown and b"\x1b[32mready" in shown


def test_an_error_on_a_terminal_stands_on_a_line_of_its_own(tmp_path):
    code, shown = run_on_terminal("score", "--scores", "none", cwd=tmp_path)
    assert code == 2
    loading, error = shown.split(b"\r\x1b[K")[-2:]  # what stands between two erasures of the line
    assert loading.startswith(b"loading libraries") and re.match(rb"(\x1b\[\d+m)?error: Unknown scores", error)


def test_the_written_scores_are_the_librarys(scored):
    from induction_lab import load_model, score_heads

    folder, _ = scored
    again = HeadScores.load(folder / "results" / "induction-2l.csv")
    direct = score_heads(load_model())
    for name in direct.scores:
        assert (again[name] - direct[name]).abs().max() < 1e-5, name
    assert again.provenance["prompts"]["seed"] == 0 and again.q_values


def test_plot_draws_what_score_wrote(scored):
    folder, _ = scored
    for arguments, name in [
        ([], "induction-2l_scores.png"),
        (["--score", "copying"], "induction-2l_copying.png"),
        (["--by-layer"], "induction-2l_prefix_matching_by_layer.png"),
        (["-o", "new/sheet.svg"], "new/sheet.svg"),
    ]:
        done = run("plot", "results/induction-2l.csv", *arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        path = folder / name if name.startswith("new") else folder / "results" / name
        assert path.stat().st_size > 1000 and str(name) in done.stdout


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_programs_get_the_table_alone_on_standard_output(tmp_path, kind):
    few = ["--prompts", "2", "--period", "10", "--scores", "prefix_matching,ov_copying", "--no-figures"]
    done = run("score", *few, "--format", kind, "--no-chance", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(io.StringIO(done.stdout)) if kind == "csv" else pd.DataFrame(json.loads(done.stdout)["rows"])
    assert len(table) == 16 and set(table.score) == {"prefix_matching", "ov_copying"}
    assert f"results/induction-2l.{kind}" in done.stderr


def test_parquet_is_written_as_a_file(tmp_path):
    done = run("score", "--prompts", "2", "--scores", "resting", "--format", "parquet", "--out", "o", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout == ""
    assert len(pd.read_parquet(tmp_path / "o" / "induction-2l.parquet")) == 8


def test_a_real_model_is_scored_on_a_text(tmp_path, smollm2):
    (tmp_path / "story.txt").write_text(
        "Mara Quillon rowed out. The gulls knew Mara Quillon, and Mara Quillon knew them."
    )
    done = run(
        "score", "smollm2-135m", "--text", "story.txt", "--scores", "prefix_matching", "--no-figures", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "on 1 prompt of up to" in done.stdout and re.search(r"prefix_matching +0\.\d+ +L1[78]H", done.stdout)
    assert (tmp_path / "results" / "smollm2-135m_story.csv").is_file()


def test_models_lists_what_is_here_and_how_to_bring_the_rest(tmp_path):
    done = run("models", cwd=tmp_path, **{CACHE_VARIABLE: str(tmp_path)})
    assert done.returncode == 0 and max(map(len, done.stdout.splitlines()[:5])) <= 80
    assert re.search(r"induction-2l .* ready", done.stdout)
    assert re.search(r"smollm2-135m .* no: 93 MB download", done.stdout) and "induction-lab get NAME" in done.stdout


@pytest.mark.parametrize("command", [[], ["score"], ["models"], ["get"], ["plot"]])
def test_help_says_what_and_shows_an_example(tmp_path, command):
    done = run(*command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    if command:
        assert "Example" in done.stdout and f"induction-lab {command[0]}" in done.stdout


MISTAKES = {
    "unknown model": (["score", "./no-model"], "There is no file or folder"),
    "model not here yet": (["score", "smollm2-135m"], "induction-lab get smollm2-135m"),
    "hub without network": (["score", "no/such-model"], "nor could it be fetched"),
    "damaged weights": (["score", "damaged"], "holds no readable causal language model"),
    "a model that is not causal": (["score", "bidirectional"], "is not causal"),
    "unknown score": (["score", "--scores", "prefix"], "there are prefix_matching"),
    "period beyond the context": (["score", "--period", "90"], "context holds 128"),
    "too few repeats": (["score", "--repeats", "1"], "at least 2"),
    "negative prompts": (["score", "--prompts", "-1"], "--prompts must be at least 1"),
    "no prompts": (["score", "--prompts", "0"], "--prompts must be at least 1"),
    "length without a text": (["score", "--length", "20"], "--length goes with --text"),
    "text for a model without a tokenizer": (["score", "--text", "text.txt"], "no tokenizer"),
    "text that is not there": (["score", "--text", "none.txt"], "cannot be read as UTF-8"),
    "text that is no text": (["score", "--text", "binary.txt"], "cannot be read as UTF-8"),
    "unknown device": (["score", "--device", "tpu"], "There is no device 'tpu'"),
    "unknown dtype": (["score", "--dtype", "int8"], "`dtype` must be one of"),
    "unknown format": (["score", "--format", "xlsx"], "'xlsx' is not one of"),
    "no number": (["score", "--period", "many"], "unable to parse string as an integer"),
    "output folder is a file": (["score", "--prompts", "1", "--out", "text.txt"], "cannot be written"),
    "zero batch": (["score", "--batch-size", "0"], "--batch-size must be at least 1"),
    "unknown weighing": (["score", "--weigh", "norms"], "Attention is weighed by 'values'"),
    "plot of nothing": (["plot", "none.csv"], "There is no file none.csv"),
    "plot of something else": (["plot", "text.txt"], "kept as .parquet, .csv, .json"),
    "get of an unknown model": (["get", "gpt2"], "`get` brings smollm2-135m"),
    "unknown command": (["scores"], "No such command"),
}


def save_models(mistake: str, folder: Path) -> list[str]:
    """The folders that a mistake needs."""
    if mistake == "damaged weights":
        random_network("llama").save_pretrained(folder / "damaged")
        weights = folder / "damaged" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        return ["damaged"]
    if mistake == "a model that is not causal":
        config = hf.BertConfig(vocab_size=99, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        hf.BertLMHeadModel(config).save_pretrained(folder / "bidirectional")
        return ["bidirectional"]
    return []


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_users_mistake_is_one_message_exit_code_2_and_nothing_left_behind(tmp_path, mistake, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("some text")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    given = {"text.txt", "binary.txt", *save_models(mistake, tmp_path)}
    arguments, message = MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", ["induction-lab", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = re.sub(r"[\s│]+", " ", capsys.readouterr().err)
    assert message in said and "Traceback" not in said
    assert len(said.partition("error: ")[2].replace(str(tmp_path), "")) <= 3 * 80, said
    left = {path.name for path in tmp_path.iterdir()} - given
    assert left <= {"cache"} and not list(tmp_path.rglob("*.csv"))


WRONG_VALUES = {
    "--weigh norms": ["score", "--weigh", "norms"],
    "--batch-size 0": ["score", "--batch-size", "0"],
    "--gap -1": ["score", "--gap", "-1"],
    "--repeats 1": ["score", "--repeats", "1"],
    "--length 1": ["score", "--text", "text.txt", "--length", "1"],
    "circuit --top 0": ["circuit", "--top", "0"],
    "circuit --prompts 0": ["circuit", "--prompts", "0"],
    "explain --prompts 0": ["explain", "--prompts", "0"],
    "heads --period 0": ["heads", "--period", "0"],
    "report --period 0": ["report", "--period", "0"],
}


@pytest.mark.parametrize("wrong", WRONG_VALUES)
def test_a_wrong_value_is_told_before_a_model_is_looked_for(tmp_path, wrong, monkeypatch, capsys):
    (tmp_path / "text.txt").write_text("some text")
    monkeypatch.chdir(tmp_path)
    command, *options = WRONG_VALUES[wrong]
    monkeypatch.setattr(sys, "argv", ["induction-lab", command, "./no-model", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "There is no file or folder" not in said
    assert options[-1].strip("-") in said


def test_a_mistake_on_the_command_line_itself_has_no_traceback(tmp_path):
    done = run("plot", "none.csv", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: There is no file none.csv.\n")


def test_help_costs_less_than_a_second_of_processor_time(tmp_path):
    """Not a race against the clock: processor time of the child, and the limit is three times what it takes."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help", cwd=tmp_path).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0


def test_weighed_scores_say_so_and_have_files_of_their_own(tmp_path):
    done = run("score", "--weigh", "values", "--prompts", "5", "--no-figures", cwd=tmp_path)
    assert done.returncode == 0 and "attention counts by the size of the values" in done.stdout
    assert [path.name for path in (tmp_path / "results").glob("*.csv")] == ["induction-2l_by_values.csv"]
    refused = run("score", "--weigh", "norms", cwd=tmp_path)
    assert refused.returncode == 2 and "weighed by 'values', or not at all" in " ".join(refused.stderr.split())
