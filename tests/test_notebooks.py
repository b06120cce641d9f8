"""Every notebook of docs/ runs from its first cell to its last, in a kernel of its own, and shows what it should."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

import induction_lab

jupytext = pytest.importorskip("jupytext")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs").rglob("notebooks/*.py"))
WIDEST = 16  # lines of code in a cell, but for definitions


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "docs").with_suffix(""))


def read(path: Path) -> Any:
    return jupytext.reads(path.read_text("utf-8"), fmt="py:percent")


def code(path: Path) -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_runs_and_shows_figures_once(path, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND")  # a kernel's own
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = read(path)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    outputs = [[output for output in cell.outputs if "data" in output] for cell in cells]
    images = [sum("image/png" in output.data for output in shown) for shown in outputs]
    assert max(images) == 1 and sum(images) >= 2
    assert any("text/html" in output.data for shown in outputs for output in shown)
    plain = [output.data["text/plain"] for shown in outputs for output in shown if len(output.data) == 1]
    assert not [text for text in plain if re.match(r"<|\[?(Text|Axes)", text)]  # nothing but its address
    said = [output for cell in cells for output in cell.outputs if output.get("name") == "stderr"]
    assert not said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_a_notebook_begins_with_one_line_to_install_and_uses_public_names(path):
    first, *others = code(path)
    assert first.source == "%pip install -q induction-lab" and "skip-execution" in first.metadata["tags"]
    known = set(dir(induction_lab))
    for cell in others:
        if "skip-execution" in cell.metadata.get("tags", ()):
            continue
        tree = ast.parse(cell.source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("induction_lab"):
                assert node.module == "induction_lab" and {alias.name for alias in node.names} <= known
        if not any(isinstance(node, ast.ClassDef | ast.FunctionDef) for node in tree.body):
            assert len(cell.source.splitlines()) <= WIDEST, cell.source
    assert sum(cell.cell_type == "markdown" for cell in read(path).cells) >= 5


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if "zh" in path.parts], ids=name)
def test_a_chinese_notebook_runs_the_code_of_the_english_one(path):
    def shape(cell: Any) -> str:
        """The code, its words left out."""
        tree = ast.parse(cell.source.replace("%pip", "pip = ").split(" -q")[0])
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                node.values = [each for each in node.values if isinstance(each, ast.FormattedValue)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                node.value = ""
        return ast.dump(tree)

    english = ROOT / "docs" / "notebooks" / path.name
    assert [shape(cell) for cell in code(path)] == [shape(cell) for cell in code(english)]
