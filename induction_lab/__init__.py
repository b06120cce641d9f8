"""Find, explain and watch induction heads: the attention heads that copy in context.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from induction_lab.ablations import ablation_sweep, attribution_patching
    from induction_lab.activations import Activations, capture
    from induction_lab.attention_only import AttentionOnlyConfig, AttentionOnlyTransformer
    from induction_lab.attribution import LogitAttributions, attribute_logits
    from induction_lab.attribution_plots import plot_logit_attribution, plot_logit_lens
    from induction_lab.circuit_plots import plot_circuit, plot_composition, plot_eigenvalues
    from induction_lab.circuit_search import InductionCircuit, find_circuit
    from induction_lab.circuits import (
        ov_circuit,
        ov_copying,
        ov_eigenvalues,
        ov_self_copying,
        qk_circuit,
        qk_diagonal,
        qk_eigenvalues,
        qk_matching,
    )
    from induction_lab.composition import composition_baseline, composition_scores
    from induction_lab.effect_plots import plot_effects, plot_explanation, plot_term_importance
    from induction_lab.effects import Effects
    from induction_lab.exact_scores import positional_preference
    from induction_lab.explanation import Explanation, explain
    from induction_lab.handbuilt import head_gallery, induction_circuit
    from induction_lab.head_scores import score_heads
    from induction_lab.heads import Head, parse_head, parse_heads
    from induction_lab.interventions import ablate
    from induction_lab.lens import logit_lens
    from induction_lab.metrics import before_and_after, icl_score
    from induction_lab.models import HookedModel, load_model
    from induction_lab.ngrams import bigram_logits, skip_trigrams
    from induction_lab.path_patching import input_shares, patch_paths
    from induction_lab.paths import expand_paths, virtual_pattern
    from induction_lab.plots import plot_all_scores, plot_head_scores, plot_loss, plot_pattern, plot_score_by_layer
    from induction_lab.prompts import Prompts, distinct_tokens, repeated_tokens, text_prompts
    from induction_lab.results import HeadScores
    from induction_lab.sources import stream_rows
    from induction_lab.terms import term_importance


__version__ = "0.1.0"

_HOME = {
    "Activations": "activations",
    "AttentionOnlyConfig": "attention_only",
    "AttentionOnlyTransformer": "attention_only",
    "Effects": "effects",
    "Explanation": "explanation",
    "Head": "heads",
    "HeadScores": "results",
    "HookedModel": "models",
    "InductionCircuit": "circuit_search",
    "LogitAttributions": "attribution",
    "Prompts": "prompts",
    "ablate": "interventions",
    "ablation_sweep": "ablations",
    "attribute_logits": "attribution",
    "attribution_patching": "ablations",
    "before_and_after": "metrics",
    "bigram_logits": "ngrams",
    "capture": "activations",
    "composition_baseline": "composition",
    "composition_scores": "composition",
    "distinct_tokens": "prompts",
    "expand_paths": "paths",
    "explain": "explanation",
    "find_circuit": "circuit_search",
    "head_gallery": "handbuilt",
    "icl_score": "metrics",
    "induction_circuit": "handbuilt",
    "input_shares": "path_patching",
    "load_model": "models",
    "logit_lens": "lens",
    "ov_circuit": "circuits",
    "ov_copying": "circuits",
    "ov_eigenvalues": "circuits",
    "ov_self_copying": "circuits",
    "parse_head": "heads",
    "parse_heads": "heads",
    "patch_paths": "path_patching",
    "plot_all_scores": "plots",
    "plot_circuit": "circuit_plots",
    "plot_composition": "circuit_plots",
    "plot_effects": "effect_plots",
    "plot_eigenvalues": "circuit_plots",
    "plot_explanation": "effect_plots",
    "plot_head_scores": "plots",
    "plot_logit_attribution": "attribution_plots",
    "plot_logit_lens": "attribution_plots",
    "plot_loss": "plots",
    "plot_pattern": "plots",
    "plot_score_by_layer": "plots",
    "plot_term_importance": "effect_plots",
    "positional_preference": "exact_scores",
    "qk_circuit": "circuits",
    "qk_diagonal": "circuits",
    "qk_eigenvalues": "circuits",
    "qk_matching": "circuits",
    "repeated_tokens": "prompts",
    "score_heads": "head_scores",
    "skip_trigrams": "ngrams",
    "stream_rows": "sources",
    "term_importance": "terms",
    "text_prompts": "prompts",
    "virtual_pattern": "paths",
}

__all__ = [
    "Activations",
    "AttentionOnlyConfig",
    "AttentionOnlyTransformer",
    "Effects",
    "Explanation",
    "Head",
    "HeadScores",
    "HookedModel",
    "InductionCircuit",
    "LogitAttributions",
    "Prompts",
    "ablate",
    "ablation_sweep",
    "attribute_logits",
    "attribution_patching",
    "before_and_after",
    "bigram_logits",
    "capture",
    "composition_baseline",
    "composition_scores",
    "distinct_tokens",
    "expand_paths",
    "explain",
    "find_circuit",
    "head_gallery",
    "icl_score",
    "induction_circuit",
    "input_shares",
    "load_model",
    "logit_lens",
    "ov_circuit",
    "ov_copying",
    "ov_eigenvalues",
    "ov_self_copying",
    "parse_head",
    "parse_heads",
    "patch_paths",
    "plot_all_scores",
    "plot_circuit",
    "plot_composition",
    "plot_effects",
    "plot_eigenvalues",
    "plot_explanation",
    "plot_head_scores",
    "plot_logit_attribution",
    "plot_logit_lens",
    "plot_loss",
    "plot_pattern",
    "plot_score_by_layer",
    "plot_term_importance",
    "positional_preference",
    "qk_circuit",
    "qk_diagonal",
    "qk_eigenvalues",
    "qk_matching",
    "repeated_tokens",
    "score_heads",
    "skip_trigrams",
    "stream_rows",
    "term_importance",
    "text_prompts",
    "virtual_pattern",
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
