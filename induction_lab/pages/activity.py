"""One text on a page: each token shaded by what heads carry of its prediction; which, and from where, on a tap."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from induction_lab.attribution.one_text import PREDICTED, TextActivity
from induction_lab.pages.html import FOLDER, as_script, check_page
from induction_lab.results.heads import LOOKS
from induction_lab.results.saved import check_result
from induction_lab.results.tables import writing
from induction_lab.runtime.optional import library

SAID = "What heads do on a text is written to a page, .html"


def write_activity(found: TextActivity, path: str | Path) -> Path:
    """Write what heads do on a text as one HTML page that works offline.

    >>> found = induction_activity(load_model("smollm2-135m"), "one two three one two")     # doctest: +SKIP
    >>> write_activity(found, "activity.html")                                              # doctest: +SKIP
    PosixPath('activity.html')

    A token is shaded by the share of its probability that is lost when the heads are replaced by their means,
    `1 - p_without / p`, and not at all where nothing is lost or the model gave it less than 1 %. Beside it stands what
    as many random heads of the same layers carry.

    Args:
        found: From `induction_activity`.
        path: File to write, `.html`.

    Raises:
        ValueError: If `found` is something else, `path` is no `.html` file or cannot be written, or Jinja is not
            installed.
    """
    check_result(found, TextActivity, "found", "induction_activity")
    path = check_page(path, SAID)
    jinja2 = library("jinja2", extra="report")
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    tokens = _tokens(found)
    page = environment.get_template("activity.html.j2").render(
        model=found.model,
        tokens=tokens,
        n_known=sum(token["nats"] is not None for token in tokens),
        n_from_context=int(found.is_from_context.sum()),
        chance=found.chance,
        heads=list(dict.fromkeys(found.heads["label"])),
        numbers=all(token["text"].isdecimal() for token in tokens[1:]),  # of a model without a tokenizer
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        own_style=Markup((FOLDER / "activity.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "activity.js").read_text(encoding="utf-8")),
        data=Markup(as_script({"looks": LOOKS, "tokens": tokens})),
    )
    with writing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _tokens(found: TextActivity) -> list[dict[str, Any]]:
    """Each token with how it was predicted, by the model at the token before it."""
    heads: dict[int, list[dict[str, Any]]] = {}
    for row in found.heads.to_dict("records"):
        looks_at = int(row["looks_at"])
        head = {"label": row["label"], "attention": _number(row["attention"]), "logit": _number(row["logit"])}
        heads.setdefault(int(row["position"]) + 1, []).append(head | {"at": looks_at if looks_at >= 0 else None})
    tokens = []
    known = found.predicted.assign(counts=found.is_from_context.shift(1, fill_value=False))
    for row in known.to_dict("records"):
        nats, position = _number(row["from_context"]), int(row["position"])
        token = {"text": row["token"], "nats": nats, "log_p": _number(row["log_p"])}
        token |= {"without": _number(row["log_p_without"]), "heads": heads.get(position, [])}
        token |= {"others": _number(row["others"]), "most": _number(row["others_most"])}
        carried = 0.0 if nats is None or row["log_p"] < PREDICTED else max(0.0, nats)
        token |= {"share": round(-math.expm1(-carried), 4) + 0.0, "counts": bool(row["counts"])}
        tokens.append(token | {"breaks": row["token"].endswith("⏎")})
    return tokens


def _number(value: float) -> float | None:
    """A number, None where it is not known."""
    return round(float(value), 5) if math.isfinite(value) else None
