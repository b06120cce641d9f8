"""Hold heads' attention patterns to an ideal while everything else goes on, in training as in measuring.

A clamped head moves its own values with a pattern that does not depend on its queries and keys: an exact previous-token
pattern, or ideal induction that rests on BOS. What forms sooner beside it was waiting for what it gives (Singh et al.
2024, https://arxiv.org/abs/2404.07129).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from induction_lab.attention.exact import HeadOutputs, LayerAttention
from induction_lab.attention.forced_patterns import show_forced
from induction_lab.attention.hooks import edit_for_good, editing
from induction_lab.attention.scopes import Scope
from induction_lab.data.occurrences import IDEAL_PATTERNS, ideal_pattern
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.results.heads import Head, parse_head


@contextmanager
def clamp_heads(network: AttentionOnlyTransformer, clamps: Mapping[Any, str]) -> Iterator[None]:
    """Inside, the given heads attend as the ideal says, on whatever tokens the network runs.

    Args:
        network: Whose heads.
        clamps: By head (`"L0H1"`), `previous_token` or `induction`.

    Raises:
        ValueError: If a head is not there or a pattern has another name.
    """
    chosen = check_clamps(clamps, n_layers=network.cfg.n_layers, n_heads=network.cfg.n_heads)
    if not chosen:
        yield
        return
    clamp = _Clamp(chosen)
    with Scope() as scope, editing(_layers(network, chosen), clamp.edit):
        scope.before(network.embed, clamp.see, with_kwargs=True)
        yield


def clamp_for_good(network: AttentionOnlyTransformer, clamps: Mapping[Any, str]) -> None:
    """Clamp the heads of a network as long as it lives, as those of a run that was trained so.

    It keeps them as `network.clamps`; a copy made by `copy.deepcopy` must be clamped anew.
    """
    chosen = check_clamps(clamps, n_layers=network.cfg.n_layers, n_heads=network.cfg.n_heads)
    if chosen:
        clamp = _Clamp(chosen)
        network.embed.register_forward_pre_hook(clamp.see, with_kwargs=True)
        edit_for_good(_layers(network, chosen), clamp.edit)
        network.clamps = {str(head): kind for head, kind in chosen.items()}  # type: ignore[assignment]


class _Clamp:
    """Sees what tokens are embedded, and edits each layer's attention to the pattern that is ideal on them.

    TransformerLens' tools call `forward` without the network's own hooks, so it is the embedding that is watched.
    """

    def __init__(self, chosen: Mapping[Head, str]) -> None:
        self.chosen = chosen
        self.tokens: Tensor | None = None
        self.patterns: dict[str, Tensor] = {}

    def see(self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.tokens = inputs[0] if inputs else named["tokens"]
        self.patterns = {}

    def edit(self, attention: LayerAttention) -> LayerAttention:
        assert not isinstance(attention, HeadOutputs)  # these networks show theirs
        held = {head.head: kind for head, kind in self.chosen.items() if head.layer == attention.layer}
        z = attention.z.clone()
        forced = {head: self._pattern(kind, z) for head, kind in held.items()}
        for head, pattern in forced.items():
            z[:, head] = pattern @ attention.v[:, head]
        return show_forced(replace(attention, z=z), forced)

    def _pattern(self, kind: str, like: Tensor) -> Tensor:
        if kind not in self.patterns:
            assert self.tokens is not None
            self.patterns[kind] = ideal_pattern(self.tokens, kind).to(like)
        return self.patterns[kind]


def _layers(network: AttentionOnlyTransformer, chosen: Iterable[Head]) -> list[nn.Module]:
    return [network.get_submodule(f"blocks.{layer}.attn") for layer in sorted({head.layer for head in chosen})]


def check_clamps(clamps: Mapping[Any, str], *, n_layers: int, n_heads: int) -> dict[Head, str]:
    """The heads of `clamps`, parsed.

    Raises:
        ValueError: If a head is not there or a pattern has another name.
    """
    unknown = [kind for kind in clamps.values() if kind not in IDEAL_PATTERNS]
    if unknown:
        raise ValueError(f"Heads are clamped to {' or '.join(IDEAL_PATTERNS)}, got {unknown}.")
    chosen = {parse_head(head, n_layers=n_layers, n_heads=n_heads): kind for head, kind in clamps.items()}
    if len(chosen) < len(clamps):
        raise ValueError(f"Each head may be clamped once, got {', '.join(map(str, clamps))}.")
    return chosen
