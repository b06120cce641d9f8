"""What Sphinx makes of docstrings and signatures, mended where it cannot read them or says more than is wanted."""

from typing import Any

from sphinx.application import Sphinx
from sphinx.domains.python._object import PyObject
from sphinx.util.typing import stringify_annotation

from induction_lab.behaviour.metrics import MetricLike
from induction_lab.data.prompts import PromptsLike
from induction_lab.results.heads import HeadLike, Heads

NAMED = {  # longer ones first: some are parts of others
    stringify_annotation(PromptsLike, "smart"): "~induction_lab.data.prompts.PromptsLike",
    stringify_annotation(MetricLike, "smart"): "~induction_lab.behaviour.metrics.MetricLike",
    stringify_annotation(Heads, "smart"): "~induction_lab.results.heads.Heads",
    stringify_annotation(HeadLike, "smart"): "~induction_lab.results.heads.HeadLike",
}


def shorten(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """A signature with the names of long unions, and without `<factory>`, which is no Python, as a default."""
    for union, named in NAMED.items():
        signature = signature and signature.replace(union, named)
    return signature and signature.replace("<factory>", "..."), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"  # as docstrings call them
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True}
