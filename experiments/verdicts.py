"""Claims and their verdicts: what was claimed, by which criterion, with which numbers.

    python -m experiments verdicts   # experiments/README.md, experiments/pages/, tables in docs/ from figures/*.json

A script that tests a claim writes `figures/NAME.json` through `save_verdicts`; the pages are built from these alone, by
`experiments.page_builder`. How an outcome is reached from what was measured: `experiments.judging`; where that rule was
changed, the files that keep what was found in each model are judged again by it first.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from experiments.harness import FIGURES, ROOT
from experiments.judging import DIFFERS, OUTCOMES, again, outcome
from experiments.page_builder.essay_map import essay_map
from experiments.page_builder.found import read_verdicts
from experiments.page_builder.overview import overview
from experiments.page_builder.script_pages import script_pages
from experiments.page_builder.tables import with_tables
from experiments.page_builder.words import LANGUAGES, Words

HERE = ROOT / "experiments"
WITH_TABLES = (ROOT / "docs" / "essay.md", ROOT / "docs" / "training.md")

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
    captions: dict[str, str] = {}  # by the name of a figure what it finds, in words with its numbers

    @property
    def outcomes(self) -> dict[str, str]:
        """By class of models; of all that was measured where they are not told apart."""
        return {kind: each["outcome"] for kind, each in self.classes.items()} or {"": self.outcome}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    judge_again(FIGURES)
    built = pages(FIGURES)
    for old in (HERE / "pages").glob("*.md"):
        if f"pages/{old.name}" not in built:
            old.unlink()
    for path, text in built.items():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
    for path in WITH_TABLES:
        path.write_text(with_tables(path.read_text(), read_verdicts(FIGURES, Verdict), Words("en")))


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


def judge_again(figures: Path) -> list[Path]:
    """Apply today's rule to every file of verdicts that keeps what was found in each model; those that it changes."""
    changed = []
    for path in sorted(figures.glob("*.json")):
        entries = json.loads(path.read_text())
        if isinstance(entries, list):
            judged = [Verdict(**(entry | again(entry.get("classes", {})))) for entry in entries]
            if judged != [Verdict(**entry) for entry in entries]:
                changed.append(save_verdicts(judged, path))
    return changed


def pages(figures: Path, here: Path = HERE) -> dict[str, str]:
    """Every page that readers see, by its path below experiments/, from the files in `figures` alone."""
    found, subjects = read_verdicts(figures, Verdict), (here / "subjects" / "README.md").exists()
    built = {f"pages/{name}.md": page for name, page in script_pages(found, Words("en")).items()}
    for language in LANGUAGES:
        words = Words(language)
        built[f"README{words.suffix}.md"] = overview(found, words, subjects)
        built[f"pages/essay{words.suffix}.md"] = essay_map(found, words)
    return built
