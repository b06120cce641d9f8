"""Write what the pages say of the code from the code itself: the rooms, their files, the public names.

    python docs/tour.py          # `make tour`: rewrites README.md, induction_lab/README.md and docs/api.md

A room is a package of `induction_lab`. Its question is the first line of its docstring; a file and a public name (in a
stub, `__init__.pyi`) are described by the first lines of theirs. In a page, the text between `<!-- tour: NAME -->` and
`<!-- end of tour -->` is made here, and all else is left as it is. Nothing of the package is imported.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "induction_lab"
END = "<!-- end of tour -->"


def floors() -> list[list[str]]:
    """Rooms by floor, the lowest first, as tests/test_layout.py holds them to it."""
    for node in ast.parse((ROOT / "tests" / "test_layout.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            return [sorted(floor) for floor in ast.literal_eval(node.value)]
    raise ValueError("tests/test_layout.py has no list FLOORS")


def first_line(node: ast.AST) -> str:
    """The first line of a docstring, in a form that fits into a table."""
    return (ast.get_docstring(node) or "").partition("\n")[0].replace("|", r"\|")  # type: ignore[arg-type]


def said_of(path: Path) -> str:
    """The first line of a file."""
    return first_line(ast.parse(path.read_text()))


def house() -> str:
    """One row a room, the highest floor first."""
    rows = ["| floor | room | the question that it answers |", "|---|---|---|"]
    for floor, rooms in reversed(list(enumerate(floors()))):
        for room in rooms:
            question = said_of(PACKAGE / room / "__init__.py")
            rows.append(f"| {floor} | [`{room}`](induction_lab/README.md#{room}) | {question} |")
    return "\n".join(rows)


def files() -> str:
    """One section a room, the lowest floor first, with a row a file."""
    parts = []
    for floor, rooms in enumerate(floors()):
        for room in rooms:
            folder = PACKAGE / room
            paths = sorted(path for path in folder.rglob("*.py") if path.name != "__init__.py")
            rows = [f"| `{path.relative_to(folder)}` | {said_of(path)} |" for path in paths]
            head = (
                f"### {room}\n\nFloor {floor}. {said_of(folder / '__init__.py')}\n\n| file | what is in it |\n|---|---|"
            )
            parts.append("\n".join([head, *rows]))
    return "\n\n".join(parts)


def names() -> str:
    """One section a room, the lowest floor first, with a row a public name."""
    parts = []
    for room in sum(floors(), []):
        if (PACKAGE / room / "__init__.pyi").exists():
            found = public_names(PACKAGE / room)
            rows = [f"| `{name}` | {line} |" for name, line in sorted(found.items(), key=lambda row: row[0].lower())]
            parts.append("\n".join([f"## {room}", "", "| name | |", "|---|---|", *rows]))
    return "\n\n".join(parts)


def public_names(folder: Path) -> dict[str, str]:
    """Names that a room gives, each with the first line of its docstring."""
    nodes = ast.parse((folder / "__init__.pyi").read_text()).body
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {alias.name: said_by(folder, node.module or "", alias.name) for node in imports for alias in node.names}


def said_by(folder: Path, module: str, name: str) -> str:
    """The first line of the docstring of a class or a function, or of the string below a constant."""
    path = folder.joinpath(*module.split("."))
    if path.is_dir():
        return public_names(path)[name]
    body = ast.parse(path.with_suffix(".py").read_text()).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return first_line(node)
        if isinstance(node, ast.Assign | ast.AnnAssign) and ast.unparse(node).startswith(f"{name} ="):
            return first_line(ast.Module(body=[after] if after else [], type_ignores=[]))
    raise ValueError(f"{path.relative_to(ROOT)}.py has no {name}")


def pages() -> dict[Path, str]:
    """Each page with blocks of this tour, as it should be."""
    made = {"house": house(), "files": files(), "names": names()}
    found = {}
    for path in (ROOT / "README.md", PACKAGE / "README.md", ROOT / "docs" / "api.md"):
        text = path.read_text()
        for name, block in made.items():
            mark = f"<!-- tour: {name} -->"
            text = re.sub(f"{mark}\n.*?{END}", lambda _, new=f"{mark}\n{block}\n{END}": new, text, flags=re.DOTALL)
        found[path] = text
    return found


if __name__ == "__main__":
    for page, text in pages().items():
        if page.read_text() != text:
            page.write_text(text)
            print(f"rewritten: {page.relative_to(ROOT)}")
