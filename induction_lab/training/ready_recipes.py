"""Recipes that come with the package, and where a recipe of that name is. No torch is needed to list them."""

from __future__ import annotations

from pathlib import Path

from induction_lab.runtime.nearest import did_you_mean

READY = Path(__file__).parent / "ready"


def ready_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in READY.glob("*.toml"))


def recipe_file(source: str | Path) -> Path:
    """The file of a ready recipe's name, or the file itself.

    Raises:
        ValueError: If it is neither.
    """
    path = READY / f"{source}.toml" if str(source) in ready_recipes() else Path(source)
    if not path.exists():
        raise ValueError(
            f"There is no recipe {str(source)!r}: give a TOML file or one of {', '.join(ready_recipes())}."
            f"{did_you_mean(source, ready_recipes())}"
        )
    return path
