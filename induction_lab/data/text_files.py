"""Text files as documents, in pieces that fit in memory."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".txt", ".py", ".md", ".rst")
PIECE = 1 << 16  # characters, and a line more
_LINE_END = re.compile(r"\S(\n)")


def standard_library() -> list[Path]:
    """The sources of Python's standard library, tests left out, in the order of their paths."""
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    found = []
    for folder, below, names in os.walk(sysconfig.get_paths()["stdlib"]):
        below[:] = [name for name in below if name not in left_out]  # not to be walked
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def read_text(path: Path) -> str:
    """A whole file.

    Raises:
        ValueError: If it cannot be read as UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} cannot be read as UTF-8 text: {reason}.") from error


def matches(name: str) -> list[Path]:
    """The files that a path, a folder (with all `SUFFIXES` below, hidden ones left out) or a glob names.

    Raises:
        ValueError: If there is none.
    """
    path = Path(name).expanduser()
    if path.is_file():
        found = [path]
    elif path.is_dir():
        below = (file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        found = [p for p in below if p.is_file() and not any(x.startswith(".") for x in p.relative_to(path).parts)]
    else:
        found = [p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file()]
    if not found:
        raise ValueError(f"No text files match {name!r}: give files, globs, or folders with {', '.join(SUFFIXES)}.")
    return [file.resolve() for file in found]


def pieces(files: Sequence[Path], separator: str) -> Iterator[tuple[int, str]]:
    """The text, a piece at a time, and the number of the document that it is of; empty documents do not count.

    Args:
        files: UTF-8 text.
        separator: Between documents; where it is empty, a file is a document.

    Raises:
        ValueError: If a file cannot be read.
    """
    document = 0
    for path in files:
        begun, rest = False, ""
        for text in chunks(path):
            *complete, rest = (rest + text).split(separator) if separator else [rest + text]
            for end in complete:
                if end:
                    yield document, end
                document += begun or bool(end)
                begun = False
            while (cut := _seam(rest, len(separator))) > 0:
                yield document, rest[:cut]
                begun, rest = True, rest[cut:]
        if rest:
            yield document, rest
        document += begun or bool(rest)


def chunks(path: Path) -> Iterator[str]:
    """A file's text, some at a time; an error that names it where it cannot be read."""
    try:
        with path.open(encoding="utf-8") as file:
            while text := file.read(PIECE):
                yield text
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error


def _seam(text: str, margin: int) -> int:
    """Where to cut a long text without a trace in its tokens, 0 for nowhere yet; never within the last `margin`.

    Byte pairs are merged within words, and no word begins before the end of a line that is not blank and goes on
    after it. A text without line ends is never cut.
    """
    match = _LINE_END.search(text, PIECE, len(text) - margin)
    return match.start(1) if match else 0


def survey(files: Sequence[Path], separator: str) -> tuple[int, int, str]:
    """How many documents and pieces there are, and the hash of it all."""
    n_documents, n_pieces, digest = 0, 0, hashlib.sha256()
    for document, piece in pieces(files, separator):
        if document == n_documents:
            digest.update(b"\xff")  # no byte of UTF-8, so where documents begin is told from what they say
        n_documents, n_pieces = document + 1, n_pieces + 1
        digest.update(piece.encode())
    return n_documents, n_pieces, digest.hexdigest()
