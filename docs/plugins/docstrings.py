"""What Sphinx makes of docstrings and signatures, mended where it cannot read them."""

from typing import Any

from sphinx.application import Sphinx


def name_factories(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """Defaults that a dataclass makes anew, `<factory>`, are no Python, and a signature with one is not read."""
    return (signature.replace("<factory>", "..."), returned) if signature and "<factory>" in signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", name_factories)
    return {"parallel_read_safe": True}
