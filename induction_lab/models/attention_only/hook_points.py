"""Hook points that become TransformerLens' when somebody uses them: a pass that nobody looks into needs none of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class HookPoint(nn.Module):
    """Passes on what it is given. Asked for what TransformerLens' `HookPoint` has, it becomes one, in its place."""

    def forward(self, x: Tensor) -> Tensor:
        """What it is given."""
        return x

    def has_hooks(self, *_: Any, **__: Any) -> bool:
        """None yet: whoever adds one has made it TransformerLens' by that."""
        return False

    def __getattr__(self, name: str) -> Any:
        """What TransformerLens' has of that name."""
        if name.startswith("_"):
            return super().__getattr__(name)
        become_transformer_lens(self)
        return getattr(self, name)


def become_transformer_lens(point: nn.Module) -> None:
    """Make a `HookPoint` of ours one of TransformerLens; what is registered with it as a module stays."""
    from transformer_lens.hook_points import HookPoint as TheirHookPoint

    vars(point).update(vars(TheirHookPoint()) | vars(point))
    point.__class__ = TheirHookPoint  # type: ignore[assignment]
