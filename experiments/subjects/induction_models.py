"""What the causal experiments are run on: small models in which induction heads formed, and real ones.

A subject is a model with its repeated prompts and scores. Small models: the bundled recipe (seeds 0 and 2; its own seed
is 1), scattered copies and tiled blocks with learned positions (three seeds each), all kept in runs/; those without an
induction head say nothing about what induction heads do and are returned apart, with the reason.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from experiments.harness import common_arguments
from experiments.subjects.small_models import REPEATS_SEEDS, SEEDS, repeats_model, scattered_model, tiled_model
from induction_lab import Head, HeadScores, HookedModel, Prompts, load_model, repeated_tokens, score_heads

REFERENCE = 32
LOOKS = 0.4  # what people call an induction head, or a previous-token head


class Subject(NamedTuple):
    """A model, prompts for it, and where its heads look on them."""

    model: HookedModel
    prompts: Prompts
    scores: HeadScores

    @property
    def reference(self) -> Prompts:
        """Other prompts of the kind, enough of them for a mean."""
        return repeated_tokens(self.model, n_prompts=REFERENCE, period=self.prompts.period or 50, seed=1)

    @property
    def induction(self) -> list[Head]:
        """Heads above `LOOKS` in prefix matching, best first; at most 8."""
        return self.scores.above("prefix_matching", LOOKS)[:8]

    @property
    def previous(self) -> Head:
        """The best previous-token head below every induction head."""
        ranked = self.scores.top("previous_token", self.model.n_layers * self.model.n_heads)
        first = min(head.layer for head in self.induction)
        return next(head for head, _ in ranked if head.layer < first)

    @property
    def fall(self) -> float:
        """How far the loss falls from the first to the second copy, in nats."""
        return self.scores.loss_by_copy[0] - self.scores.loss_by_copy[1]

    @property
    def bystanders(self) -> list[Head]:
        """Heads that look neither back to the token before nor to what followed it."""
        looking = {*self.scores.above("prefix_matching", LOOKS), *self.scores.above("previous_token", LOOKS)}
        every = (Head(layer, head) for layer in range(self.model.n_layers) for head in range(self.model.n_heads))
        return [head for head in every if head not in looking]


def subjects(names: Sequence[str], *, seeds: int = 3, n_prompts: int = 16) -> tuple[dict[str, Subject], dict[str, str]]:
    """Models with induction heads by name, and why the others are left out."""
    models = [repeats_model(seed) for seed in REPEATS_SEEDS[:seeds]]
    models += [scattered_model(seed) for seed in SEEDS[:seeds]]
    models += [tiled_model(seed, "learned") for seed in SEEDS[:seeds]]
    models += [load_model(name) for name in names]
    found, left_out = {}, {}
    for model in models:
        one = subject(model, n_prompts=n_prompts)
        if one.scores.above("prefix_matching", LOOKS):
            found[model.name] = one
        else:
            best = one.scores.top("prefix_matching", 1)[0][1]
            left_out[model.name] = f"no induction head (best prefix_matching {best:.2f}): not read"
    if not found:
        raise SystemExit("None of these models has an induction head: add --models.")
    return found, left_out


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What every script on these subjects can be told."""
    parser = common_arguments(description)
    parser.add_argument("--models", nargs="*", default=["induction-2l", "smollm2-135m"], help="besides the small ones")
    parser.add_argument("--seeds", type=int, default=3, help="small models of each kind")
    return parser


def subject(model: HookedModel, *, n_prompts: int = 16) -> Subject:
    """One model on blocks of 50 tokens, of 20 where its context is short."""
    prompts = repeated_tokens(model, n_prompts=n_prompts, period=20 if (model.n_ctx or 101) < 101 else 50)
    return Subject(model, prompts, score_heads(model, prompts, scores=["previous_token", "prefix_matching"]))
