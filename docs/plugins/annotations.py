"""Types that annotations name and only a type checker imports (`if TYPE_CHECKING:`): here their modules have them."""

import ast
import importlib
from pathlib import Path

from sphinx.application import Sphinx

import induction_lab

PACKAGE = Path(induction_lab.__file__).parent


def setup(app: Sphinx) -> dict[str, bool]:
    """Import what each module of the package names for type checkers alone, into that module."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                module = importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
                exec(compile(ast.Module(node.body, []), str(path), "exec"), vars(module))
    return {"parallel_read_safe": True}
