from .results import (
    HeadScores as HeadScores,
)
from .score import (
    AttentionScore as AttentionScore,
)
from .score import (
    LayerScore as LayerScore,
)
from .score import (
    Score as Score,
)
from .score import (
    WeightScore as WeightScore,
)
from .scoring import (
    score_heads as score_heads,
)
from .spread import (
    attention_spread as attention_spread,
)
