"""Scores of the other kinds of heads that the literature names beside induction heads, a file a kind."""
