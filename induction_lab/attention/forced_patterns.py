"""Attention in which the patterns of some heads are given, whatever their queries and keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import Attention, AttentionReading, MaterialisedAttention
from induction_lab.attention.grouped import key_head


@dataclass(frozen=True)
class ForcedAttention(Attention):
    """Queries, keys and values of its own, and for some heads a pattern that takes no heed of queries and keys.

    Attributes:
        forced: By head, where it looks.
    """

    forced: Mapping[int, Float[Tensor, "prompt query key"]] = field(default_factory=dict)

    def mix(self, *, heads: Int[Tensor, " head"] | None = None, v: Tensor | None = None, **others: Any) -> Tensor:
        """What the heads put out with other queries, keys or values; given patterns stay, only their values change."""
        z = super().mix(heads=heads, v=v, **others).clone()
        v = self.v if v is None else v
        own = heads is not None and v is not self.v  # one value head for each of the given heads
        for place, head in self._places(heads):
            value = place if own else key_head(head, self.q.shape[1], self.k.shape[1])
            z[:, place] = self.forced[head].to(v) @ v[:, value]
        return z

    def probabilities(
        self, prompt: Int[Tensor, " pair"], query: Int[Tensor, " pair"], key: Int[Tensor, " pair"]
    ) -> Float[Tensor, "pair head"]:
        """The entries of the pattern at each (prompt, query, key)."""
        found = super().probabilities(prompt, query, key).clone()
        for head, pattern in self.forced.items():
            found[:, head] = pattern.expand(self.q.shape[0], -1, -1)[prompt, query, key].to(found)
        return found

    def pattern(
        self, *, heads: Int[Tensor, " head"] | None = None, queries: Int[Tensor, " query"] | None = None
    ) -> Float[Tensor, "batch head query key"]:
        """The pattern of the given heads and queries."""
        found = super().pattern(heads=heads, queries=queries).clone()
        for place, head in self._places(heads):
            pattern = self.forced[head]
            found[:, place] = (pattern if queries is None else pattern.index_select(1, queries)).to(found)
        return found

    def _places(self, heads: Tensor | None) -> list[tuple[int, int]]:
        """For each given head that is held to a pattern: its place among the given heads, and its number."""
        every = range(self.q.shape[1]) if heads is None else heads.tolist()
        return [(place, head) for place, head in enumerate(every) if head in self.forced]


def show_forced(
    attention: AttentionReading, forced: Mapping[int, Float[Tensor, "prompt query key"]]
) -> AttentionReading:
    """The same attention, its output as it is, with the patterns that some heads are held to."""
    if isinstance(attention, MaterialisedAttention):
        matrix = attention.matrix.clone()
        for head, pattern in forced.items():
            matrix[:, head] = pattern.to(matrix)
        return replace(attention, matrix=matrix)
    if isinstance(attention, ForcedAttention):
        forced = {**attention.forced, **forced}
    return ForcedAttention(**{**attention.__dict__, "forced": forced, "mixed": None})
