"""Which heads are certainly nothing? A race that spends prompts on the others."""
