from .prompts import (
    Prompts as Prompts,
)
from .prompts import (
    distinct_tokens as distinct_tokens,
)
from .prompts import (
    repeated_tokens as repeated_tokens,
)
from .prompts import (
    text_prompts as text_prompts,
)
