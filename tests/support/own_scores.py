"""Scores as a user would write them."""

from induction_lab import AttentionScore, LayerScore, WeightScore


class TwoBack(AttentionScore):
    name, meaning, source = "two_back", "Attention to the token before the previous one.", "these tests"

    def pairs(self, tokens):
        return [(query, query - 2) for query in range(3, len(tokens))]


class Largest(LayerScore):
    name, meaning, low, high = "largest", "Largest probability of a row, mean over rows from 1 on.", 0.0, 1.0

    def read(self, model, prompts, attention):
        return attention.pattern()[:, :, 1:].amax(-1).mean(-1)


class Size(WeightScore):
    name, meaning, unit = "size", "Frobenius norm of W_O.", "norms"

    def measure(self, model):
        return model.hooked.W_O.norm(dim=(-2, -1))
