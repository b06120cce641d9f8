"""Find, explain and watch induction heads: the attention heads that copy in context.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from induction_lab.activations import Activations, capture
    from induction_lab.attention_only import AttentionOnlyConfig, AttentionOnlyTransformer
    from induction_lab.circuits import composition_scores, ov_copying
    from induction_lab.handbuilt import head_gallery, induction_circuit
    from induction_lab.head_scores import score_heads
    from induction_lab.heads import Head, parse_head, parse_heads
    from induction_lab.models import HookedModel, load_model
    from induction_lab.plots import (
        plot_all_scores,
        plot_head_scores,
        plot_loss,
        plot_pattern,
        plot_score_by_layer,
    )
    from induction_lab.prompts import Prompts, distinct_tokens, repeated_tokens, text_prompts
    from induction_lab.results import HeadScores

__version__ = "0.1.0"

_HOME = {
    "Activations": "activations",
    "AttentionOnlyConfig": "attention_only",
    "AttentionOnlyTransformer": "attention_only",
    "Head": "heads",
    "HeadScores": "results",
    "HookedModel": "models",
    "Prompts": "prompts",
    "capture": "activations",
    "composition_scores": "circuits",
    "distinct_tokens": "prompts",
    "head_gallery": "handbuilt",
    "induction_circuit": "handbuilt",
    "load_model": "models",
    "ov_copying": "circuits",
    "parse_head": "heads",
    "parse_heads": "heads",
    "plot_all_scores": "plots",
    "plot_head_scores": "plots",
    "plot_loss": "plots",
    "plot_pattern": "plots",
    "plot_score_by_layer": "plots",
    "repeated_tokens": "prompts",
    "score_heads": "head_scores",
    "text_prompts": "prompts",
}

__all__ = [
    "Activations",
    "AttentionOnlyConfig",
    "AttentionOnlyTransformer",
    "Head",
    "HeadScores",
    "HookedModel",
    "Prompts",
    "capture",
    "composition_scores",
    "distinct_tokens",
    "head_gallery",
    "induction_circuit",
    "load_model",
    "ov_copying",
    "parse_head",
    "parse_heads",
    "plot_all_scores",
    "plot_head_scores",
    "plot_loss",
    "plot_pattern",
    "plot_score_by_layer",
    "repeated_tokens",
    "score_heads",
    "text_prompts",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'induction_lab' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"induction_lab.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names."""
    return [*__all__, "__version__"]
