"""What README.md and docs/ show is so: blocks run, commands exist, links and pictures lead somewhere, tours are fresh.

A `python` block is run, and so is every `induction-lab` command of an `sh` block, on the bundled model and offline. A
block with `<!-- not run: why -->` above it is only checked for the names that it uses. What a `text` block below a
`python` block shows is compared with what the block prints.
"""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import induction_lab
from induction_lab.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "induction_lab" / "README.md", *(ROOT / "docs").glob("*.md")])
PAGES.append(ROOT / "experiments" / "benchmarks" / "README.md")
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"-?\d+\.\d+")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(kind: str) -> list:
    """Blocks of one kind, each with its page, why it is not run, and the output that is shown right below it."""
    found = []
    for path in PAGES:
        for match in BLOCK.finditer(path.read_text()):
            if match["kind"] == kind:
                below = re.match(r"\n\n```(?:text)?\n(.*?)^```$", path.read_text()[match.end() :], re.M | re.S)
                label = f"{name(path)}:{path.read_text()[: match.start()].count(chr(10)) + 1}"
                found.append(pytest.param(match["text"], match["why"], below and below[1], id=label))
    return found


def assert_shown(printed: str, shown: str, within: float) -> None:
    """Word for word the same, and numbers with a decimal point close."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (printed, shown)]
    assert words[0] == words[1]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=within)


@pytest.mark.parametrize(("code", "why", "shown"), blocks("python"))
def test_python_runs_and_prints_what_is_shown(code, why, shown, request, capsys, monkeypatch, tmp_path):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module == "induction_lab":
            assert {alias.name for alias in node.names} <= set(dir(induction_lab))
    if why:
        return
    if "smollm2" in code:
        request.getfixturevalue("smollm2")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "a page", "exec"), {"__name__": "a_page"})
    if shown:
        assert_shown(capsys.readouterr().out, shown, within=0.011)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `induction-lab` command of a block."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words and Path(words[0]).name == "induction-lab"]


@pytest.mark.parametrize(("text", "why", "shown"), blocks("sh"))
def test_commands_run(text, why, shown, monkeypatch, tmp_path):
    assert why or len(commands(text)) == len(text.splitlines()), "say above the block why it is not run"
    monkeypatch.chdir(tmp_path)
    for arguments in commands(text) if not why else []:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception}"


def test_the_demo_prints_what_is_shown(monkeypatch, tmp_path):
    shown = re.search(r"```text\n(attn-only-2l on 16.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert shown and "$(BIN)/induction-lab score\n" in (ROOT / "Makefile").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert_shown(CliRunner().invoke(app, ["score"]).output, shown[1], within=0.011)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_command_that_is_named_exists_with_its_options(path):
    for command, rest in re.findall(r"induction-lab ([a-z]+)([^`\n]*)", path.read_text()):
        options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
        assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest.split("#")[0])) <= options, command


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_experiment_and_target_of_make_that_is_named_exists(path):
    there = {file.parent.name if file.stem == "experiment" else file.stem for file in ROOT.glob("experiments/**/*.py")}
    assert set(re.findall(r"python -m experiments ([a-z]\w*)", path.read_text())) <= there
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE)) <= targets


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_link_and_every_picture_leads_somewhere(path):
    for picture, target in re.findall(r"(!?)\[[^]]*\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if picture:
            assert there.read_bytes()[:4] == (b"GIF8" if file.endswith(".gif") else b"\x89PNG"), target
        if anchor:
            assert anchor in anchors(there), target


def test_every_file_that_the_tour_names_exists():
    text = (ROOT / "induction_lab" / "README.md").read_text().partition("<!-- tour: files -->")[0]
    for file in re.findall(r"`((?:\w+/)+(?:\w+\.py)?)`", text):
        assert (ROOT / file).exists() or (ROOT / "induction_lab" / file).exists(), file


def test_the_readme_is_short_and_leads_to_every_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 12_000
    assert {name(path) for path in PAGES} - {"README.md"} <= set(re.findall(r"\]\(([^)#]+)", text))


def test_the_tour_is_what_the_docstrings_say():
    spec = importlib.util.spec_from_file_location("tour", ROOT / "docs" / "tour.py")
    assert spec and spec.loader
    tour = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tour)
    stale = [name(path) for path, text in tour.pages().items() if path.read_text() != text]
    assert not stale, f"{stale} are older than the code: run `make tour`"
