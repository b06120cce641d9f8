"""Anchors written as HTML, `<a id="claim-1"></a>`, are targets of links, as they are on GitHub."""

import re

from docutils import nodes
from docutils.transforms import Transform
from sphinx.application import Sphinx

ANCHOR = re.compile(r'<a id="([\w-]+)">')


class HtmlAnchors(Transform):
    """Add a page's HTML anchors to the slugs of its headings, where MyST looks for the targets of links."""

    default_priority = 870  # MyST resolves links within a page at 879

    def apply(self) -> None:
        """Called by docutils, once a page."""
        slugs = getattr(self.document, "myst_slugs", {})
        for raw in self.document.findall(nodes.raw):
            slugs.update({name: (raw.line, name, "") for name in ANCHOR.findall(raw.astext())})
        if slugs:
            page = self.document.settings.env.docname
            self.document.settings.env.metadata[page]["myst_slugs"] = slugs


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(HtmlAnchors)
    return {"parallel_read_safe": True}
