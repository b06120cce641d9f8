"""Words of the pages in one language: the frame, the kinds of verdict, the essay's sections, claims in translation."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")


class Words:
    """What a page says in `language`; `words["claim_head"]` is a word of the frame."""

    def __init__(self, language: str) -> None:
        """Read the files of words."""
        if language not in LANGUAGES:
            raise ValueError(f"A language is one of {', '.join(LANGUAGES)}, got {language!r}.")
        told = read("words")
        self.at = LANGUAGES.index(language)
        self.suffix = "" if language == "en" else f".{language}"
        self._frame: dict[str, str] = told[language]
        self._outcomes: dict[str, list[str]] = told["outcomes"]
        self._sections: dict[str, list[str]] = told["sections"]
        self.translated: dict[str, str] = {} if language == "en" else read(f"claims.{language}")

    def __getitem__(self, word: str) -> str:
        """A word of the frame."""
        return self._frame[word].strip("\n")

    def claim(self, claim: str) -> str:
        """In this language, or in English with a mark."""
        return self.translated.get(claim) or f"{claim} {self['untranslated']}".strip()

    def outcome(self, outcome: str) -> str:
        """The mark of an outcome and its name."""
        mark, *names = self._outcomes[outcome]
        return f"{mark} {names[2 * self.at]}"

    def legend(self) -> list[tuple[str, str]]:
        """Every outcome with its mark, and what it means."""
        return [(self.outcome(name), said[2 + 2 * self.at]) for name, said in self._outcomes.items()]

    def section(self, number: str) -> str:
        """The title of a section of the essay, of "2.1" that of "2"."""
        return f"§{number.split('.')[0]} {self._sections[number.split('.')[0]][self.at]}"

    @property
    def sections(self) -> list[str]:
        """Numbers of the essay's sections."""
        return list(self._sections)


def read(name: str) -> dict[str, Any]:
    """One of the files of words beside this one."""
    return tomllib.loads((HERE / f"{name}.toml").read_text())
