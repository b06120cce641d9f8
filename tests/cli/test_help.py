"""What helps at the command line: names that were meant, places to write to, how far a job came, runs there are."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from families import random_network
from typer.main import get_command

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    ablation_sweep,
    load_model,
    repeated_tokens,
    score_heads,
)
from induction_lab.cli.app import app
from induction_lab.runtime import progress
from induction_lab.runtime.nearest import did_you_mean

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
WRITING = {name for name, one in COMMANDS.items() if any(each.name == "out" for each in one.params)}
NEEDED = {"plot": ["scores.csv"], "sweep": ["plan.toml"], "atlas": ["folder"], "follow": ["runs/x"], "get": ["x"]}


def test_a_near_name_is_asked_for_and_a_far_one_is_not():
    known = ["smollm2-135m", "prefix_matching", "function-vector"]
    assert did_you_mean("smollm2-135", known) == " Did you mean smollm2-135m?"
    assert did_you_mean("Prefix-Matching", known) == " Did you mean prefix_matching?"
    assert did_you_mean(["x", "function_vectors"], known) == " Did you mean function-vector?"
    assert did_you_mean("zebra", known) == ""


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["score", "smollm2-135"], "smollm2-135m"),
        (["score", "./induction-2"], "induction-2l"),
        (["get", "smolm2-135m"], "smollm2-135m"),
        (["score", "--scores", "prefix_match"], "prefix_matching"),
        (["heads", "--kinds", "inductoin"], "induction"),
        (["train", "minutes"], "minute"),
        (["score", "--dtype", "bfloat"], "bfloat16"),
        (["follow", "runs/x", "--score", "previous-tokens"], "previous_token"),
        (["scor"], "'score'"),
        (["score", "--promts", "3"], "--prompts"),
    ],
    ids=" ".join,
)
def test_commands_ask_whether_another_name_was_meant(command, arguments, meant):
    code, _, err = command(*arguments)
    assert code == 2 and meant in err and ("Did you mean" in err or "Possible options" in err)


def test_functions_ask_too():
    model = load_model()
    for call in (
        lambda: ablation_sweep(model, repeated_tokens(model), method="means"),
        lambda: score_heads(model, scores="copy"),
    ):
        with pytest.raises(ValueError, match=r"Did you mean (mean|copying)\?"):
            call()


@pytest.mark.parametrize("name", sorted(WRITING))
@pytest.mark.parametrize("place", ["file/below", "closed/below"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_looked_for(name, place, command, monkeypatch):
    Path("file").write_text("here")
    Path("closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, how: Path(path).name != "closed")
    code, _, err = command(name, *NEEDED.get(name, ["./no-model"] if name != "train" else ["minute"]), "--out", place)
    assert code == 2 and f"{place} cannot be written" in err and "Give another --out" in err
    assert sorted(path.name for path in Path().iterdir()) == ["closed", "file"]


def test_every_command_that_writes_is_looked_at():
    assert set(COMMANDS) - WRITING == {"explore", "get", "models", "predict"}


@pytest.mark.parametrize(
    ("name", "where", "said"),
    [
        ("score", "induction_lab.scores.scoring.score_heads", "Nothing was written"),
        ("explain", "induction_lab.circuits.explaining.explain", "the same command goes on"),
    ],
)
def test_interrupted_it_says_how_far_it_came_and_how_to_go_on(command, monkeypatch, name, where, said):
    def interrupted(*args, **kwargs):
        with progress.progress_bar(540, "ablating heads", shown=True) as tick:
            tick(120)
            raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    code, out, err = command(name)
    assert code == 130 and "interrupted at ablating heads: 120 of 540." in err and said in err
    assert "Traceback" not in err and out == ""


def test_piped_a_long_job_says_now_and_then_where_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    with progress.progress_bar(300, "reading rows", shown=True, done=100) as tick:
        tick(50)
        tick(100, note="last cell 3 s")
    assert capsys.readouterr().err == "reading rows: 150 of 300\nreading rows: 250 of 300  last cell 3 s\n"
    monkeypatch.setattr(progress, "SECONDS", 30.0)
    with progress.progress_bar(3, "reading rows", shown=True) as tick:  # a short one says nothing
        tick(3)
    assert capsys.readouterr().err == "" and progress.how_far() == ""


def test_follow_says_which_runs_there_are(command, monkeypatch):
    code, _, err = command("follow")
    assert code == 2 and "Which run? Train one: induction-lab train minute" in err
    for step in (1, 2):
        network = AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=33))
        network.save(f"runs/tiny/checkpoint-{step}")
    for arguments in ([], ["runs/tiny2"]):
        code, _, err = command("follow", *arguments)
        assert code == 2 and "Here are runs/tiny." in err
    assert "Did you mean runs/tiny?" in err


def test_score_lists_heads_above_a_threshold_and_nothing_else(command):
    code, out, err = command("score", "--above", "0.95", "--format", "json")
    rows = json.loads(out)
    assert code == 0 and err == "" and not list(Path().iterdir())
    wanted = score_heads(load_model(), repeated_tokens(load_model()), scores=["prefix_matching"])
    assert [row["label"] for row in rows] == [str(head) for head in wanted.above("prefix_matching", 0.95)]
    assert [row["value"] for row in rows] == pytest.approx([value for _, value in wanted.top(None, len(rows))])
    code, out, _ = command("score", "--above", "0.8", "--scores", "previous_token")
    assert (code, out) == (0, "L0H3 0.894\n")
    code, out, _ = command("score", "--above", "2", "--format", "csv")
    assert code == 0 and out.startswith("label,layer,head,value,score,above,model,") and out.count("\n") == 1


def test_each_row_of_a_list_says_where_it_comes_from(command):
    for more in ((), ("--per-kv",)):
        code, out, _ = command("score", "--above", "0.9", "--seed", "3", "--prompts", "4", "--format", "json", *more)
        rows, facts = json.loads(out), score_heads(load_model(), repeated_tokens(load_model(), n_prompts=4, seed=3))
        assert code == 0 and len(rows) >= 3
        known = facts.provenance
        for row in rows:
            assert row["weights_sha256"] == known["weights_sha256"] and row["dtype"] == "float32"
            assert row["tokens_sha256"] == known["prompts"]["tokens_sha256"] and row["revision"] is None
            assert (row["model"], row["score"], row["above"]) == ("induction-2l", "prefix_matching", 0.9)
            assert (row["seed"], row["prompts"]) == (3, "4 x 101 tokens; repeated, period 50, 2 copies")
            assert row["induction_lab"] == known["versions"]["induction-lab"]


def test_heads_above_are_grouped_by_the_key_value_head_that_they_read(command):
    random_network("llama").save_pretrained("model")
    how = ("score", "model", "--above", "0", "--format", "json")
    heads, groups = (json.loads(command(*how, *more)[1]) for more in ((), ("--per-kv",)))
    n_heads, n_kv_heads = load_model("model").n_heads, load_model("model").n_kv_heads
    assert heads and n_kv_heads < n_heads
    wanted = {}
    for row in heads:
        wanted.setdefault((row["layer"], row["head"] * n_kv_heads // n_heads), []).append(row)
    assert [(row["layer"], row["kv_head"]) for row in groups] == list(wanted)
    for row, of_it in zip(groups, wanted.values(), strict=True):
        assert row["heads"].split() == [each["label"] for each in of_it]
        assert row["value"] == of_it[0]["value"] and row["label"] == f"L{row['layer']}KV{row['kv_head']}"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--per-kv"], "--per-kv goes with --above"),
        (["--above", "0.4", "--format", "parquet"], "--format table, csv or json"),
        (["--above", "0.4", "--scores", "copying,resting"], "one name as --scores"),
    ],
)
def test_a_list_that_cannot_be_had_is_refused(command, options, said):
    code, _, err = command("score", *options)
    assert code == 2 and said in err


@pytest.mark.parametrize("name", ["score", "heads", "circuit", "explain", "predict"])
def test_commands_take_run_folders_and_measure_the_last_checkpoint(command, name):
    small = {"score": ["--prompts", "2"], "heads": ["--prompts", "2", "--kinds", "induction"], "predict": ["1 2 3"]}
    small |= {"circuit": ["--prompts", "2"], "explain": ["--prompts", "2", "--random", "1", "--exact"]}
    for step in (1, 20):
        AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=64), seed=step).save(f"runs/tiny/checkpoint-{step}")
    code, out, err = command(name, "runs/tiny", *small[name])
    if name == "predict":
        assert code == 2 and "tokenizer" in err
        return
    assert code == 0, err
    one = [command(name, f"runs/tiny/checkpoint-{step}", *small[name], "--out", f"of-{step}")[1] for step in (20, 1)]
    numbers = [re.findall(r"L\dH\d|-?\d\.\d+", said.partition("written")[0]) for said in (out, *one)]
    assert numbers[0] == numbers[1] != numbers[2] and numbers[0]


def test_report_says_what_the_page_says_first_and_opens_it(command, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    code, out, err = command("report", "--no-ablate", "--prompts", "4", "--open")
    assert code == 0, err
    said = " ".join(out.split())
    assert "On 4 prompts of 50 random tokens written twice, induction-2l predicts the first copy at 5.5" in said
    assert "4 of 8 heads are induction heads" in said and "(0.99)." in said and "<" not in said
    assert opened == [(Path().resolve() / "report.html").as_uri()]


def test_of_a_model_all_of_whose_heads_are_the_circuit_no_share_is_a_finding(capsys):
    import pandas as pd

    from induction_lab import Explanation
    from induction_lab.circuits.explanation import EDGES, TESTS
    from induction_lab.cli.terminal import show_explanation

    row = {"verdict": "carrier", "previous_token": 0.1, "prefix_matching": 0.1, "logit_attribution": 0.1, "layer": 0}
    row |= {"effect": 1.0, "effect_error": 0.1, "to_keys": 0.1, "to_keys_error": 0.1}
    heads = pd.DataFrame([row | {"label": f"L0H{head}", "head": head} for head in range(2)])
    tests = pd.DataFrame([("circuit", 2, 0.1, 1.0, 3.0, 1.0)], columns=TESTS)
    behaviour = {"first_copy": 3.0, "second_copy": 0.1, "no_heads": 3.0}
    show_explanation(Explanation("two", 1, 2, behaviour, heads, pd.DataFrame(columns=EDGES), tests))
    said = capsys.readouterr().out
    assert "All 2 heads are the circuit: no head is left to test it against." in said and "keeps" not in said
    assert "1.00 of it" not in said and sys.stdout is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "--prompts", "x"], "'--prompts'"),
        (["follow", "--n", "x"], "'--n'"),
        (["score", "--format", "nope"], "'parquet'"),
        (["predict"], "Missing argument"),
        (["plot", "a", "b"], "unexpected extra argument"),
        (["report", "--nope"], "No such option: --nope"),
        (["nope"], "No such command 'nope'"),
    ],
)
def test_what_cannot_be_read_is_one_message_as_all_mistakes_are(command, arguments, said):
    code, out, err = command(*arguments)
    name = arguments[0] if arguments != ["nope"] else ""
    assert code == 2 and out == "" and err.startswith("error: ") and said in err
    assert err.strip().endswith(f"See {f'induction-lab {name}'.strip()} --help.")


def test_help_and_version_end_well_and_no_command_shows_the_help(command):
    assert command("--version")[0] == 0 == command("score", "--help")[0]
    code, out, err = command()
    assert code in (0, 2) and "Usage" in out + err and "error:" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["score", "--repeats", "1"], "--repeats must be at least 2, got 1"),
        (["score", "--gap", "-1"], "--gap must not be negative, got -1"),
        (["score", "--top", "-1"], "--top must not be negative, got -1"),
        (["score", "--scores", ","], "--scores wants names separated by commas, got ','"),
        (["circuit", "--top", "0"], "--top must be at least 1, got 0"),
        (["heads", "--period", "0"], "--period must be at least 1, got 0"),
        (["explain", "--prompts", "0"], "--prompts must be at least 1, got 0"),
        (["score", "--seed", str(10**30)], "`seed` must be a whole number from -2**63 to 2**64 - 1, got 1"),
        (["score", ""], "A model is wanted"),
    ],
)
def test_a_number_that_cannot_be_is_told_by_the_name_of_its_option(command, arguments, said):
    code, _, err = command(*arguments)
    assert code == 2 and said in err and not list(Path().iterdir())
