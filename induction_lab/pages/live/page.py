"""The live page as one HTML text: style, scripts and what it knows at the start; the same scripts for every host."""

from __future__ import annotations

import html
import tomllib
from functools import cache
from typing import Any

from induction_lab.pages.html import FOLDER, as_script

# Files of assets/js, in the order in which they are joined: what runs outside functions may use only constants of its
# own or of an earlier file.
SCRIPTS = (
    "values", "arcs", "pattern", "live/words", "live/small_network", "live/small_model", "live/hosts", "live/state",
    "live/text", "live/predictions", "live/heads", "live/changes", "live/one_head", "live/why", "live/tours",
    "live/keep", "live/mount",
)  # fmt: skip
# Scripts and styles stand in the page; it asks nobody but the server that it came from.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DESCRIBED = "frame-ancestors"  # which a page cannot say of itself, only its server


@cache
def live_script() -> str:
    """The files of `SCRIPTS`, joined; `mountLive(root, data, host)` is what they define."""
    return "\n".join((FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)


@cache
def live_style() -> str:
    """Colours and basic elements, as of the report, and the live page's own."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "live.css"))


@cache
def tours() -> list[dict[str, Any]]:
    """The guided tours, as `assets/tours.toml` has them."""
    return tomllib.loads((FOLDER / "tours.toml").read_text(encoding="utf-8"))["tour"]


def live_page(data: dict[str, Any], *, title: str) -> str:
    """The page.

    Args:
        data: What it knows at the start: `models`, `first`, `checkpoints`, `scene`, and `token` of a server or
            `packed`, models by name that run in the page.
        title: Of the window.
    """
    policy = "; ".join(part for part in POLICY.split("; ") if not part.startswith(DESCRIBED))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>{live_style()}</style>
</head>
<body class="live-frame">
<main id="live"><noscript><p class="note">The page needs JavaScript.</p></noscript></main>
<script type="application/json" id="live-data">{as_script(data | {"tours": tours()})}</script>
<script>
(() => {{
"use strict";
{live_script()}
const data = JSON.parse(document.getElementById("live-data").textContent);
mountLive(document.getElementById("live"), data, hostOf(data));
}})();
</script>
</body>
</html>
"""
