"""The documentation site has a place for every public name and for every page. `make docs` builds it, strictly."""

import re
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
    found = set()
    for page in PAGES:
        for tree in TREE.findall(page.read_text()):
            for entry in filter(None, (line.strip() for line in tree.splitlines() if not line.startswith(":"))):
                there = entry.rpartition("<")[2].rstrip(">")
                beside = (page.parent / there).resolve()
                found |= {path for end in (".md", ".py") for path in beside.parent.glob(beside.name + end)}
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
