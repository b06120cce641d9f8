"""Tables of verdicts inside other pages: between `<!-- verdicts: NAMES -->` and `<!-- end of verdicts -->`.

NAMES is `essay` (a row a section of the essay) or names of experiments (a row each). All else in a page is left as it
is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from experiments.page_builder.found import Found, cell, effects, section_of
from experiments.page_builder.words import Words

if TYPE_CHECKING:
    from experiments.verdicts import Verdict

BLOCK = re.compile(r"(<!-- verdicts: ([\w, ]+) -->\n).*?(<!-- end of verdicts -->)", re.S)


def with_tables(page: str, found: Found, words: Words) -> str:
    """A page with its tables made anew.

    Raises:
        ValueError: If the page has no table, or one names an experiment without verdicts.
    """
    if not BLOCK.search(page):
        raise ValueError(
            "A table stands between <!-- verdicts: NAMES --> and <!-- end of verdicts -->: the page lacks one."
        )
    return BLOCK.sub(lambda block: f"{block[1]}{_table(found, words, block[2])}\n{block[3]}", page)


def _table(found: Found, words: Words, names: str) -> str:
    if names == "essay":
        return _essay(found, words)
    scripts = re.split(r",\s*", names)
    unknown = [name for name in scripts if name not in found.verdicts]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no verdicts in figures/; there are {', '.join(found.verdicts)}.")
    rows = [f"| `{name}` | {_claims(words, name, found.verdicts[name])} |" for name in scripts]
    return "\n".join(["| experiment | what came out |", "|---|---|", *rows])


def _essay(found: Found, words: Words) -> str:
    lines = ["| the essay | experiments | what came out |", "|---|---|---|"]
    for number in words.sections:
        own = {
            name: verdicts
            for name, verdicts in found.verdicts.items()
            if any(section_of(verdict).split(".")[0] == number for verdict in verdicts)
        }
        told = [_claims(words, name, verdicts, number) for name, verdicts in own.items()]
        lines.append(f"| {words.section(number)} | {', '.join(f'`{name}`' for name in own)} | {'<br>'.join(told)} |")
    return "\n".join(lines)


def _claims(words: Words, script: str, verdicts: list[Verdict], section: str = "") -> str:
    """Each claim with its mark and how large the effect is, those of one section of the essay or all."""
    told = []
    for i, verdict in enumerate(verdicts):
        if section and section_of(verdict).split(".")[0] != section:
            continue
        marks = dict.fromkeys(words.outcome(outcome).split()[0] for outcome in verdict.outcomes.values())
        size = "; ".join(effects(verdict).values())
        link = f"[{verdict.claim}](../experiments/pages/{script}.md#claim-{i + 1})"
        told.append(cell(f"{' '.join(marks)} {link}: {size}"))
    return "<br>".join(told)
