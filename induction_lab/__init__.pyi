from .attribution import (
    LogitAttributions as LogitAttributions,
)
from .attribution import (
    attribute_logits as attribute_logits,
)
from .attribution import (
    expand_paths as expand_paths,
)
from .attribution import (
    input_shares as input_shares,
)
from .attribution import (
    logit_lens as logit_lens,
)
from .attribution import (
    score_shares as score_shares,
)
from .attribution import (
    term_importance as term_importance,
)
from .attribution import (
    virtual_pattern as virtual_pattern,
)
from .behaviour import (
    before_and_after as before_and_after,
)
from .behaviour import (
    icl_score as icl_score,
)
from .behaviour import (
    lag_profile as lag_profile,
)
from .behaviour import (
    loss_derivative as loss_derivative,
)
from .circuits import (
    Explanation as Explanation,
)
from .circuits import (
    InductionCircuit as InductionCircuit,
)
from .circuits import (
    explain as explain,
)
from .circuits import (
    find_circuit as find_circuit,
)
from .data import (
    Prompts as Prompts,
)
from .data import (
    distinct_tokens as distinct_tokens,
)
from .data import (
    repeated_tokens as repeated_tokens,
)
from .data import (
    text_prompts as text_prompts,
)
from .development import (
    Trajectory as Trajectory,
)
from .development import (
    follow_training as follow_training,
)
from .development import (
    loss_paths as loss_paths,
)
from .development import (
    onset as onset,
)
from .development import (
    pivot as pivot,
)
from .development import (
    rise as rise,
)
from .development import (
    rise_time as rise_time,
)
from .development import (
    steepest as steepest,
)
from .internals import (
    Activations as Activations,
)
from .internals import (
    capture as capture,
)
from .interventions import (
    Effects as Effects,
)
from .interventions import (
    ablate as ablate,
)
from .interventions import (
    ablation_sweep as ablation_sweep,
)
from .interventions import (
    attribution_patching as attribution_patching,
)
from .interventions import (
    patch_paths as patch_paths,
)
from .interventions import (
    temper as temper,
)
from .models import (
    AttentionOnlyConfig as AttentionOnlyConfig,
)
from .models import (
    AttentionOnlyTransformer as AttentionOnlyTransformer,
)
from .models import (
    HookedModel as HookedModel,
)
from .models import (
    clamp_heads as clamp_heads,
)
from .models import (
    head_gallery as head_gallery,
)
from .models import (
    induction_circuit as induction_circuit,
)
from .models import (
    load_model as load_model,
)
from .pages import (
    write_atlas as write_atlas,
)
from .pages import (
    write_report as write_report,
)
from .plots import (
    animate_heads as animate_heads,
)
from .plots import (
    plot_all_scores as plot_all_scores,
)
from .plots import (
    plot_circuit as plot_circuit,
)
from .plots import (
    plot_composition as plot_composition,
)
from .plots import (
    plot_effects as plot_effects,
)
from .plots import (
    plot_eigenvalues as plot_eigenvalues,
)
from .plots import (
    plot_explanation as plot_explanation,
)
from .plots import (
    plot_head_scores as plot_head_scores,
)
from .plots import (
    plot_heads_over_training as plot_heads_over_training,
)
from .plots import (
    plot_logit_attribution as plot_logit_attribution,
)
from .plots import (
    plot_logit_lens as plot_logit_lens,
)
from .plots import (
    plot_loss as plot_loss,
)
from .plots import (
    plot_loss_derivative as plot_loss_derivative,
)
from .plots import (
    plot_loss_paths as plot_loss_paths,
)
from .plots import (
    plot_model_analysis as plot_model_analysis,
)
from .plots import (
    plot_over_training as plot_over_training,
)
from .plots import (
    plot_pattern as plot_pattern,
)
from .plots import (
    plot_score_by_layer as plot_score_by_layer,
)
from .plots import (
    plot_small_multiples as plot_small_multiples,
)
from .plots import (
    plot_term_importance as plot_term_importance,
)
from .plots import (
    save_animation as save_animation,
)
from .results import (
    Head as Head,
)
from .results import (
    parse_head as parse_head,
)
from .results import (
    parse_heads as parse_heads,
)
from .scores import (
    AttentionScore as AttentionScore,
)
from .scores import (
    HeadScores as HeadScores,
)
from .scores import (
    LayerScore as LayerScore,
)
from .scores import (
    Score as Score,
)
from .scores import (
    WeightScore as WeightScore,
)
from .scores import (
    attention_spread as attention_spread,
)
from .scores import (
    score_heads as score_heads,
)
from .sweeps import (
    SweepPlan as SweepPlan,
)
from .sweeps import (
    SweepSummary as SweepSummary,
)
from .sweeps import (
    formation as formation,
)
from .sweeps import (
    induction_counts as induction_counts,
)
from .sweeps import (
    load_sweep as load_sweep,
)
from .sweeps import (
    load_sweep_plan as load_sweep_plan,
)
from .sweeps import (
    sweep as sweep,
)
from .training import (
    Checkpoints as Checkpoints,
)
from .training import (
    Recipe as Recipe,
)
from .training import (
    Revisions as Revisions,
)
from .training import (
    Run as Run,
)
from .training import (
    TrainingPlan as TrainingPlan,
)
from .training import (
    load_recipe as load_recipe,
)
from .training import (
    over_seeds as over_seeds,
)
from .training import (
    train_run as train_run,
)
from .training import (
    train_runs as train_runs,
)
from .weights import (
    bigram_logits as bigram_logits,
)
from .weights import (
    composition_baseline as composition_baseline,
)
from .weights import (
    composition_scores as composition_scores,
)
from .weights import (
    ov_circuit as ov_circuit,
)
from .weights import (
    ov_copying as ov_copying,
)
from .weights import (
    ov_eigenvalues as ov_eigenvalues,
)
from .weights import (
    ov_self_copying as ov_self_copying,
)
from .weights import (
    positional_preference as positional_preference,
)
from .weights import (
    qk_circuit as qk_circuit,
)
from .weights import (
    qk_diagonal as qk_diagonal,
)
from .weights import (
    qk_eigenvalues as qk_eigenvalues,
)
from .weights import (
    qk_matching as qk_matching,
)
from .weights import (
    skip_trigrams as skip_trigrams,
)
from .weights import (
    stream_rows as stream_rows,
)
from .weights import (
    weight_probes as weight_probes,
)

__version__: str
from .weights import (
    FoldedWeights as FoldedWeights,
)
