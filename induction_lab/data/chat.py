"""Texts as people give them: one, several, files, or the messages of a chat, which the tokenizer's template writes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from induction_lab.data.text_files import SUFFIXES, read_text


def is_text(given: Any) -> bool:
    """Whether these are a text, a text file, several of these, messages or lists of messages; tokens else."""
    if isinstance(given, str | Path):
        return True
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        return False
    some: list[Any] = list(given)
    return bool(some) and (_are_texts(some) or _are_messages(some) or _are_chats(some))


def texts_of(tokenizer: Any, given: str | Path | Iterable[Any]) -> list[str]:
    """The texts, files read, chats as the tokenizer's template writes them.

    Raises:
        ValueError: If these are neither texts nor messages, a text is but the name of a file, a file cannot be read, or
            the tokenizer has no template for messages.
    """
    some: list[Any] = [given] if isinstance(given, str | Path) else list(given)
    if _are_messages(some):
        return [_written(tokenizer, some)]
    if some and _are_chats(some):
        return [_written(tokenizer, list(chat)) for chat in some]
    if not _are_texts(some):
        raise ValueError(f"Text is one string, several, or messages with `role` and `content`, got {some[:1]}.")
    return [read_text(each) if isinstance(each, Path) else _no_file(each) for each in some]


def _are_texts(given: list[Any]) -> bool:
    return all(isinstance(each, str | Path) for each in given)


def _no_file(text: str) -> str:
    """A text, but for those that somebody gave for what stands in a file.

    Raises:
        ValueError: If it is the name of a text file that is there.
    """
    if text.endswith(SUFFIXES) and os.path.isfile(text):
        raise ValueError(f"{text!r} is a file: give Path({text!r}) for the text in it.")
    return text


def _are_messages(given: Any) -> bool:
    """Whether this is one chat."""
    several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
    found = list(given) if several and not hasattr(given, "dtype") else []
    return bool(found) and all(isinstance(each, Mapping) and {"role", "content"} <= set(each) for each in found)


def _are_chats(given: list[Any]) -> bool:
    return all(_are_messages(each) for each in given)


def _written(tokenizer: Any, messages: list[Any]) -> str:
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError("This tokenizer has no chat template, so it cannot write messages out: give text or tokens.")
    try:
        return tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    except Exception as error:  # a template is a program of its own, with rules on roles and their order
        raise ValueError(f"The tokenizer's chat template does not take these messages: {error}") from error
