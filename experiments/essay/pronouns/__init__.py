"""Whom a pronoun means, and whether the pronoun takes it in (the essay, §2.2)."""
