"""The house: packages on floors, imports that go down only, files of one idea, names that are found."""

import ast
import graphlib
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "induction_lab"
FLOORS = [
    {"runtime", "attention"},
    {"results"},
    {"data"},
    {"models"},
    {"internals", "training"},
    {"behaviour", "weights"},
    {"scores", "interventions"},
    {"attribution", "circuits"},
    {"development"},
    {"sweeps", "plots"},
    {"pages"},
    {"cli"},
]
ROOMS = sorted(set().union(*FLOORS))
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def dotted(path: Path) -> str:
    return ".".join(("induction_lab", *path.relative_to(PACKAGE).with_suffix("").parts))


def imported(path: Path) -> set[str]:
    """Modules of this package that a file imports, at its top or inside its functions."""
    found, modules = set(), {dotted(file) for file in FILES} | {f"induction_lab.{room}" for room in ROOMS}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "induction_lab":
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & modules or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "induction_lab"}
    return found


def test_every_package_stands_on_one_floor():
    assert sum(map(len, FLOORS)) == len(ROOMS)
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    assert [path.name for path in PACKAGE.glob("*.py")] == ["__init__.py", "__main__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_imports_from_its_own_package_and_from_lower_floors(room):
    level = next(i for i, floor in enumerate(FLOORS) if room in floor)
    allowed = {room}.union(*FLOORS[:level])
    for path in (PACKAGE / room).rglob("*.py"):
        rooms = {name.split(".")[1] if "." in name else name for name in imported(path)}
        assert rooms <= allowed, f"{dotted(path)} imports {rooms - allowed}"


@pytest.mark.parametrize("room", ROOMS)
def test_files_of_a_package_import_each_other_in_no_circle(room):
    graph = {dotted(path): imported(path) for path in (PACKAGE / room).rglob("*.py") if path.name != "__init__.py"}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_a_folder_holds_thirteen_files_at_most():
    folders = [path for path in PACKAGE.rglob("*") if path.is_dir() and list(path.glob("*.py"))]
    assert {str(path): n for path in folders if (n := len(list(path.glob("*.py")))) > 13} == {}


def test_no_file_holds_two_ideas():
    files = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.js")]
    assert {path.name: n for path in files if (n := len(path.read_text().splitlines())) > 330} == {}


def test_every_function_fits_on_a_screen():
    """The code of it, that is, without signature and docstring."""
    long = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                if lines > 60:
                    long[f"{path.stem}.{node.name}"] = lines
    assert not long


OWN_MODEL_ASKED = {"models/hooked_model.py", "attribution/paths.py"}  # which makes the anatomy, and which is about it


def test_what_kind_of_network_it_is_is_asked_in_few_files():
    """Everybody else asks `HookedModel.anatomy`: no classes of networks, and no entries of configurations."""
    asked, read = set(), set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                words = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
                if node.func.id == "isinstance" and words & {"AttentionOnlyTransformer", "PreTrainedModel"}:
                    asked.add(str(path.relative_to(PACKAGE)))
                if node.func.id == "getattr" and ("config" in ast.unparse(node) or "cfg" in ast.unparse(node)):
                    read.add(path.relative_to(PACKAGE).parts[0])
    assert asked == OWN_MODEL_ASKED
    assert read <= {"models"}


def stub(folder: Path) -> dict[str, str]:
    """Public names of a package's stub, and the module that each comes from."""
    path = folder / "__init__.pyi"
    nodes = ast.parse(path.read_text()).body if path.exists() else []
    return {a.name: n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module for a in n.names}


def test_every_public_name_is_there_with_its_package():
    import induction_lab

    for name, room in stub(PACKAGE).items():
        assert getattr(induction_lab, name).__doc__, name
        assert getattr(importlib.import_module(f"induction_lab.{room}"), name) is getattr(induction_lab, name)
    assert set(induction_lab.__all__) == set(stub(PACKAGE))
    with pytest.raises(AttributeError, match="No induction_lab attribute nothing"):
        _ = induction_lab.nothing


def test_whatever_a_package_gives_is_given_by_the_whole():
    given = {name: room for room in ROOMS for name in stub(PACKAGE / room)}
    assert given == stub(PACKAGE)


@pytest.mark.parametrize("folder", [PACKAGE, *(PACKAGE / room for room in ROOMS)], ids=lambda path: path.name)
def test_no_public_name_is_a_file_s_which_would_hide_it(folder):
    beside = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not set(stub(folder)) & beside


@pytest.mark.parametrize("room", ROOMS)
def test_the_first_line_of_a_package_is_the_question_it_answers(room):
    assert "?" in (importlib.import_module(f"induction_lab.{room}").__doc__ or "") or room in ("plots", "pages", "cli")


@pytest.mark.parametrize("start", ["import induction_lab", "from induction_lab.cli import app"])
def test_import_brings_no_heavy_library(start):
    heavy = ("torch", "transformers", "transformer_lens", "pandas", "matplotlib", "scipy", "pyarrow", "ray", "plotly")
    heavy += ("jinja2",)
    code = f"import sys; {start}; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
