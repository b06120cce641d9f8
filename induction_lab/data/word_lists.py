"""Words and texts that come with the package, and their tokens where they stand in a text."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

WORDS = Path(__file__).parent / "words"


def load_words(name: str) -> dict[str, Any]:
    """What `data/words/NAME.toml` holds: lists of words by kind, pairs by task, texts.

    Raises:
        ValueError: If there is no such file; the message lists those there are.
    """
    path = WORDS / f"{name}.toml"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in WORDS.glob("*.toml")))
        raise ValueError(f"No words {name!r} come with the package; there are {there}.")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def tokens_behind(tokenizer: Any, before: str, text: str) -> list[int]:
    """The tokens of a text where it stands behind another; none where the two share a token.

    Tokenizers write a word at the beginning of a text and the same word behind a space in different ways, each in its
    own.
    """
    first, whole = (
        list(tokenizer(each, add_special_tokens=False, verbose=False)["input_ids"]) for each in (before, before + text)
    )
    return whole[len(first) :] if whole[: len(first)] == first else []
