"""What results have in common: they are kept as one table with facts beside it, and show themselves in notebooks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from induction_lab.results.cards import html_card
from induction_lab.results.tables import load_table, save_table

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10  # rows of the table in a notebook
Kind = TypeVar("Kind", bound="Loadable")


class Saved:
    """A result that can be written: its table, and the attributes that no table holds.

    A subclass is a dataclass with a field `provenance`. It names the field that holds its table (`_TABLE`) or gives
    `to_dataframe`, and the fields that are kept beside the table (`_FACTS`; the provenance always is).
    """

    _TABLE: ClassVar[str] = "table"
    _FACTS: ClassVar[tuple[str, ...]] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """The table that `save` writes."""
        return getattr(self, self._TABLE)

    def save(self, path: str | Path) -> Path:
        """Write the table by suffix: `.parquet` and `.json` hold all the rest too, `.csv` has it beside as `.csv.json`.

        Raises:
            ValueError: If the suffix is another one or the file cannot be written.
        """
        return save_table(self.to_dataframe(), self._facts(), Path(path))

    def _facts(self) -> dict[str, Any]:
        """What is written beside the table, as JSON can hold it."""
        return {name: getattr(self, name) for name in (*self._FACTS, "provenance")}

    def _repr_html_(self) -> str:
        """The first rows, for notebooks."""
        table = self.to_dataframe()
        more = f"{len(table) - _SHOWN} more rows" if len(table) > _SHOWN else ""
        return html_card(repr(self), "", list(table), table.head(_SHOWN).itertuples(index=False), note=more)


def check_result(given: Any, wanted: type, name: str, maker: str) -> None:
    """Refuse what is another thing than the result that is wanted.

    Args:
        given: What was given.
        wanted: The class that it must be of.
        name: The argument's name.
        maker: The function that makes such results.

    Raises:
        ValueError: If it is of another class.
    """
    if not isinstance(given, wanted):
        raise ValueError(f"`{name}` must be {wanted.__name__}, from `{maker}`; got {type(given).__name__}.")


class Loadable(Saved):
    """A result that can be written and read again.

    A subclass says what it is (`_WHAT`) and the columns without which its table is none (`_COLUMNS`).
    """

    _WHAT: ClassVar[str]
    _COLUMNS: ClassVar[tuple[str, ...]]

    @classmethod
    def load(cls: type[Kind], path: str | Path) -> Kind:
        """Read what `save` wrote; a plain table will do where there are no facts but the provenance.

        Raises:
            ValueError: If the file is not there, cannot be read or holds something else.
        """
        table, facts = load_table(Path(path), set(cls._COLUMNS), what=cls._WHAT)
        try:
            missing = set(cls._FACTS) - set(facts)
            if missing:
                raise ValueError(f"it lacks {sorted(missing)}")
            return cls._from_table(table, facts)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no readable {cls._WHAT}: {error}") from error

    @classmethod
    def _from_table(cls: type[Kind], table: pd.DataFrame, facts: dict[str, Any]) -> Kind:
        """Make the result of a table that has its columns, and of all its facts."""
        fields = {name: facts[name] for name in cls._FACTS} | {"provenance": facts.get("provenance", {})}
        return cls(**{cls._TABLE: table.loc[:, list(cls._COLUMNS)], **fields})
