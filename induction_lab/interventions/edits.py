"""What an ablation does to a layer's attention while the model runs: other outputs, another pattern, held patterns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import (
    Attention,
    AttentionReading,
    HeadOutputs,
    LayerAttention,
    MaterialisedAttention,
)
from induction_lab.attention.forced_patterns import show_forced
from induction_lab.attention.grouped import key_head
from induction_lab.interventions.outputs import Outputs
from induction_lab.results.heads import Head


class Substitute(ABC):
    """What heads do instead of their own, on the prompts it was made for."""

    every_layer: ClassVar[bool] = False  # whether layers are edited of which no head was chosen

    def edit(self, attention: LayerAttention, groups: Sequence[Sequence[Head]]) -> LayerAttention:
        """One layer's attention with the groups' heads edited.

        Args:
            attention: Of all prompts, once for each group, one group after the other.
            groups: Heads that are edited together; those of other layers are passed over.

        Raises:
            ValueError: If the model was run on other prompts than those the substitute was made for.
        """
        chosen = [[head.head for head in group if head.layer == attention.layer] for group in groups]
        if not self.every_layer and not any(chosen):
            return attention
        self._check_uncached(attention)
        values = [None] * len(groups) if attention.v is None else attention.v.chunk(len(groups))
        z = [
            self._edited(attention.layer, rows, v, heads)
            for rows, v, heads in zip(attention.z.chunk(len(groups)), values, chosen, strict=True)
        ]
        edited = replace(attention, z=torch.cat(z))
        return edited if len(groups) > 1 or isinstance(edited, HeadOutputs) else self._shown(edited, chosen[0])

    def change_pattern(
        self, pattern: Float[Tensor, "prompt head query key"], layer: int, heads: list[int]
    ) -> Tensor | None:
        """A layer's pattern as its heads attend now, for a hook to return; None where it stays as it is."""
        return None

    @property
    def fits_any_tokens(self) -> bool:
        """Whether it can be used on other prompts than those it was made for."""
        return False

    @property
    def fits_beginnings(self) -> bool:
        """Whether it can be used on shorter prompts than those it was made for."""
        return self.fits_any_tokens

    @abstractmethod
    def _instead(self, layer: int, heads: list[int], z: Tensor, v: Tensor | None) -> Tensor:
        """What the heads put out, `[prompt or 1, head, pos, d_head]` or a number."""

    def _made_for(self, layer: int) -> tuple[int, int] | None:
        """How many prompts, of how many tokens, where these have to be the same as in the run."""
        return None

    def _shown(self, attention: AttentionReading, heads: list[int]) -> AttentionReading:
        """The edited attention as whoever reads it shall see it."""
        return attention

    def _edited(self, layer: int, z: Tensor, v: Tensor | None, heads: list[int]) -> Tensor:
        if not heads:
            return z
        n_prompts, n_pos = self._made_for(layer) or (1, z.shape[2])
        fits = z.shape[2] <= n_pos if self.fits_beginnings else z.shape[2] == n_pos
        if not fits or n_prompts not in (1, z.shape[0]):
            raise ValueError(
                f"The heads' replacements are for {n_prompts} prompts of {n_pos} tokens, the model was run on "
                f"{z.shape[0]} of {z.shape[2]}. Leave `reference` out, or give one that is as long or longer: "
                f"reference=distinct_tokens(model, length={z.shape[2]})."
            )
        z = z.clone()
        z[:, heads] = self._instead(layer, heads, z, v).to(z)
        return z

    def _check_uncached(self, attention: LayerAttention) -> None:
        n_queries, v = attention.z.shape[2], attention.v
        if not self.fits_any_tokens and v is not None and v.shape[2] != n_queries:
            raise ValueError(
                f"The model was run on {n_queries} tokens after {v.shape[2] - n_queries} that it keeps keys and values "
                "of: only zero can ablate so. Run whole prompts: generate(..., use_cache=False)."
            )


@dataclass(frozen=True)
class OtherOutputs(Substitute):
    """Heads put out something else; nothing in layers of which no outputs are given.

    Attributes:
        outputs: Of one prompt (for all) or of each.
    """

    outputs: Outputs = field(default_factory=Outputs)

    @property
    def fits_any_tokens(self) -> bool:
        """Only where heads put out nothing."""
        return not self.outputs.heads

    @property
    def fits_beginnings(self) -> bool:
        """Where all prompts are given the same, a mean: position by position, so that it may be cut."""
        return all(len(outputs) == 1 for outputs in self.outputs.heads.values())

    def _instead(self, layer: int, heads: list[int], z: Tensor, v: Tensor | None) -> Tensor:
        outputs = self.outputs.heads.get(layer)
        return z.new_zeros(()) if outputs is None else outputs[:, heads, : z.shape[2]]

    def _made_for(self, layer: int) -> tuple[int, int] | None:
        outputs = self.outputs.heads.get(layer)
        return None if outputs is None else (outputs.shape[0], outputs.shape[2])


@dataclass(frozen=True)
class ScaledOutputs(Substitute):
    """Heads put out a multiple of what they would.

    Attributes:
        by: What it is multiplied by.
    """

    by: float

    @property
    def fits_any_tokens(self) -> bool:
        """Always."""
        return True

    def _instead(self, layer: int, heads: list[int], z: Tensor, v: Tensor | None) -> Tensor:
        return self.by * z[:, heads]


@dataclass(frozen=True)
class OtherPattern(Substitute):
    """Heads mix their own values with another pattern.

    Attributes:
        pattern: Where they attend.
    """

    pattern: Float[Tensor, "prompt query key"]

    def change_pattern(
        self, pattern: Float[Tensor, "prompt head query key"], layer: int, heads: list[int]
    ) -> Tensor | None:
        """The layer's pattern with these heads' rows replaced."""
        if not heads:
            return None
        pattern = pattern.clone()
        pattern[:, heads] = self.pattern[:, None].to(pattern)
        return pattern

    def _instead(self, layer: int, heads: list[int], z: Tensor, v: Tensor | None) -> Tensor:
        assert v is not None
        own = v[:, key_head(torch.tensor(heads, device=v.device), z.shape[1], v.shape[1])]
        return self.pattern[:, None].to(v) @ own

    def _made_for(self, layer: int) -> tuple[int, int] | None:
        return self.pattern.shape[0], self.pattern.shape[1]

    def _shown(self, attention: AttentionReading, heads: list[int]) -> AttentionReading:
        return show_forced(attention, dict.fromkeys(heads, self.pattern))


@dataclass(frozen=True)
class HeldPatterns(Substitute):
    """The chosen heads put out nothing, while every head attends as it did in a clean run.

    Attributes:
        clean: By layer, the attention of that run.
    """

    clean: Mapping[int, LayerAttention]
    every_layer: ClassVar[bool] = True

    def change_pattern(
        self, pattern: Float[Tensor, "prompt head query key"], layer: int, heads: list[int]
    ) -> Tensor | None:
        """The clean pattern."""
        return self._of(layer).pattern().to(pattern)

    def _of(self, layer: int) -> Attention:
        attention = self.clean[layer]
        assert isinstance(attention, Attention)  # others are refused before it comes to this
        return attention

    def _edited(self, layer: int, z: Tensor, v: Tensor | None, heads: list[int]) -> Tensor:
        clean = self._of(layer)
        if torch.is_grad_enabled():  # what was seen without gradients cannot be saved for the backward pass as it is
            mask = None if clean.mask is None else clean.mask.clone()
            clean = replace(clean, q=clean.q.clone(), k=clean.k.clone(), mask=mask)
        return super()._edited(layer, clean.mix(v=v), v, heads)

    def _instead(self, layer: int, heads: list[int], z: Tensor, v: Tensor | None) -> Tensor:
        return z.new_zeros(())

    def _shown(self, attention: AttentionReading, heads: list[int]) -> AttentionReading:
        clean = replace(self._of(attention.layer), v=attention.v, z=attention.z)
        if isinstance(attention, MaterialisedAttention):
            return MaterialisedAttention(attention.layer, clean.pattern(), attention.v, attention.z)
        return clean
