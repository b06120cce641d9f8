"""Commands that measure a model: its heads, its circuit, what they carry of a text."""
