"""Texts as people give them: one, several, or the messages of a chat, which the tokenizer's template writes out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def is_text(given: Any) -> bool:
    """Whether these are a text, texts, messages or lists of messages; tokens else."""
    if isinstance(given, str):
        return True
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        return False
    some = list(given)
    return bool(some) and (all(isinstance(each, str) for each in some) or _are_messages(some) or _are_chats(some))


def texts_of(tokenizer: Any, given: str | Iterable[Any]) -> list[str]:
    """The texts, chats as the tokenizer's template writes them.

    Raises:
        ValueError: If these are neither texts nor messages, or the tokenizer has no template for them.
    """
    if isinstance(given, str):
        return [given]
    some = list(given)
    if _are_messages(some):
        return [_written(tokenizer, some)]
    if some and _are_chats(some):
        return [_written(tokenizer, list(chat)) for chat in some]
    if not all(isinstance(each, str) for each in some):
        raise ValueError(f"Text is one string, several, or messages with `role` and `content`, got {some[:1]}.")
    return some


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
