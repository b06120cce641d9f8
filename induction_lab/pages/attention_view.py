"""Where heads look on one text: a view for notebooks that needs no kernel, and outlives the export to HTML."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.internals.activations import capture
from induction_lab.internals.reading import heads_of
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.pages.encoding import lower_triangle, pack
from induction_lab.pages.html import FOLDER, as_script, check_page
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike
from induction_lab.results.tables import writing
from induction_lab.results.token_labels import check_labels

MOST_TOKENS = 256
MOST_HEADS = 24
NAMED = 3  # keys that the table names for each query
LEAST = 0.005  # attention that is named there
SCRIPTS = (
    "values",
    "frame",
    "arcs",
    "pattern",
    "attention_view",
)  # of assets/js
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"


@takes_names
def show_attention(
    model: HookedModel,
    text: PromptsLike,
    heads: HeadLike | Iterable[HeadLike],
    *,
    labels: Sequence[str] | None = None,
) -> AttentionView:
    """Where heads look on a text, as a view that a notebook shows and that is saved as one HTML file.

    >>> show_attention(load_model("smollm2-135m"), "one two three one two", ["L18H6", "L4H7"])     # doctest: +SKIP

    Point at a token, or use arrow keys: arcs lead to the tokens that each head looks at from there. Nothing runs but a
    small script that the view brings along; where scripts are not run, it is a table.

    Args:
        model: Any supported model.
        text: A text; or tokens or `Prompts` of one prompt. At most `MOST_TOKENS` tokens.
        heads: Which, such as `"L1H0"` or `["L1H0", (0, 3)]`; at most `MOST_HEADS`. The first four are shown at first.
        labels: What the tokens look like, one a token, BOS included; by default as the model's tokenizer writes them.

    Raises:
        ValueError: If the text is longer, or several; a head is not there, or none or too many are given; or there are
            not as many labels as tokens.
    """
    chosen, prompts = heads_of(model, heads), as_prompts(model, text)
    if not 1 <= len(chosen) <= MOST_HEADS:
        raise ValueError(f"An attention view shows 1 to {MOST_HEADS} heads, got {len(chosen)}.")
    length = int(prompts.real_lengths[0])
    if len(prompts) != 1 or length > MOST_TOKENS:
        got = f"{length} tokens" if len(prompts) == 1 else f"{len(prompts)} prompts of up to {prompts.tokens.shape[1]}"
        raise ValueError(f"An attention view shows one text of at most {MOST_TOKENS} tokens, got {got}: shorten it.")
    words = model.token_labels(prompts) if labels is None else check_labels(labels, length)
    acts = capture(model, prompts, "pattern", heads=chosen)
    patterns = {
        head: acts["pattern", layer][0, row, :length, :length].float().cpu()
        for layer, there in acts.heads.items()
        for row, head in enumerate(there)
    }
    return AttentionView(str(model.name), words, {head: patterns[head] for head in chosen})


class AttentionView:
    """Where heads look on one text: shows itself in notebooks, and is saved by `save`.

    Attributes:
        model: Its name.
        tokens: The text's tokens as people read them.
        patterns: By head, attention from each query to each key.
    """

    def __init__(self, model: str, tokens: list[str], patterns: dict[Head, Float[Tensor, "query key"]]) -> None:
        """Hold what is shown."""
        self.model, self.tokens, self.patterns = model, tokens, patterns

    def __repr__(self) -> str:
        """Which heads, on how many tokens."""
        return f"AttentionView({self.model!r}, {len(self.tokens)} tokens, {', '.join(map(str, self.patterns))})"

    def _repr_html_(self) -> str:
        """The table, and the script that puts the view in its place."""
        data = as_script(self._data())
        name = f"attention-{hashlib.sha256(data.encode()).hexdigest()[:12]}"
        mount = f"for (const host of document.querySelectorAll('#{name}')) if (!host.shadowRoot) mountAttention(host, "
        return (
            f'<div id="{name}" class="tex2jax_ignore mathjax_ignore">{self._table()}</div>\n'
            f'<script>(() => {{\n"use strict";\n{_script()}\n{mount}{data});\n}})();</script>'
        )

    def save(self, path: str | Path) -> Path:
        """Write it as one HTML file that works offline.

        Raises:
            ValueError: If `path` is no `.html` file or cannot be written.
        """
        path = check_page(path, "An attention view is an .html file")
        page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{html.escape(self._title())}</title>
<style>:root {{ color-scheme: light dark; }} body {{ margin: 0.5rem; }}</style>
</head>
<body>
<main>
{self._repr_html_()}
</main>
</body>
</html>
"""
        with writing(path) as part:
            part.write_text(page, encoding="utf-8")
        return path

    def _title(self) -> str:
        return f"Where heads of {self.model} look"

    def _data(self) -> dict[str, Any]:
        heads = [
            {"name": str(head), "pattern": pack(lower_triangle(pattern.numpy()), bits=16, low=0.0, high=1.0)}
            for head, pattern in self.patterns.items()
        ]
        return {"title": self._title(), "tokens": self.tokens, "heads": heads}

    def _table(self) -> str:
        rows = [
            [str(query), _quoted(token), *(self._looks(pattern, query) for pattern in self.patterns.values())]
            for query, token in enumerate(self.tokens)
        ]
        facts = f"From each token, the {NAMED} tokens that the head looks at most, and its attention to each."
        return html_card(self._title(), facts, ["", "token", *map(str, self.patterns)], rows)

    def _looks(self, pattern: Float[Tensor, "query key"], query: int) -> str:
        best = pattern[query, : query + 1].topk(min(NAMED, query + 1))
        named = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return ", ".join(
            f"{_quoted(self.tokens[key])} ({key}) {weight:.2f}" for key, weight in named if weight >= 0.005
        )


def _quoted(token: str) -> str:
    return f"“{token.strip() or '␣'}”"


@cache
def _script() -> str:
    """What the view runs, its style in it."""
    style = "\n".join((FOLDER / name).read_text("utf-8") for name in ("report.css", "live.css", "attention_view.css"))
    parts = [(FOLDER / "js" / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    return "\n".join([f"const STYLE = {json.dumps(style)};", *parts])
