from .animations import animate_heads as animate_heads, save_animation as save_animation
from .attribution import plot_logit_attribution as plot_logit_attribution, plot_logit_lens as plot_logit_lens
from .circuits import (
    plot_circuit as plot_circuit,
    plot_composition as plot_composition,
    plot_eigenvalues as plot_eigenvalues,
)
from .comparison import plot_score_comparison as plot_score_comparison
from .effects import (
    plot_effects as plot_effects,
    plot_explanation as plot_explanation,
    plot_term_importance as plot_term_importance,
)
from .heads import (
    plot_all_scores as plot_all_scores,
    plot_head_scores as plot_head_scores,
    plot_loss as plot_loss,
    plot_pattern as plot_pattern,
    plot_score_by_layer as plot_score_by_layer,
)
from .kinds import plot_head_kinds as plot_head_kinds, plot_kinds_over_training as plot_kinds_over_training
from .training import (
    plot_heads_over_training as plot_heads_over_training,
    plot_loss_derivative as plot_loss_derivative,
    plot_loss_paths as plot_loss_paths,
    plot_over_training as plot_over_training,
)
from .training_sheets import plot_model_analysis as plot_model_analysis, plot_small_multiples as plot_small_multiples
