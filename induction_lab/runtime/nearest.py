"""What somebody probably meant who gave a name that is none."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable


class UnknownNameError(KeyError, ValueError):
    """A name that is none, asked of what is looked up like a dictionary: its message reads as it was written."""

    def __str__(self) -> str:
        """The message, which a `KeyError` would put in quotes."""
        return str(self.args[0]) if self.args else ""


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A question to end a message with, ` Did you mean smollm2-135m?`; nothing where no name is near.

    Args:
        given: What is no name, or several of them.
        known: The names that there are.
    """
    names = {name.lower().replace("_", "-"): name for name in known}
    for each in given if isinstance(given, list | tuple) else [given]:
        near = difflib.get_close_matches(str(each).lower().replace("_", "-"), names, n=1, cutoff=0.6)
        if near:
            return f" Did you mean {names[near[0]]}?"
    return ""


def names_in_short(known: Iterable[str], width: int = 140) -> str:
    """Names separated by commas, as many as fit into a message of three lines; an ellipsis for the others."""
    return textwrap.shorten(", ".join(known), width, placeholder=" …", break_on_hyphens=False)
