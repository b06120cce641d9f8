"""The documentation site has a place for every public name and for every page. `make docs` builds it, strictly."""

import importlib.util
import os
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "induction_lab"
PAGES = [ROOT / "induction_lab" / "README.md"]
PAGES += [path for folder in ("docs", "experiments") for path in (ROOT / folder).rglob("*.md")]
PAGES += (ROOT / "docs").rglob("notebooks/*.py")
TREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def in_toctrees() -> set[Path]:
    """Pages that some toctree lists, by name or by a pattern."""
    names, found = {path.with_suffix(""): path for path in PAGES}, set()
    for page in PAGES:
        for tree in TREE.findall(page.read_text()):
            for entry in filter(None, (line.strip() for line in tree.splitlines() if not line.startswith(":"))):
                there = entry.rpartition("<")[2].rstrip(">")
                pattern = os.path.normpath(page.parent / there)
                found |= {path for name, path in names.items() if fnmatch(str(name), pattern) and path != page}
    return found


def test_every_page_has_its_place():
    start = ROOT / "docs" / "index.md"
    lost = {str(page.relative_to(ROOT)) for page in PAGES if page != start and page not in in_toctrees()}
    assert not lost, f"{lost} stand in no toctree: see docs/contents/"


@pytest.mark.parametrize("room", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.pyi")))
def test_every_public_name_of_a_room_is_in_the_reference(room):
    page = (ROOT / "docs" / "reference" / f"{room}.md").read_text()
    assert f".. automodule:: induction_lab.{room}\n   :members:\n   :imported-members:\n" in page


def test_every_option_of_the_command_is_in_the_reference():
    assert "```{commands}\n```" in (ROOT / "docs" / "reference" / "command.md").read_text()


CODE = re.compile(r"^```python\n.*?^```$(?:\n\n```\n.*?^```$)?", re.MULTILINE | re.DOTALL)
IN_CHINESE = [path for path in (ROOT / "docs" / "zh").glob("*.md") if (ROOT / "docs" / path.name).exists()]


@pytest.mark.parametrize("page", IN_CHINESE, ids=lambda path: path.stem)
def test_a_chinese_page_runs_what_the_english_one_does(page):
    """And shows the same: test_readme.py runs the English one."""
    english = ROOT / "docs" / page.name
    if page.stem == "index":
        english = ROOT / "README.md"
    blocks = [[re.sub("  # .*", "", block) for block in CODE.findall(path.read_text())] for path in (page, english)]
    assert blocks[0] == blocks[1] and blocks[0]


def plugin(name):
    pytest.importorskip("sphinx", reason="the site's plug-ins need Sphinx: the extra docs")
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "plugins" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("code", "target"),
    [
        ("score_heads", "induction_lab.scores.score_heads"),
        ('score_heads(model, scores=["copying"])', "induction_lab.scores.score_heads"),
        ("HeadScores", "induction_lab.scores.HeadScores"),
        ("explain(model)", "induction_lab.circuits.explain"),
        ("explain", None),  # a word as well
        ("prefix_matching", None),
        ("induction-lab score MODEL --period 25", "command-score"),
        (".venv/bin/induction-lab explain smollm2-135m", "command-explain"),
        ("induction-lab", None),
    ],
)
def test_public_names_and_commands_as_code_lead_to_the_reference(code, target):
    assert (plugin("names").target_of(code) or {}).get("reftarget") == target


def test_the_switch_of_languages_leads_to_the_same_page_or_to_the_start():
    pages = {"docs/index", "docs/zh/index", "docs/scores", "docs/a_made_up_name", "docs/zh/a_made_up_name"}
    pages |= {"experiments/README", "experiments/README.zh"}
    pairs = [("docs/a_made_up_name", "docs/zh/a_made_up_name"), ("experiments/README", "experiments/README.zh")]
    there = plugin("languages").other_language
    for english, chinese in [("docs/index", "docs/zh/index"), *pairs]:
        assert (there(english, pages), there(chinese, pages)) == (chinese, english)
    assert there("docs/scores", pages) == "docs/zh/index"
    assert there("docs/zh/scores", pages) == "docs/scores"
    assert there("docs/zh/nothing", pages) == "docs/index"
