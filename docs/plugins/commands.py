"""The directive `commands`: every command of `induction-lab` with its arguments and options, as typer has them."""

import re

import typer
import typer.core
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from induction_lab.cli.app import app as command_line

NAME = "induction-lab"


def cell(text: str) -> str:
    """Text of a help page as a cell of a Markdown table."""
    return re.sub(r"([|*<\[\]])", r"\\\1", text)


def table_of(command: typer.core.TyperCommand, context: typer.Context) -> list[str]:
    """A row for each argument and option: how it is written, what it says."""
    rows = [parameter.get_help_record(context) for parameter in command.params]
    written = [(left.replace("|", r"\|"), cell(right)) for left, right in filter(None, rows)]
    return ["| | |", "|---|---|", *(f"| `{left}` | {right} |" for left, right in written), ""] if written else []


def section(name: str, command: typer.core.TyperCommand, group: typer.Context) -> str:
    """One command in Markdown."""
    context = type(group)(command, info_name=name, parent=group)  # type: ignore[call-arg]
    usage = command.get_usage(context).removeprefix("Usage: ")
    said = (command.help or "").replace("*", r"\*").replace("\n\n", "\0").replace("\n", " ").replace("\0", "\n\n")
    examples = re.findall(r"\[bold\](.*?)\[/bold\]", command.epilog or "")
    lines = [f"(command-{name})=", f"## {NAME} {name}", "", said, "", "```text", usage, "```", ""]
    return "\n".join([*lines, *table_of(command, context), "```sh", *examples, "```", ""])


class Commands(SphinxDirective):
    """`{commands}` in a page: a section a command."""

    def run(self) -> list[nodes.Node]:
        """Make the Markdown and read it."""
        group = typer.main.get_command(command_line)
        context = group.make_context(NAME, ["models"], resilient_parsing=True)
        sections = [section(name, command, context) for name, command in group.commands.items()]  # type: ignore[attr-defined]
        return self.parse_text_to_nodes("\n".join(sections), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True}
