"""English and Chinese: which page is in which language, and where the same page stands in the other.

A Chinese page bears the name of the English one, in docs/zh/ for docs/, with `.zh` behind it elsewhere.
"""

from gettext import NullTranslations
from pathlib import Path
from typing import Any

import pydata_sphinx_theme
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.locale import init

HOME = {"en": "docs/index", "zh": "docs/zh/index"}


def language_of(page: str) -> str:
    """`zh` or `en`."""
    return "zh" if page.startswith("docs/zh/") or page.endswith(".zh") else "en"


def other_language(page: str, pages: set[str]) -> str:
    """The same page in the other language, or the other language's first page."""
    if page.startswith("docs/zh/"):
        there = page.replace("docs/zh/", "docs/", 1)
    elif page.endswith(".zh"):
        there = page.removesuffix(".zh")
    else:
        there = page.replace("docs/", "docs/zh/", 1) if page.startswith("docs/") else f"{page}.zh"
    return there if there in pages else HOME["en" if language_of(page) == "zh" else "zh"]


def chinese() -> NullTranslations:
    """The theme's own words, in Chinese."""
    folder = Path(pydata_sphinx_theme.__file__).parent / "locale"
    return init([str(folder)], "zh_CN", "sphinx")[0]


def chinese_sections(app: Sphinx, page: str, context: dict[str, Any]) -> list[dict[str, Any]]:
    """What stands in the header of a Chinese page: the entries of the first Chinese page."""
    env = app.env
    found = []
    for name in env.toctree_includes[HOME["zh"]]:
        here = page == name or page in env.toctree_includes.get(name, [])
        found.append({"title": env.titles[name].astext(), "uri": context["pathto"](name), "here": here})
    return found


def say_language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document) -> None:
    """Tell the templates a page's language and its other; on a Chinese page their own words are Chinese."""
    there = other_language(page, set(app.env.found_docs))
    name = {"zh": "中文", "en": "English"}[language_of(there)]
    context["other_language"] = {"uri": context["pathto"](there), "name": name}
    if language_of(page) == "zh":
        words, sections = chinese(), chinese_sections(app, page, context)
        context.update(language="zh-CN", root_doc=HOME["zh"], _=words.gettext, gettext=words.gettext)
        context["chinese_sections"] = sections


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("html-page-context", say_language)
    return {"parallel_read_safe": True}
