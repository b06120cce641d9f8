"""Section 6: induction heads at work on a name."""
