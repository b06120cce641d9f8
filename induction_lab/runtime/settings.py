"""Settings that people write in TOML files, as dataclasses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def built(kind: type[T], values: dict[str, Any], section: str) -> T:
    """A dataclass from a table, its entries checked against the fields' types.

    Args:
        kind: A dataclass; its own checks are run as well.
        values: What the table holds.
        section: What messages call the table.

    Raises:
        ValueError: If an entry is not known, of another type or not allowed.
    """
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(values).difference(known))
    if unknown:
        raise ValueError(f"[{section}] has no {', '.join(unknown)}; it has {', '.join(known)}.")
    types = get_type_hints(kind)
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    for name, value in given.items():
        if not _fits(value, types[name]):
            raise ValueError(f"[{section}] `{name}` must be {_type_in_words(types[name])}, got {values[name]!r}.")
        if types[name] is float:
            given[name] = float(value)
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"[{section}] {error}") from error


def _type_in_words(wanted: Any) -> str:
    """What a person may write for a field of this type."""
    parts = get_args(wanted)
    if get_origin(wanted) is Literal:
        return " or ".join(map(repr, parts))
    if get_origin(wanted) is tuple:
        return f"a list, each {_type_in_words(parts[0])}"
    if parts:
        return " or ".join(_type_in_words(part) for part in parts if part is not type(None))
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(wanted, str(wanted))


def _fits(value: Any, wanted: Any) -> bool:
    parts = get_args(wanted)
    if get_origin(wanted) is Literal:
        return value in parts
    if get_origin(wanted) is tuple:
        return isinstance(value, tuple) and all(_fits(each, parts[0]) for each in value)
    if parts:  # one of several
        return any(_fits(value, part) for part in parts)
    return type(value) is wanted or (wanted is float and type(value) is int)
