"""What README.md and docs/ show is so: blocks run, commands exist, links and pictures lead somewhere, tours are fresh.

A `python` block is run, and so is every `induction-lab` command of an `sh` block, on the bundled model and offline. A
block with `<!-- not run: why -->` above it is only checked for the names that it uses. What a `text` block below a
`python` block shows is compared with what the block prints.
"""

import ast
import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import induction_lab
from experiments.__main__ import experiments
from induction_lab.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "induction_lab" / "README.md", *(ROOT / "docs").glob("*.md")])
PAGES.append(ROOT / "experiments" / "benchmarks" / "README.md")
BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^>]+) -->\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"-?\d+\.\d+")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, kind: str) -> list[tuple[str, str | None, str | None]]:
    """Blocks of one kind: text, why it is not run, and the output that is shown right below it."""
    page, found = path.read_text(), []
    for match in BLOCK.finditer(page):
        if match["kind"] == kind:
            below = re.match(r"\n\n```(?:text)?\n(.*?)^```$", page[match.end() :], re.M | re.S)
            found.append((match["text"], match["why"], below and below[1]))
    return found


def pages_with(kind: str) -> list[Path]:
    return [path for path in PAGES if blocks(path, kind)]


def assert_shown(printed: str, shown: str, within: float) -> None:
    """Word for word the same, and numbers with a decimal point close."""
    words = [" ".join(NUMBER.sub("#", text).split()) for text in (printed, shown)]
    assert words[0] == words[1]
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (printed, shown)]
    assert numbers[0] == pytest.approx(numbers[1], abs=within)


@pytest.mark.parametrize("path", pages_with("python"), ids=name)
def test_python_runs_and_prints_what_is_shown(path, request, capsys, monkeypatch, tmp_path):
    """Blocks of a page follow on each other, as for a reader who types them one after another."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "a_page"}
    for code, why, shown in blocks(path, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module == "induction_lab":
                assert {alias.name for alias in node.names} <= set(dir(induction_lab))
        if why:
            continue
        if "smollm2" in code:
            request.getfixturevalue("smollm2")
        exec(compile(code, name(path), "exec"), names)
        printed = capsys.readouterr().out
        if shown:
            assert_shown(printed, shown, within=0.011)


def commands(text: str) -> list[list[str]]:
    """The arguments of every `induction-lab` command of a block."""
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [words[1:] for words in lines if words and Path(words[0]).name == "induction-lab"]


@pytest.mark.parametrize("path", pages_with("sh"), ids=name)
def test_commands_run(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for text, why, _ in blocks(path, "sh"):
        assert why or len(commands(text)) == len(text.splitlines()), "say above the block why it is not run"
        for arguments in [] if why else commands(text):
            done = CliRunner().invoke(app, arguments)
            assert done.exit_code == 0, f"{arguments}: {done.output} {done.exception}"


def test_the_demo_prints_what_is_shown(monkeypatch, tmp_path):
    shown = re.search(r"```text\n(induction-2l on 16.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
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
    assert set(re.findall(r"python -m\s+experiments ([a-z]\w*)", path.read_text())) <= set(experiments())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", path.read_text(), re.MULTILINE)) <= targets


def test_the_sweep_that_is_shown_is_the_one_that_is_run():
    (shown,) = [text for text, _, _ in blocks(ROOT / "docs" / "sweeps.md", "toml")]
    (there,) = ROOT.glob("experiments/**/sweep_minute.toml")
    assert tomllib.loads(shown) == tomllib.loads(there.read_text())


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    named = set(re.findall(r'<a id="([^"]+)"', path.read_text()))
    return named | {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


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
    assert not [line for text in tour.pages().values() for line in text.splitlines() if line.endswith("` |  |")]
    stale = [name(path) for path, text in tour.pages().items() if path.read_text() != text]
    assert not stale, f"{stale} are older than the code: run `make tour`"
