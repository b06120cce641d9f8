from .attribution import (
    LogitAttributions as LogitAttributions,
    TextActivity as TextActivity,
    attribute_logits as attribute_logits,
    compare_predictions as compare_predictions,
    expand_paths as expand_paths,
    induction_activity as induction_activity,
    input_shares as input_shares,
    logit_lens as logit_lens,
    predict as predict,
    score_shares as score_shares,
    term_importance as term_importance,
    virtual_pattern as virtual_pattern,
)
from .behaviour import (
    before_and_after as before_and_after,
    icl_score as icl_score,
    lag_profile as lag_profile,
    loss_derivative as loss_derivative,
)
from .circuits import (
    Explanation as Explanation,
    HeadKinds as HeadKinds,
    InductionCircuit as InductionCircuit,
    classify_heads as classify_heads,
    explain as explain,
    find_circuit as find_circuit,
    surviving_kinds as surviving_kinds,
)
from .data import (
    Prompts as Prompts,
    distinct_tokens as distinct_tokens,
    repeated_tokens as repeated_tokens,
    text_prompts as text_prompts,
)
from .development import (
    InductionCallback as InductionCallback,
    Trajectory as Trajectory,
    follow_training as follow_training,
    kinds_over_training as kinds_over_training,
    loss_paths as loss_paths,
    onset as onset,
    order_of_kinds as order_of_kinds,
    pivot as pivot,
    rise as rise,
    rise_time as rise_time,
    steepest as steepest,
)
from .internals import Activations as Activations, capture as capture
from .interventions import (
    Effects as Effects,
    ablate as ablate,
    ablation_sweep as ablation_sweep,
    attribution_patching as attribution_patching,
    mean_outputs as mean_outputs,
    patch_paths as patch_paths,
    scale_heads as scale_heads,
    self_repair as self_repair,
    temper as temper,
)
from .models import (
    AttentionOnlyConfig as AttentionOnlyConfig,
    AttentionOnlyTransformer as AttentionOnlyTransformer,
    HookedModel as HookedModel,
    clamp_heads as clamp_heads,
    head_gallery as head_gallery,
    induction_circuit as induction_circuit,
    load_hooked_transformer as load_hooked_transformer,
    load_model as load_model,
)
from .pages import (
    explore as explore,
    explore_widget as explore_widget,
    show_attention as show_attention,
    write_activity as write_activity,
    write_atlas as write_atlas,
    write_report as write_report,
)
from .plots import (
    animate_heads as animate_heads,
    plot_all_scores as plot_all_scores,
    plot_circuit as plot_circuit,
    plot_composition as plot_composition,
    plot_effects as plot_effects,
    plot_eigenvalues as plot_eigenvalues,
    plot_explanation as plot_explanation,
    plot_head_kinds as plot_head_kinds,
    plot_head_scores as plot_head_scores,
    plot_heads_over_training as plot_heads_over_training,
    plot_kinds_over_training as plot_kinds_over_training,
    plot_logit_attribution as plot_logit_attribution,
    plot_logit_lens as plot_logit_lens,
    plot_loss as plot_loss,
    plot_loss_derivative as plot_loss_derivative,
    plot_loss_paths as plot_loss_paths,
    plot_model_analysis as plot_model_analysis,
    plot_over_training as plot_over_training,
    plot_pattern as plot_pattern,
    plot_score_by_layer as plot_score_by_layer,
    plot_score_comparison as plot_score_comparison,
    plot_small_multiples as plot_small_multiples,
    plot_term_importance as plot_term_importance,
    save_animation as save_animation,
)
from .results import Head as Head, parse_head as parse_head, parse_heads as parse_heads
from .scores import (
    AttentionScore as AttentionScore,
    CausalScore as CausalScore,
    HeadScores as HeadScores,
    LayerScore as LayerScore,
    Score as Score,
    WeightScore as WeightScore,
    attention_spread as attention_spread,
    compare_scores as compare_scores,
    export_kv_heads as export_kv_heads,
    score_heads as score_heads,
)
from .sweeps import (
    SweepPlan as SweepPlan,
    SweepSummary as SweepSummary,
    formation as formation,
    induction_counts as induction_counts,
    kind_counts as kind_counts,
    load_sweep as load_sweep,
    load_sweep_plan as load_sweep_plan,
    sweep as sweep,
)
from .training import (
    CheckpointFolder as CheckpointFolder,
    Checkpoints as Checkpoints,
    Recipe as Recipe,
    Revisions as Revisions,
    Run as Run,
    TrainingPlan as TrainingPlan,
    load_recipe as load_recipe,
    over_seeds as over_seeds,
    train_run as train_run,
    train_runs as train_runs,
)
from .weights import (
    bigram_logits as bigram_logits,
    composition_baseline as composition_baseline,
    composition_scores as composition_scores,
    ov_circuit as ov_circuit,
    ov_copying as ov_copying,
    ov_eigenvalues as ov_eigenvalues,
    ov_self_copying as ov_self_copying,
    positional_preference as positional_preference,
    qk_circuit as qk_circuit,
    qk_diagonal as qk_diagonal,
    qk_eigenvalues as qk_eigenvalues,
    qk_matching as qk_matching,
    skip_trigrams as skip_trigrams,
    stream_rows as stream_rows,
    weight_probes as weight_probes,
)

__version__: str
from .weights import FoldedWeights as FoldedWeights
