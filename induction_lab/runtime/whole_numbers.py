"""Numbers that people give: whole ones, and none too small. No torch is needed to check them."""

from __future__ import annotations

from numbers import Integral

_LEAST = {"n_repeats": 2, "repeats": 2, "length": 2, "gap": 0}
SEEDS = range(-(2**63), 2**64)  # that torch's generators take


def check_seed(seed: int) -> None:
    """Refuse seeds that no generator of random numbers takes.

    Raises:
        ValueError: If it is one.
    """
    if not isinstance(seed, Integral) or int(seed) not in SEEDS:
        raise ValueError(f"`seed` must be a whole number from -2**63 to 2**64 - 1, got {seed!r}.")


def check_numbers(*, least: int | None = None, **numbers: int | None) -> None:
    """Refuse numbers that are not whole, or too small whatever the model is: of prompts, of their length, of sets.

    Args:
        least: The smallest that is allowed; by default 1, of repeats and of a length with BOS 2, of a gap 0.
        numbers: By the names of the arguments; None is allowed.

    Raises:
        ValueError: If one is.
    """
    for name, value in numbers.items():
        called = name if name.startswith("--") else f"`{name}`"
        if value is not None and not isinstance(value, Integral):
            raise ValueError(f"{called} must be a whole number, got {value!r}.")
        lowest = _LEAST.get(name.lstrip("-"), 1) if least is None else least
        if value is not None and value < lowest:
            rule = f"be at least {lowest}" if lowest else "not be negative"
            raise ValueError(f"{called} must {rule}, got {value}.")
