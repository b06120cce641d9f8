"""Section 2.1: no decay with distance."""
