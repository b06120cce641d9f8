"""What the files in figures/ hold: the verdicts of every script, its figures, and on which models it measured."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.judging import LANGUAGE, LANGUAGE_MODELS, SMALL_MODELS, by_class

if TYPE_CHECKING:
    from experiments.verdicts import Verdict

PAPER = re.compile(r"[A-Z][\w-]+ et al\. \d{4}")
SMALL = re.compile(r"seed \d|\b(?:repeats|scattered|tiled|text-\dl|induction-2l|GRU|LSTM|(?:one|two)-layer)\b")
MODEL = re.compile(r"(?:repeats|scattered|tiled|text|induction|smollm2|gemma3)-")
UNREAD = ("not counted", "not read", "not judged", "not tested")  # what a number says that is none
LENGTH = 72  # of a number that is shortened, in characters


class Found:
    """The verdicts by script, in the order of the pages: the essay's by section, then the papers'."""

    def __init__(self, verdicts: dict[str, list[Verdict]], figures: Path) -> None:
        """Put scripts that have verdicts in order."""
        self.figures = figures
        ordered = sorted(
            (name for name in verdicts if verdicts[name]), key=lambda name: _place(verdicts[name][0], name)
        )
        self.verdicts = {name: verdicts[name] for name in ordered}

    def pictures(self, script: str) -> list[Path]:
        """Figures of a script: those whose name begins with its name and with no longer name of a script."""
        names = sorted(self.verdicts, key=len, reverse=True)
        every = sorted(path for path in self.figures.iterdir() if path.suffix in (".png", ".gif"))
        return [path for path in every if next((n for n in names if path.stem.startswith(n)), "") == script]

    def kinds(self, script: str, verdict: Verdict) -> list[str]:
        """Classes of models that a verdict was measured on: as it says, or as its words or the script's table do."""
        if verdict.classes:
            return list(verdict.classes)
        said = " ".join(
            [verdict.claim, verdict.measured, verdict.criterion, *verdict.numbers, *verdict.numbers.values()]
        )
        table = self.figures / f"{script}.csv"
        if not _kinds(said) and table.exists():
            with table.open() as lines:
                said = " ".join(sorted({str(row.get("model")) for row in csv.DictReader(lines)}))
        return _kinds(said)


def read_verdicts(figures: Path, verdict: type[Verdict]) -> Found:
    """Every list of verdicts in a folder; the other JSON files there are the facts beside a table."""
    found = {}
    for path in sorted(figures.glob("*.json")):
        entries: Any = json.loads(path.read_text())
        if isinstance(entries, list):
            found[path.stem] = [verdict(**entry) for entry in entries]
    return Found(found, figures)


def section_of(verdict: Verdict) -> str:
    """The section of the essay that a claim is from ("2.1"), or nothing."""
    match = re.match(r"essay §([\d.]*\d)", verdict.source)
    return match[1] if match else ""


def paper_of(verdict: Verdict) -> str:
    """The paper that a claim is from, the first that is named; nothing where it was only seen here."""
    match = PAPER.search(verdict.source)
    return match[0] if match and not verdict.source.startswith(("seen here", "measured for")) else ""


def effects(verdict: Verdict) -> dict[str, str]:
    """By class of models the effect, its interval and its line; without classes the first number that was read.

    Where numbers are by model, the first of a small one and the first of a language model.
    """
    if verdict.classes:
        return {kind: _interval(each) for kind, each in verdict.classes.items()}
    numbers = {name: text for name, text in verdict.numbers.items() if not any(each in text for each in UNREAD)}
    models = by_class({name: text for name, text in numbers.items() if MODEL.match(name)})
    parts = [next(iter(own.items())) for own in (models.values() if len(models) > 1 else [numbers or verdict.numbers])]
    return {"": "; ".join(shortened(f"{name}: {text}") for name, text in parts)}


def shortened(text: str) -> str:
    """The first part of a number's text: up to a semicolon outside brackets, and no longer than a line of a table."""
    ends = [i for i in range(len(text)) if text.startswith("; ", i) and text[:i].count("(") == text[:i].count(")")]
    first = text[: ends[0]] if ends else text
    return first if len(first) <= LENGTH else first[:LENGTH].rpartition(" ")[0].rstrip(" ,;:") + " …"


def wanted(found: dict[str, Any]) -> str:
    """The line that the effect in a class of models is held against, for the eye."""
    return f"{'<' if found['at_most'] else '>'} {found['needed']:.3g}"


def bounds(found: dict[str, Any]) -> str:
    """The interval of an effect, or nothing where nothing bounds it."""
    low, high = found["low"], found["high"]
    return f"[{low:.3g}, {high:.3g}]" if low is not None and high is not None else ""


def cell(text: str) -> str:
    """Text that does not break the row of a table."""
    return text.replace("|", r"\|").replace("\n", " ")


def _interval(found: dict[str, Any]) -> str:
    told = f"{found['value']:.3g} {found['unit']} {bounds(found)}"
    return f"{' '.join(told.split())}; {wanted(found)}"


def _place(verdict: Verdict, name: str) -> tuple[Any, ...]:
    """Where a script stands: by section, then by the year of its paper, then what was seen here."""
    section, paper = section_of(verdict), paper_of(verdict)
    if section:
        return (0, section, verdict.source, name)
    return (1, not paper, paper[-4:], paper, name)


def _kinds(text: str) -> list[str]:
    words = {SMALL_MODELS: bool(SMALL.search(text)), LANGUAGE_MODELS: any(name in text.lower() for name in LANGUAGE)}
    return [kind for kind, there in words.items() if there]
