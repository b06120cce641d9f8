"""Tokens as people read them: text on one line; of a character that several tokens spell, which part each token is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from typing import Any

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a byte as SentencePiece writes it
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # GPT-2's alphabet leaves these as they are
_OTHERS = [byte for byte in range(0x100) if byte not in _VISIBLE]
_ALPHABET = {chr(byte): byte for byte in _VISIBLE} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHERS)}
_SIGNS = {"\n": "⏎", "\r": "␍", "\t": "⇥"}
_UNREADABLE = "\ufffd"
_ABOVE, _BELOW = str.maketrans("1234", "¹²³⁴"), str.maketrans("1234", "₁₂₃₄")


def token_labels(tokenizer: Any | None, tokens: Sequence[int], *, behind: Sequence[int] = ()) -> list[str]:
    """What each of some tokens in a row reads as.

    Byte-level vocabularies spell rare characters (Chinese, emoji) in several tokens, none of which is text by itself:
    each is shown as the character and which part of it, `日¹⁄₂` and `日²⁄₂`; as bytes, `⟨E6 97⟩`, where the character
    is not whole. Ends of lines and tabs are shown as signs, other characters that cannot be seen by their codes.

    Args:
        tokenizer: The model's; without one, tokens are shown by their numbers.
        tokens: Token ids as they follow each other.
        behind: What stands before them, not shown: a character may begin there.
    """
    if tokenizer is None:
        return [str(token) for token in tokens]
    every = [*behind[-3:], *tokens]  # a character has four bytes at most
    read = [_read(tokenizer, int(token)) for token in every]
    labels: list[str] = []
    for kind, run in groupby(read, type):
        several: list[Any] = list(run)
        labels += _characters(several) if kind is bytes else several
    return ["".join(map(_visible, label)) for label in labels[len(every) - len(tokens) :]]


def _read(tokenizer: Any, token: int) -> str | bytes:
    """A token's text; its bytes where they are part of a character; its number where the tokenizer trips over it."""
    try:
        text, piece = tokenizer.decode([token]), tokenizer.convert_ids_to_tokens(token)
    except Exception:  # whatever a tokenizer trips over, the number is known
        return str(token)
    if piece is None:  # the model has more logits than its tokenizer tokens
        return str(token)
    if isinstance(piece, bytes):
        return piece if _UNREADABLE in text else text
    piece = str(piece)
    if piece.startswith("▁") and not text.startswith(" "):  # SentencePiece takes away what a text begins with
        return f" {text}"
    if _UNREADABLE not in text and text:
        return text
    if byte := _BYTE.fullmatch(piece):
        return bytes.fromhex(byte[1])
    if piece and all(character in _ALPHABET for character in piece):
        return bytes(_ALPHABET[character] for character in piece)
    return f"⟨{piece}⟩" if piece and piece != text else text or str(token)


def _characters(parts: list[Any]) -> list[str]:
    """Bytes of tokens in a row as the characters that they spell, each with its part where tokens share one."""
    whole, owner = b"".join(parts), [i for i, part in enumerate(parts) for _ in part]
    labels, at = [""] * len(parts), 0
    while at < len(whole):
        character = _character(whole[at : at + 4])
        length = len(character.encode()) or 1
        sharing = list(dict.fromkeys(owner[at : at + length]))
        for part, token in enumerate(sharing, 1):
            fraction = f"{str(part).translate(_ABOVE)}⁄{str(len(sharing)).translate(_BELOW)}"
            labels[token] += character + fraction * (len(sharing) > 1) if character else f"⟨{whole[at]:02X}⟩"
        at += length
    return [label.replace("⟩⟨", " ") for label in labels]


def _character(spelled: bytes) -> str:
    """The character that bytes begin with; empty where they begin with none."""
    for length in range(1, len(spelled) + 1):
        with suppress(UnicodeDecodeError):
            return spelled[:length].decode()
    return ""


def _visible(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    shown = character == " " or character.isprintable()
    return character if shown else character.encode("unicode_escape").decode()


def check_labels(labels: Sequence[str], n_tokens: int) -> list[str]:
    """What people give as tokens' labels: as many as there are tokens, each as text on one line.

    Raises:
        ValueError: If it is one text, or there are more or fewer.
    """
    if isinstance(labels, str) or len(labels) != n_tokens:
        got = repr(labels) if isinstance(labels, str) else str(len(labels))
        raise ValueError(f"{n_tokens} keys want as many labels, got {got}: a list of one a token, BOS included.")
    return ["".join(map(_visible, str(label))) for label in labels]
