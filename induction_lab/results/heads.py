"""Names of attention heads: `L5H1` is head 1 of layer 5, both counted from 0."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import NamedTuple, TypeVar

from induction_lab.results.cards import html_card

LOOKS = 0.4  # from which attention score on people call it an induction head, or a previous-token head
_WRITTEN = re.compile(r"\s*(?:L(\d+)H(\d+)|\(?\s*(\d+)\s*[.,:\- ]\s*(\d+)\s*\)?)\s*", re.IGNORECASE)


class Head(NamedTuple):
    """One attention head; prints as `L5H1`."""

    layer: int
    head: int

    def __str__(self) -> str:
        """The field's usual label."""
        return f"L{self.layer}H{self.head}"

    __repr__ = __str__  # lists of heads read as the field writes them


Item = TypeVar("Item")


class HeadList(list[Item]):
    """Heads, or each with a number, best first: a list that shows itself in notebooks."""

    def _repr_html_(self) -> str:
        """One line of heads; a table where each has a number."""
        title = f"{len(self)} head{'s' * (len(self) != 1)}"
        if all(isinstance(item, Head) for item in self):
            return html_card(title, "  ".join(map(str, self)), (), ())
        rows = [item if isinstance(item, tuple) and not isinstance(item, Head) else (item,) for item in self]
        return html_card(title, "", (), [(str(head), *numbers) for head, *numbers in rows])


HeadLike = str | tuple[int, ...]
Heads = HeadLike | Iterable[HeadLike] | None  # None: all


def parse_head(head: HeadLike, *, n_layers: int | None = None, n_heads: int | None = None) -> Head:
    """Read one head, written in any of the usual ways.

    >>> parse_head("5.1"), str(parse_head((5, 1)))
    (L5H1, 'L5H1')

    Args:
        head: `"L5H1"`, `"5.1"`, `"5:1"`, `"5-1"`, `"(5, 1)"` or `(5, 1)`.
        n_layers: Layers of the model, if they are to be checked.
        n_heads: Heads a layer of the model.

    Raises:
        ValueError: If it cannot be read, or the model has no such head.
    """
    if isinstance(head, str):
        match = _WRITTEN.fullmatch(head)
        numbers = [int(group) for group in match.groups() if group is not None] if match else []
    else:
        numbers = list(head) if isinstance(head, Iterable) else []
    if len(numbers) != 2 or any(not isinstance(n, Integral) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ValueError(f"No head is written {head!r}. Write L5H1, 5.1 or (5, 1) for head 1 of layer 5.")
    found = Head(int(numbers[0]), int(numbers[1]))
    if n_layers is not None and found.layer >= n_layers:
        raise ValueError(f"{found} is not there: the model has layers 0 to {n_layers - 1}.")
    if n_heads is not None and found.head >= n_heads:
        raise ValueError(f"{found} is not there: each layer has heads 0 to {n_heads - 1}.")
    return found


def is_head(written: str) -> bool:
    """Whether text is written as one head is."""
    return _WRITTEN.fullmatch(written) is not None


def parse_heads(
    heads: HeadLike | Iterable[HeadLike], *, n_layers: int | None = None, n_heads: int | None = None
) -> list[Head]:
    """Read one head or many, in the order given; a string may hold several, separated by spaces, `;` or `,`.

    Raises:
        ValueError: If one cannot be read, is not there, or is given twice.
    """
    if isinstance(heads, str):
        heads = re.sub(r",\s*(?=L\d)", " ", heads, flags=re.IGNORECASE)
        parts: list[HeadLike] = list(re.split(r"[;\s]+(?=[L(\d])(?![^(]*\))", heads.strip(), flags=re.IGNORECASE))
    elif isinstance(heads, tuple) and len(heads) == 2 and all(isinstance(part, Integral) for part in heads):
        parts = [heads]  # type: ignore[list-item]
    else:
        parts = list(heads) if isinstance(heads, Iterable) else [heads]  # type: ignore[list-item]
    found = [parse_head(part, n_layers=n_layers, n_heads=n_heads) for part in parts]
    twice = sorted({str(head) for head in found if found.count(head) > 1})
    if twice:
        raise ValueError(f"Each head may be given once, got {', '.join(twice)} more than once.")
    return HeadList(found)


def heads_by_layer(
    heads: Heads, *, n_layers: int, n_heads: int, of: Sequence[int] | None = None
) -> dict[int, list[int]]:
    """The chosen heads' numbers of each layer that has any, both ascending; all heads of all layers `of` for None.

    Raises:
        ValueError: If a head cannot be read, is not there, or is given twice.
    """
    if heads is None:
        return {layer: list(range(n_heads)) for layer in (range(n_layers) if of is None else of)}
    chosen: dict[int, list[int]] = {}
    for layer, head in sorted(parse_heads(heads, n_layers=n_layers, n_heads=n_heads)):
        chosen.setdefault(layer, []).append(head)
    return chosen


def other_heads(heads: Sequence[Head], n_heads: int, n_sets: int, *, seed: int = 0) -> list[list[Head]]:
    """Different random sets of other heads in the same layers: what these heads' effects are compared with.

    Of each layer as many as there are of these, or all others where those are fewer. There are fewer sets, also none,
    where there are no more different ones.

    Args:
        heads: Those that no set holds.
        n_heads: Heads a layer of the model.
        n_sets: How many sets.
        seed: Of the choice.
    """
    taken = Counter(head.layer for head in heads)
    free = {layer: [h for h in (Head(layer, i) for i in range(n_heads)) if h not in heads] for layer in sorted(taken)}
    sizes = {layer: min(taken[layer], len(others)) for layer, others in free.items()}
    if not any(sizes.values()):
        return []
    if math.prod(math.comb(len(free[layer]), size) for layer, size in sizes.items()) <= n_sets:
        every = itertools.product(*(itertools.combinations(free[layer], size) for layer, size in sizes.items()))
        return [list(itertools.chain(*some)) for some in every]
    generator, drawn = random.Random(seed), dict[tuple[Head, ...], None]()
    while len(drawn) < n_sets:
        some = (sorted(generator.sample(free[layer], size)) for layer, size in sizes.items())
        drawn[tuple(itertools.chain(*some))] = None
    return [list(some) for some in drawn]
