from .prompts import (
    Prompts as Prompts,
    distinct_tokens as distinct_tokens,
    repeated_tokens as repeated_tokens,
    text_prompts as text_prompts,
)
