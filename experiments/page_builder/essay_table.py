"""The table of docs/essay.md: by section of the essay what came out, a line a claim."""

from __future__ import annotations

from experiments.page_builder.found import Found, cell, effects, section_of
from experiments.page_builder.words import Words

BEGIN, END = "<!-- verdicts: made by `python -m experiments verdicts` -->", "<!-- end of verdicts -->"


def with_essay_table(page: str, found: Found, words: Words) -> str:
    """A page with the table between its two marks made anew, and all else as it is.

    Raises:
        ValueError: If the page has no such marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The table of the essay stands between {BEGIN} and {END}: the page lacks one of them.")
    return f"{before}{BEGIN}\n{essay_table(found, words)}\n{END}{after}"


def essay_table(found: Found, words: Words) -> str:
    """A row a section: the experiments, and each claim with its outcome and how large the effect is."""
    rows: dict[str, list[tuple[str, str]]] = {number: [] for number in words.sections}
    for script, verdicts in found.verdicts.items():
        for i, verdict in enumerate(verdicts):
            section = section_of(verdict).split(".")[0]
            if not section:
                continue
            marks = dict.fromkeys(words.outcome(outcome).split()[0] for outcome in verdict.outcomes.values())
            size = "; ".join(effects(verdict).values()) if verdict.classes else ""
            link = f"[{verdict.claim}](../experiments/pages/{script}.md#claim-{i + 1})"
            rows[section].append((script, f"{' '.join(marks)} {link}{f': {size}' if size else ''}"))
    lines = ["| the essay | experiments | what came out |", "|---|---|---|"]
    for number, claims in rows.items():
        scripts = ", ".join(dict.fromkeys(f"`{script}`" for script, _ in claims))
        told = "<br>".join(cell(claim) for _, claim in claims)
        lines.append(f"| {words.section(number)} | {scripts} | {told} |")
    return "\n".join(lines)
