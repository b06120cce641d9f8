"""Find, explain and watch induction heads: the attention heads that copy in context.

Names are loaded when first used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from induction_lab.ablations import ablation_sweep, attribution_patching
    from induction_lab.activations import Activations, capture
    from induction_lab.animations import animate_heads, save_animation
    from induction_lab.atlas import write_atlas
    from induction_lab.attention_only import AttentionOnlyConfig, AttentionOnlyTransformer
    from induction_lab.attribution import LogitAttributions, attribute_logits
    from induction_lab.attribution_plots import plot_logit_attribution, plot_logit_lens
    from induction_lab.checkpoints import Checkpoints, Revisions
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
    from induction_lab.clamping import clamp_heads
    from induction_lab.composition import composition_baseline, composition_scores
    from induction_lab.effect_plots import plot_effects, plot_explanation, plot_term_importance
    from induction_lab.effects import Effects
    from induction_lab.exact_scores import positional_preference
    from induction_lab.explanation import Explanation, explain
    from induction_lab.following import follow_training
    from induction_lab.handbuilt import head_gallery, induction_circuit
    from induction_lab.head_scores import score_heads
    from induction_lab.heads import Head, parse_head, parse_heads
    from induction_lab.interventions import ablate
    from induction_lab.lags import lag_profile
    from induction_lab.lens import logit_lens
    from induction_lab.loading import load_model
    from induction_lab.loss_pca import loss_paths, pivot
    from induction_lab.losses import loss_derivative
    from induction_lab.many_runs import over_seeds, train_runs
    from induction_lab.metrics import before_and_after, icl_score
    from induction_lab.models import HookedModel
    from induction_lab.ngrams import bigram_logits, skip_trigrams
    from induction_lab.path_patching import patch_paths
    from induction_lab.paths import expand_paths, virtual_pattern
    from induction_lab.phase_change import onset, rise, rise_time, steepest
    from induction_lab.plots import plot_all_scores, plot_head_scores, plot_loss, plot_pattern, plot_score_by_layer
    from induction_lab.probes import weight_probes
    from induction_lab.prompts import Prompts, distinct_tokens, repeated_tokens, text_prompts
    from induction_lab.recipes import Recipe, load_recipe
    from induction_lab.report import write_report
    from induction_lab.results import HeadScores
    from induction_lab.run_training import train_run
    from induction_lab.runs import Run
    from induction_lab.score_parts import score_shares
    from induction_lab.shares import input_shares
    from induction_lab.sources import stream_rows
    from induction_lab.spread import attention_spread
    from induction_lab.sweep_plan import SweepPlan, load_sweep_plan
    from induction_lab.sweep_tables import formation, induction_counts
    from induction_lab.sweeps import SweepSummary, load_sweep, sweep
    from induction_lab.tempering import temper
    from induction_lab.terms import term_importance
    from induction_lab.training import TrainingPlan
    from induction_lab.trajectory import Trajectory
    from induction_lab.trajectory_plots import (
        plot_heads_over_training,
        plot_loss_derivative,
        plot_loss_paths,
        plot_over_training,
    )
    from induction_lab.trajectory_sheets import plot_model_analysis, plot_small_multiples


__version__ = "0.1.0"

_HOME = {
    "Activations": "activations",
    "AttentionOnlyConfig": "attention_only",
    "AttentionOnlyTransformer": "attention_only",
    "Checkpoints": "checkpoints",
    "Effects": "effects",
    "Explanation": "explanation",
    "Head": "heads",
    "HeadScores": "results",
    "HookedModel": "models",
    "InductionCircuit": "circuit_search",
    "LogitAttributions": "attribution",
    "Prompts": "prompts",
    "Recipe": "recipes",
    "Revisions": "checkpoints",
    "Run": "runs",
    "SweepPlan": "sweep_plan",
    "SweepSummary": "sweeps",
    "TrainingPlan": "training",
    "Trajectory": "trajectory",
    "ablate": "interventions",
    "ablation_sweep": "ablations",
    "animate_heads": "animations",
    "attention_spread": "spread",
    "attribute_logits": "attribution",
    "attribution_patching": "ablations",
    "before_and_after": "metrics",
    "bigram_logits": "ngrams",
    "capture": "activations",
    "clamp_heads": "clamping",
    "composition_baseline": "composition",
    "composition_scores": "composition",
    "distinct_tokens": "prompts",
    "expand_paths": "paths",
    "explain": "explanation",
    "find_circuit": "circuit_search",
    "follow_training": "following",
    "formation": "sweep_tables",
    "head_gallery": "handbuilt",
    "icl_score": "metrics",
    "induction_circuit": "handbuilt",
    "induction_counts": "sweep_tables",
    "input_shares": "shares",
    "lag_profile": "lags",
    "load_model": "loading",
    "load_recipe": "recipes",
    "load_sweep": "sweeps",
    "load_sweep_plan": "sweep_plan",
    "logit_lens": "lens",
    "loss_derivative": "losses",
    "loss_paths": "loss_pca",
    "onset": "phase_change",
    "ov_circuit": "circuits",
    "ov_copying": "circuits",
    "ov_eigenvalues": "circuits",
    "ov_self_copying": "circuits",
    "over_seeds": "many_runs",
    "parse_head": "heads",
    "parse_heads": "heads",
    "patch_paths": "path_patching",
    "pivot": "loss_pca",
    "plot_all_scores": "plots",
    "plot_circuit": "circuit_plots",
    "plot_composition": "circuit_plots",
    "plot_effects": "effect_plots",
    "plot_eigenvalues": "circuit_plots",
    "plot_explanation": "effect_plots",
    "plot_head_scores": "plots",
    "plot_heads_over_training": "trajectory_plots",
    "plot_logit_attribution": "attribution_plots",
    "plot_logit_lens": "attribution_plots",
    "plot_loss": "plots",
    "plot_loss_derivative": "trajectory_plots",
    "plot_loss_paths": "trajectory_plots",
    "plot_model_analysis": "trajectory_sheets",
    "plot_over_training": "trajectory_plots",
    "plot_pattern": "plots",
    "plot_score_by_layer": "plots",
    "plot_small_multiples": "trajectory_sheets",
    "plot_term_importance": "effect_plots",
    "positional_preference": "exact_scores",
    "qk_circuit": "circuits",
    "qk_diagonal": "circuits",
    "qk_eigenvalues": "circuits",
    "qk_matching": "circuits",
    "repeated_tokens": "prompts",
    "rise": "phase_change",
    "rise_time": "phase_change",
    "save_animation": "animations",
    "score_heads": "head_scores",
    "score_shares": "score_parts",
    "skip_trigrams": "ngrams",
    "steepest": "phase_change",
    "stream_rows": "sources",
    "sweep": "sweeps",
    "temper": "tempering",
    "term_importance": "terms",
    "text_prompts": "prompts",
    "train_run": "run_training",
    "train_runs": "many_runs",
    "virtual_pattern": "paths",
    "weight_probes": "probes",
    "write_atlas": "atlas",
    "write_report": "report",
}

__all__ = [
    "Activations",
    "AttentionOnlyConfig",
    "AttentionOnlyTransformer",
    "Checkpoints",
    "Effects",
    "Explanation",
    "Head",
    "HeadScores",
    "HookedModel",
    "InductionCircuit",
    "LogitAttributions",
    "Prompts",
    "Recipe",
    "Revisions",
    "Run",
    "SweepPlan",
    "SweepSummary",
    "TrainingPlan",
    "Trajectory",
    "ablate",
    "ablation_sweep",
    "animate_heads",
    "attention_spread",
    "attribute_logits",
    "attribution_patching",
    "before_and_after",
    "bigram_logits",
    "capture",
    "clamp_heads",
    "composition_baseline",
    "composition_scores",
    "distinct_tokens",
    "expand_paths",
    "explain",
    "find_circuit",
    "follow_training",
    "formation",
    "head_gallery",
    "icl_score",
    "induction_circuit",
    "induction_counts",
    "input_shares",
    "lag_profile",
    "load_model",
    "load_recipe",
    "load_sweep",
    "load_sweep_plan",
    "logit_lens",
    "loss_derivative",
    "loss_paths",
    "onset",
    "ov_circuit",
    "ov_copying",
    "ov_eigenvalues",
    "ov_self_copying",
    "over_seeds",
    "parse_head",
    "parse_heads",
    "patch_paths",
    "pivot",
    "plot_all_scores",
    "plot_circuit",
    "plot_composition",
    "plot_effects",
    "plot_eigenvalues",
    "plot_explanation",
    "plot_head_scores",
    "plot_heads_over_training",
    "plot_logit_attribution",
    "plot_logit_lens",
    "plot_loss",
    "plot_loss_derivative",
    "plot_loss_paths",
    "plot_model_analysis",
    "plot_over_training",
    "plot_pattern",
    "plot_score_by_layer",
    "plot_small_multiples",
    "plot_term_importance",
    "positional_preference",
    "qk_circuit",
    "qk_diagonal",
    "qk_eigenvalues",
    "qk_matching",
    "repeated_tokens",
    "rise",
    "rise_time",
    "save_animation",
    "score_heads",
    "score_shares",
    "skip_trigrams",
    "steepest",
    "stream_rows",
    "sweep",
    "temper",
    "term_importance",
    "text_prompts",
    "train_run",
    "train_runs",
    "virtual_pattern",
    "weight_probes",
    "write_atlas",
    "write_report",
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
