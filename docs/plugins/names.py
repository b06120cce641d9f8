"""Public names and commands that stand as code in a page lead to where the reference describes them."""

import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

PACKAGE = Path(__file__).parents[2] / "induction_lab"
STUB_NAME = re.compile(r"(\w+) as \1\b")
NAME = re.compile(r"(?P<name>\w+)(?P<call>\(.*\))?")
COMMAND = re.compile(r"(?:\S*/)?induction-lab ([a-z]+)\b.*", re.DOTALL)


def public_names() -> dict[str, str]:
    """Each public name, and the room that gives it."""
    rooms = [path.parent for path in PACKAGE.glob("*/__init__.pyi")]
    return {name: room.name for room in rooms for name in STUB_NAME.findall((room / "__init__.pyi").read_text())}


NAMES = public_names()


def target_of(text: str) -> dict[str, str] | None:
    """Where a piece of code leads, as Sphinx asks for it; None for what is no public name or command."""
    if command := COMMAND.fullmatch(text):
        return {"refdomain": "", "reftype": "command", "reftarget": f"command-{command[1]}"}
    if (found := NAME.fullmatch(text)) and found["name"] in NAMES:
        name = found["name"]
        if found["call"] or "_" in name or name[0].isupper():  # `explain` alone may be anything
            return {"refdomain": "py", "reftype": "obj", "reftarget": f"induction_lab.{NAMES[name]}.{name}"}
    return None


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make references of a page's literals, except in titles and in links."""
    page = app.env.docname
    for literal in list(doctree.findall(nodes.literal)):
        above, inside = literal.parent, False
        while above is not None and not inside:
            inside = isinstance(above, nodes.title | nodes.reference | addnodes.pending_xref | addnodes.desc_signature)
            above = above.parent
        target = None if inside else target_of(literal.astext())
        if target:
            explicit = {"refexplicit": True, "refdoc": page, "refwarn": True}
            literal.replace_self(addnodes.pending_xref("", literal.deepcopy(), **target, **explicit))


def find_command(
    app: Sphinx, env: BuildEnvironment, asked: addnodes.pending_xref, shown: nodes.TextElement
) -> nodes.reference | None:
    """Lead to a command's section and leave the code as it is; None, and so a warning, where there is none."""
    page, anchor = env.domaindata["std"]["anonlabels"].get(asked["reftarget"], ("", ""))
    if asked["reftype"] != "command" or not page:
        return None
    return make_refnode(app.builder, asked["refdoc"], page, anchor, shown)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", find_command)
    return {"parallel_read_safe": True}
