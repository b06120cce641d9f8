"""The documentation site: `make docs` builds it from Markdown where it stands, with Sphinx and MyST-NB.

The source folder is the repository, so that links between pages are the same on GitHub and on the site. Notebooks are
jupytext files in docs/notebooks/, `.py` (percent format) or `.md` (MyST), and are found by their place: each is run
when the site is built, and an error in one fails the build. What is Chinese lies in docs/zh/, under the name that the
English page has in docs/ (docs/zh/notebooks/ for notebooks).
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "plugins")]

project = "induction_lab"
author = "induction_lab"
project_copyright = "2026, MIT licence"
language = "en"
root_doc = "docs/index"
highlight_language = "none"  # of blocks that name no language: what a program printed
include_patterns = [
    "docs/*.md",
    "docs/contents/*.md",
    "docs/notebooks/*.md",
    "docs/notebooks/*.py",
    "docs/reference/*.md",
    "docs/zh/**.md",
    "docs/zh/notebooks/*.py",
    "experiments/**.md",
    "induction_lab/README.md",
]
exclude_patterns = [".*", "build", "results", "runs", "**/__pycache__"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "anchors",
    "annotations",
    "commands",
    "docstrings",
    "languages",
    "names",
]
myst_enable_extensions = ["colon_fence", "dollarmath", "html_image"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"  # a notebook that has not changed is not run again
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_timeout = 900  # seconds a cell, on a machine that is busy with other work too
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ.setdefault("PYTHONPATH", str(ROOT))  # for the kernels of notebooks

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"  # docstrings write `name` as Markdown does
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes")]
nitpicky = True
nitpick_ignore_regex = [  # other packages' classes: their own pages are not fetched, so that the build needs no network
    (r"py:class", r"(collections|matplotlib|numpy|pandas|pathlib|torch|transformer_lens)\..*"),
    (r"py:class", r"jaxtyping\.\w+|Float|Tensor|ndarray|'[\w ]+'"),
    (r"py:class", r"induction_lab\.weights\.folded\.Part"),  # a variable of types
]

html_theme = "pydata_sphinx_theme"
html_title = "induction_lab"
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
html_additional_pages = {"index": "to_start.html"}
html_sidebars = {"docs/contents/start": []}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "induction_lab"},
    "header_links_before_dropdown": 7,
    "navbar_center": ["navigation.html"],
    "navbar_end": ["language.html", "theme-switcher"],
    "navigation_with_keys": False,
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
