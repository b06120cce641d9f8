import importlib
import inspect
import json
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.__main__ import experiments, main


def test_every_experiment_is_listed_with_its_question_and_what_came_out(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    main([])
    said = capsys.readouterr().out
    for name, one in experiments().items():
        assert name in said and one.question.split()[0] in said and one.module.endswith((name, f"{name}.experiment"))
    assert "Do induction heads form, when, how fast" in said and "4 minutes" in said
    assert max(map(len, said.splitlines())) <= 100


def test_verdicts_are_counted_from_the_file_that_the_experiment_wrote(tmp_path, monkeypatch):
    outcomes = ["holds", "holds", "does not hold here"]
    (tmp_path / "layers.json").write_text(json.dumps([{"outcome": outcome} for outcome in outcomes]))
    (tmp_path / "geometry.json").write_text(json.dumps({"facts": "of a table"}))
    monkeypatch.setattr("experiments.__main__.FIGURES", tmp_path)
    assert experiments()["layers"].verdicts == "2 holds, 1 does not"
    assert experiments()["geometry"].verdicts == experiments()["distance"].verdicts == ""


def test_an_experiment_is_run_by_its_name_with_its_own_arguments(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["geometry", "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "usage: python -m experiments geometry" in said and "--model" in said


def test_every_command_that_a_page_or_a_docstring_names_is_there():
    root = Path(__file__).parents[2]
    pages = [root / "Makefile", *root.glob("*.md")]
    pages += [page for folder in ("docs", "experiments", "induction_lab") for page in (root / folder).rglob("*")]
    texts = [page.read_text() for page in pages if page.name == "Makefile" or page.suffix in (".py", ".md", ".toml")]
    asked = {name for text in texts for name in re.findall(r"python -m experiments(\.[\w.]+| [a-z]\w+)", text)}
    assert len(asked) > 20
    for name in asked:
        assert find_spec(f"experiments{name}") if name.startswith(".") else name.strip() in experiments(), name


@pytest.mark.parametrize(
    ("name", "hint"), [("harry_poter", "Did you mean harry_potter?"), ("zzz", "`python -m experiments` lists them")]
)
def test_an_unknown_name_is_one_message_and_exit_code_2(name, hint, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([name])
    assert stopped.value.code == 2 and hint in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_takes_its_arguments(name):
    main_of = importlib.import_module(experiments()[name].module).main
    assert list(inspect.signature(main_of).parameters) == ["argv"]
