"""Section 4: from words to logic, layer by layer."""
