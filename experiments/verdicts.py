"""Claims and their verdicts: what was claimed, by which criterion, with which numbers.

    python -m experiments verdicts   # writes experiments/README.md from figures/*.json

A script that tests a claim writes `figures/NAME.json` through `save_verdicts`; the page is built from these alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import FIGURES, ROOT

OUTCOMES = ("holds", "holds with a caveat", "does not hold here", "not tested")


class Verdict(NamedTuple):
    """One claim, tested."""

    claim: str
    source: str
    criterion: str
    numbers: dict[str, str]
    control: str
    outcome: str
    caveat: str = ""
    measured: str = ""  # what was run and read, where the criterion does not say it


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    (ROOT / "experiments" / "README.md").write_text(page(FIGURES))


def save_verdicts(verdicts: list[Verdict], path: Path) -> Path:
    """Write the verdicts of one script."""
    for verdict in verdicts:
        if verdict.outcome not in OUTCOMES:
            raise ValueError(f"An outcome is one of {', '.join(OUTCOMES)}, got {verdict.outcome!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([verdict._asdict() for verdict in verdicts], indent=1, ensure_ascii=False) + "\n")
    return path


def outcome(passed: dict[str, bool]) -> dict[str, str]:
    """Holds if every seed or model passes, with a caveat if more than half do, else not; failures are named."""
    if not passed:
        return {"outcome": OUTCOMES[3], "caveat": "No model here has what the claim is about."}
    failed = [name for name, ok in passed.items() if not ok]
    which = OUTCOMES[0] if not failed else OUTCOMES[1] if len(failed) < len(passed) / 2 else OUTCOMES[2]
    named = "each of them" if len(failed) == len(passed) else ", ".join(failed)
    return {"outcome": which, "caveat": f"Fails for {named}." if failed else ""}


def page(figures: Path) -> str:
    """The verdicts of every experiment as one page of Markdown: the essay's by section, then the literature's."""
    found = {}
    for path in sorted(figures.glob("*.json")):
        entries: Any = json.loads(path.read_text())
        if isinstance(entries, list):  # the others are the facts beside a table
            found[path.stem] = [Verdict(**entry) for entry in entries]
    essay = sorted((name for name in found if _of_the_essay(found[name])), key=lambda name: found[name][0].source)
    papers = [name for name in found if name not in essay]
    parts = [
        "# What was claimed, and what came out",
        "Built by `make claims` and `make essay` from what experiments write. Every number is one that the experiment "
        "of that name wrote; which state of the code it ran at, `git log -1 figures/NAME.json` says. "
        "`python -m experiments` lists them with what they cost, `python -m experiments NAME` runs one.",
    ]
    for title, names in {"The essay, claim by claim": essay, "Claims of papers": papers}.items():
        parts += [f"## {title}", _overview({name: found[name] for name in names})] if names else []
        for name in names:
            parts += [f"### `{name}`", *(part for verdict in found[name] for part in _told(verdict))]
            pictures = sorted(each for kind in ("png", "gif") for each in figures.glob(f"{name}*.{kind}"))
            parts += [f"![{picture.stem}](../figures/{picture.name})" for picture in pictures]
    return "\n\n".join(parts) + "\n"


def _of_the_essay(verdicts: list[Verdict]) -> bool:
    return bool(verdicts) and verdicts[0].source.startswith("essay §")


def _overview(found: dict[str, list[Verdict]]) -> str:
    rows = [
        f"| [{name}](#{name}) | {verdict.claim} | {verdict.source} | {verdict.outcome} |"
        for name, verdicts in found.items()
        for verdict in verdicts
    ]
    return "\n".join(["| experiment | claim | source | verdict |", "|---|---|---|---|", *rows])


def _told(verdict: Verdict) -> list[str]:
    rows = "\n".join(f"| {name} | {text} |" for name, text in verdict.numbers.items())
    told = [
        f"**{verdict.claim}** ({verdict.source})",
        f"Measured: {verdict.measured}",
        f"Criterion, fixed beforehand: {verdict.criterion}",
        f"| | |\n|---|---|\n{rows}",
        f"Control: {verdict.control}",
        f"**{verdict.outcome.capitalize()}.**" + (f" {verdict.caveat}" if verdict.caveat else ""),
    ]
    return told if verdict.measured else [told[0], *told[2:]]
