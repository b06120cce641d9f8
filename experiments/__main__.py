"""The door: `python -m experiments` lists every experiment, `python -m experiments NAME ...` runs one.

An experiment is a module of this folder with a function `main(argv)`. Its docstring begins with the question that it
asks and says what it costs ("About 3 minutes ..."). It is called by the name of its file, `experiment.py` by the name
of its folder.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
FIGURES = HERE.parent / "figures"
SHORT = {
    "holds": "holds",
    "holds with a caveat": "with a caveat",
    "does not hold here": "does not",
    "not decided": "not decided",
    "true by construction, checked": "by construction",
    "not tested": "not tested",
}


class Experiment(NamedTuple):
    """One that can be run."""

    name: str
    group: str
    module: str
    question: str
    cost: str

    @property
    def verdicts(self) -> str:
        """How many of its claims hold, each class of models counted; as last written to figures/, if it tests any."""
        path = FIGURES / f"{self.name}.json"
        entries = json.loads(path.read_text()) if path.exists() else {}
        if not isinstance(entries, list):
            return ""
        classes = (entry.get("classes") or {"": entry} for entry in entries)
        counts = Counter(each["outcome"] for found in classes for each in found.values())
        return ", ".join(f"{counts[outcome]} {short}" for outcome, short in SHORT.items() if counts[outcome])


def experiments() -> dict[str, Experiment]:
    """Every experiment by its name, found by looking at the files; none is imported."""
    found = {}
    for path in sorted(HERE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        says = ast.get_docstring(tree) or ""
        runs = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        if not runs or path.name == "__main__.py":
            continue
        parts = path.relative_to(HERE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "experiment" else parts
        cost = re.search(r"\b(\d+|An?|half a|Two|Three)\s(minutes?|hours?)", says.partition("\n\n")[2])
        module = ".".join(("experiments", *path.relative_to(HERE).with_suffix("").parts))
        question = " ".join(says.split("\n\n")[0].split())
        group = ".".join(parts[:-1])
        found[parts[-1]] = Experiment(
            parts[-1], group, module, question, cost[1].lower() + " " + cost[2] if cost else ""
        )
    return found


def show(every: dict[str, Experiment], console: Console) -> None:
    """Print a table a group: name, question, cost, what came out last."""
    for group in sorted({one.group for one in every.values()}):
        says = importlib.import_module(f"experiments.{group}" if group else "experiments").__doc__ or ""
        console.print(f"\n[bold]{group.replace('.', '/') or 'experiments'}[/bold]  {says}", highlight=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(width=20, no_wrap=True, style="cyan")
        table.add_column(ratio=1)
        table.add_column(width=12)
        table.add_column(width=18)
        for one in every.values():
            if one.group == group:
                table.add_row(one.name, one.question, one.cost, one.verdicts)
        console.print(table)


def main(argv: list[str] | None = None) -> None:
    """List the experiments, or run the one that is named with the arguments that follow."""
    argv = sys.argv[1:] if argv is None else argv
    every = experiments()
    if not argv or argv[0] in ("-h", "--help"):
        console = Console()
        show(every, console)
        console.print("\nRun one: python -m experiments NAME; its arguments: python -m experiments NAME --help")
        return
    name, *rest = argv
    if name not in every:
        close = difflib.get_close_matches(name, every, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`python -m experiments` lists them."
        print(f"error: There is no experiment {name!r}. {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"python -m experiments {name}", *rest]
    importlib.import_module(every[name].module).main(rest)


if __name__ == "__main__":
    main()
