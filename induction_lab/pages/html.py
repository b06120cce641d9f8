"""The report as one HTML file: template, style, script, Plotly and data in one, nothing fetched from anywhere.

What comes from models and users (names, tokens) reaches the page in two ways only: through Jinja, which escapes it, and
as JSON in which `<`, `>` and `&` are escaped; the script writes it as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from induction_lab.pages.panel_data import kinds_of_heads, page_data
from induction_lab.pages.panel_measurements import Subject
from induction_lab.results.heads import LOOKS
from induction_lab.runtime.optional import library

FOLDER = Path(__file__).parent / "assets"
# Files of assets/js, a panel each, in the order in which they are joined: what runs outside functions may use only
# constants of its own or an earlier file.
SCRIPTS = (
    "values", "arcs", "data", "state", "drawing", "place", "losses", "map", "table", "head", "attention", "kinds",
    "circuit", "training", "comparison", "download", "start",
)  # fmt: skip
_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
SOURCES = (
    ("N. Elhage et al. (2021), A Mathematical Framework for Transformer Circuits",
     "https://transformer-circuits.pub/2021/framework/index.html"),
    ("C. Olsson et al. (2022), In-context Learning and Induction Heads", "https://arxiv.org/abs/2209.11895"),
    ("K. Wang et al. (2022), Interpretability in the Wild", "https://arxiv.org/abs/2211.00593"),
    ("L. Ji-An et al. (2024), Linking In-context Learning in Transformers to Human Episodic Memory",
     "https://arxiv.org/abs/2405.14992"),
)  # fmt: skip


def check_page(path: str | Path, said: str) -> Path:
    """The file of a page, refused before anything is measured where no page could be written to it.

    Args:
        path: Where the page is wanted.
        said: What it is, for the message: `A report is an .html file`.

    Raises:
        ValueError: If it is no `.html` file, or is a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{said}, got {path.name!r}.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a file is wanted, such as {path / 'page.html'}.")
    return path


def check_libraries() -> None:
    """Refuse, before anything is measured, where the page could not be written.

    Raises:
        ValueError: If plotly or jinja2 is not installed.
    """
    for name in ("jinja2", "plotly"):
        library(name, extra="report")


def page(subjects: Sequence[Subject], *, title: str, command: str, live: Mapping[str, Any] | None = None) -> str:
    """The report's HTML, complete.

    Args:
        subjects: The measurements, one `Subject` a model.
        title: Heading and title of the page.
        command: Command line that writes the page again; the page states it.
        live: `data`, `script` and `style` of the panel on which small models answer, which run in the page.
    """
    import jinja2
    import plotly.offline
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["nats"] = lambda value: f"{value:.2f}"
    data = {"looks": LOOKS, "models": [page_data(subject) for subject in subjects]}
    return environment.get_template("report.html.j2").render(
        title=title,
        command=command,
        models=[_summary(subject) for subject in subjects],
        words={name: subject.scores.about(name) for subject in subjects for name in subject.scores.scores},
        sources=SOURCES,
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup(script()),
        plotly=Markup(plotly.offline.get_plotlyjs().replace("</script", "<\\/script")),
        data=Markup(as_script(data)),
        live=None if live is None else {name: Markup(part) for name, part in live.items()},
    )


def script() -> str:
    """The files of `SCRIPTS` joined in one closure: they share their names, and a page from disk needs no server."""
    panels = [(FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    return "\n".join(['(() => {\n"use strict";\n', *panels, "})();\n"])


def as_script(data: Any) -> str:
    """JSON that may stand inside a `<script>` element, whatever its strings hold."""
    return json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)


def _summary(subject: Subject) -> dict[str, Any]:
    """One model's part of the template: the text that is readable before any script runs."""
    scores, facts = subject.scores, subject.provenance
    best = scores.top("prefix_matching", 1) if "prefix_matching" in scores.scores else []
    lags = subject.expected
    next_token = [] if lags is None else lags.loc[lags["lag"] == 1, "probability"].tolist()
    tested = "prefix_matching" in scores.q_values
    return {
        "label": subject.label,
        "name": subject.model,
        "revision": subject.revision,
        "shape": subject.shape,
        "n_all": scores.n_layers * scores.n_heads,
        "first_loss": scores.loss_by_copy[0] if scores.loss_by_copy else None,
        "second_loss": scores.loss_by_copy[-1] if scores.loss_by_copy else None,
        "expects": next_token[0] if next_token else None,
        "best": best[0] if best else None,
        "above_chance": len(scores.significant("prefix_matching")) if tested else None,
        "kinds": kinds_of_heads(scores),
        "facts": facts,
        "prompts": facts["prompts"],
        "versions": facts["versions"],
        "left_out": subject.left_out,
        "short": {name: len(tokens) for name, (_, tokens) in subject.prompts.items()},
        "n_shown": len(subject.views),
        "ablation": subject.ablation,
        "explanation": subject.explanation,
        "steps": [] if subject.trajectory is None else subject.trajectory.steps,
    }
