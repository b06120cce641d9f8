"""Section 1 of the essay: attention as soft addressing."""
