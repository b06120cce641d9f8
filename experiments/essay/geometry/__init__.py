"""Section 3: meanings turn apart."""
