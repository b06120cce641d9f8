from .results import (
    HeadScores as HeadScores,
)
from .scoring import (
    score_heads as score_heads,
)
from .spread import (
    attention_spread as attention_spread,
)
