from .composition import composition_baseline as composition_baseline, composition_scores as composition_scores
from .folded import FoldedWeights as FoldedWeights
from .head_statistics import (
    ov_copying as ov_copying,
    ov_eigenvalues as ov_eigenvalues,
    ov_self_copying as ov_self_copying,
    qk_diagonal as qk_diagonal,
    qk_eigenvalues as qk_eigenvalues,
    qk_matching as qk_matching,
)
from .ngrams import bigram_logits as bigram_logits, skip_trigrams as skip_trigrams
from .ov_qk import ov_circuit as ov_circuit, qk_circuit as qk_circuit
from .probes_over_training import weight_probes as weight_probes
from .queries_keys import positional_preference as positional_preference
from .stream_sources import stream_rows as stream_rows
