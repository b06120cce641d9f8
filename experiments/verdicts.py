"""Claims and their verdicts: what was claimed, by which criterion, with which numbers.

    python experiments/verdicts.py        # writes experiments/README.md from figures/*.json

A script that tests a claim writes `figures/SCRIPT.json` through `save_verdicts`; the page is built from these alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
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
    """The verdicts of every script as one page of Markdown."""
    parts = [
        "# What was claimed, and what came out",
        "Built by `make claims` from what the scripts write; every number is from a run of the committed code.",
    ]
    for path in sorted(figures.glob("*.json")):
        found: Any = json.loads(path.read_text())
        if not isinstance(found, list):
            continue  # the facts beside a table
        parts.append(f"## `{path.stem}.py`")
        for verdict in (Verdict(**entry) for entry in found):
            rows = "\n".join(f"| {name} | {text} |" for name, text in verdict.numbers.items())
            caveat = f" {verdict.caveat}" if verdict.caveat else ""
            parts += [
                f"**{verdict.claim}** ({verdict.source})",
                f"Criterion, fixed beforehand: {verdict.criterion}",
                f"| | |\n|---|---|\n{rows}",
                f"Control: {verdict.control}",
                f"**{verdict.outcome.capitalize()}.**{caveat}",
            ]
        pictures = sorted(each for kind in ("png", "gif") for each in figures.glob(f"{path.stem}*.{kind}"))
        parts += [f"![{picture.stem}](../figures/{picture.name})" for picture in pictures]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "experiments" / "README.md").write_text(page(ROOT / "figures"))
