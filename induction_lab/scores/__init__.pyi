from .kinds.key_value_heads import export_kv_heads as export_kv_heads
from .results import HeadScores as HeadScores, compare_scores as compare_scores
from .score import (
    AttentionScore as AttentionScore,
    CausalScore as CausalScore,
    LayerScore as LayerScore,
    Score as Score,
    WeightScore as WeightScore,
)
from .scoring import score_heads as score_heads
from .spread import attention_spread as attention_spread
