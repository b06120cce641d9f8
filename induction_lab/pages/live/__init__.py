"""A page on which a model answers: what it predicts of a text, where heads look, and what is lost without them."""
