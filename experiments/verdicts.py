"""Claims and their verdicts: what was claimed, by which criterion, with which numbers.

    python -m experiments verdicts   # writes experiments/README.md from figures/*.json

A script that tests a claim writes `figures/NAME.json` through `save_verdicts`; the page is built from these alone.
How an outcome is reached from what was measured: `experiments.judging`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import FIGURES, ROOT
from experiments.judging import DIFFERS, OUTCOMES, outcome

__all__ = ["OUTCOMES", "Verdict", "outcome", "save_verdicts"]


class Verdict(NamedTuple):
    """One claim, tested.

    `beforehand` is claimed explicitly, and only where the criterion was fixed before any of the numbers was seen.
    `classes`: by class of models what `judge` or `votes` found; `outcome` is what they have in common.
    """

    claim: str
    source: str
    criterion: str
    numbers: dict[str, str]
    control: str
    outcome: str
    caveat: str = ""
    measured: str = ""  # what was run and read, where the criterion does not say it
    beforehand: bool = False
    would_change: str = ""  # what would have changed the verdict
    classes: dict[str, dict[str, Any]] = {}

    @property
    def outcomes(self) -> dict[str, str]:
        """By class of models; of all that was measured where they are not told apart."""
        return {kind: each["outcome"] for kind, each in self.classes.items()} or {"": self.outcome}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    (ROOT / "experiments" / "README.md").write_text(page(FIGURES))


def save_verdicts(verdicts: list[Verdict], path: Path) -> Path:
    """Write the verdicts of one script."""
    for verdict in verdicts:
        for found in verdict.outcomes.values():
            if found not in OUTCOMES:
                raise ValueError(f"An outcome is one of {', '.join(OUTCOMES)}, got {found!r}.")
        if verdict.outcome not in {*verdict.outcomes.values(), DIFFERS}:
            raise ValueError(f"The outcome is what the classes have in common or {DIFFERS!r}, got {verdict.outcome!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([verdict._asdict() for verdict in verdicts], indent=1, ensure_ascii=False) + "\n")
    return path


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
        f"| [{name}](#{name}) | {verdict.claim} | {verdict.source} | {_short(verdict)} |"
        for name, verdicts in found.items()
        for verdict in verdicts
    ]
    return "\n".join(["| experiment | claim | source | verdict |", "|---|---|---|---|", *rows])


def _short(verdict: Verdict) -> str:
    return "; ".join(f"{kind}: {found}" if kind else found for kind, found in verdict.outcomes.items())


def _told(verdict: Verdict) -> list[str]:
    rows = "\n".join(f"| {name} | {text} |" for name, text in verdict.numbers.items())
    when = "fixed beforehand" if verdict.beforehand else "not fixed beforehand: it and the numbers came together"
    told = [
        f"**{verdict.claim}** ({verdict.source})",
        f"Measured: {verdict.measured}" if verdict.measured else "",
        f"Criterion ({when}): {verdict.criterion}",
        f"| | |\n|---|---|\n{rows}",
        f"Control: {verdict.control}",
        *(_of_class(kind, each) for kind, each in verdict.classes.items()),
        "" if verdict.classes and not verdict.caveat else _bold(verdict.outcome.capitalize(), verdict.caveat),
        f"What would have changed it: {verdict.would_change}" if verdict.would_change else "",
    ]
    return [part for part in told if part]


def _of_class(kind: str, found: dict[str, Any]) -> str:
    """The outcome in one class of models, and the interval that it comes from."""
    value, low, high = (found[name] for name in ("value", "low", "high"))
    bounds = f"90 % interval {low:.3g} … {high:.3g}" if low is not None and high is not None else "nothing bounds it"
    unit, models = f" {found['unit']}" if found["unit"] else "", f"{found['models']} model{'s' * (found['models'] > 1)}"
    needed = f"{'below' if found['at_most'] else 'above'} {found['needed']:.3g} is wanted"
    told = _bold(f"{kind.capitalize()}: {found['outcome']}", found["caveat"])
    return f"{told} ({value:.3g}{unit}, {bounds}, {models}; {needed})"


def _bold(said: str, more: str) -> str:
    return f"**{said}.** {more}".strip()
