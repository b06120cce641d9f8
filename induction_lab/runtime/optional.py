"""Optional packages: imported when they are first needed; an error says what to install where one is missing."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str, *, extra: str) -> Any:
    """The module of that name.

    Raises:
        ValueError: If it is not installed; the extra that brings it is named.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ValueError(
            f"This needs {package}, which is not installed: pip install 'induction-lab[{extra}]'"
        ) from error
