"""What the causal experiments are run on: small models in which induction heads formed, and real ones.

A subject is a model with its repeated prompts and scores, and with the circuit that path patching finds in it. Small
models: five seeds of each kind in `small_models`, kept in runs/; those without an induction head say nothing about what
induction heads do and are returned apart, with the reason. Which they are: experiments/subjects/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from experiments.harness import RUNS_FOLDER, common_arguments
from experiments.subjects.small_models import SEEDS, small_models
from induction_lab import (
    Head,
    HeadScores,
    HookedModel,
    Prompts,
    load_model,
    patch_paths,
    repeated_tokens,
    score_heads,
)
from induction_lab.models.provenance import fingerprint

NAMED = ("induction-2l", "smollm2-135m", "gemma3-270m")  # besides the small ones: no language model stands alone
REFERENCE = 32
LOOKS = 0.4  # what people call an induction head, or a previous-token head
PREVIOUS = (  # Gemma's best by score was seen to change nothing, and the head that is taken is chosen so since
    f"It is the head whose direct path to the induction heads' keys matters most, of those above {LOOKS} in "
    "previous_token, on prompts of its own"
)
TELLS, ERRORS = 0.01, 2.0  # of the fall of the loss, and standard errors: a direct path that matters
MANY, FEW_PROMPTS = 64, 4  # heads from which on paths are cut on fewer prompts
KEPT = RUNS_FOLDER / "paths"


@dataclass(frozen=True)
class Subject:
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

    @cached_property
    def previous(self) -> Head:
        """Of the previous-token heads below an induction head the one that tells the induction heads' keys most.

        That is, without whose direct path to the keys the loss rises most, on prompts of their own: a head that looks
        at the token before need not be read by any induction head. The best by score, where none is above `LOOKS`.
        """
        ranked = [head for head, _ in self.scores.top("previous_token", self.model.n_layers * self.model.n_heads)]
        below = [head for head in ranked if head.layer < max(head.layer for head in self.induction)]
        heads = [head for head in below if self.scores.of(head)["previous_token"] > LOOKS] or below[:1]
        if len(heads) == 1:
            return heads[0]
        prompts = repeated_tokens(self.model, n_prompts=FEW_PROMPTS, period=self.prompts.period or 50, seed=2)
        told = patch_paths(self.model, prompts, self.induction, "k", senders=heads, reference=self.reference)
        return max(heads, key=lambda head: told.of(str(head))["effect"])

    @property
    def fall(self) -> float:
        """How far the loss falls from the first to the second copy, in nats."""
        return self.scores.loss_by_copy[0] - self.scores.loss_by_copy[1]

    @cached_property
    def paths(self) -> Any:
        """What is lost without each earlier head's direct path to the induction heads' `k`, `q` or `v`: a table.

        That of a model of many heads takes minutes, and several scripts ask for it: it is kept in runs/paths.
        """
        if not any(head.layer for head in self.induction):
            return None
        if self.model.n_layers * self.model.n_heads <= MANY:
            return self._cut(self.prompts)
        prompts = self.prompts[:FEW_PROMPTS]
        to = "-".join(map(str, sorted(self.induction)))
        kept = KEPT / f"{self.model.name}-{fingerprint(self.model, prompts)}-{to}.csv"
        if not kept.exists():
            table = self._cut(prompts)
            kept.parent.mkdir(parents=True, exist_ok=True)
            begun = kept.with_suffix(f".{os.getpid()}")
            table.to_csv(begun, index=False)
            begun.replace(kept)  # whole or not at all, where two scripts ask at once
        return pd.read_csv(kept)

    def _cut(self, prompts: Prompts) -> pd.DataFrame:
        """The direct paths cut, one sender and one of keys, queries and values at a time."""
        top = max(head.layer for head in self.induction)
        senders = [Head(layer, head) for layer in range(top) for head in range(self.model.n_heads)]
        how = {"senders": senders, "reference": self.reference, "progress": sys.stderr.isatty()}
        tables = {part: patch_paths(self.model, prompts, self.induction, part, **how).table for part in "kqv"}
        pairs: Any = tables["k"][["layer", "head"]]
        return pairs.assign(
            **{part: table["effect"] for part, table in tables.items()},
            **{f"{part}_error": table["standard_error"] for part, table in tables.items()},
        )

    @cached_property
    def tellers(self) -> list[Head]:
        """Heads whose direct path to the induction heads matters, through any of keys, queries and values."""
        if self.paths is None:
            return []
        clear = [
            (self.paths[part] >= TELLS * self.fall) & (self.paths[part] >= ERRORS * self.paths[f"{part}_error"])
            for part in "kqv"
        ]
        rows = self.paths[clear[0] | clear[1] | clear[2]]
        return [Head(int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)]

    @property
    def circuit(self) -> list[Head]:
        """All heads that match prefixes, and those that tell the best of them where to look."""
        return sorted({*self.scores.above("prefix_matching", LOOKS), *self.tellers})

    @property
    def bystanders(self) -> list[Head]:
        """Heads outside the circuit. No score says so: a head that matters through the induction heads is none."""
        every = (Head(layer, head) for layer in range(self.model.n_layers) for head in range(self.model.n_heads))
        return [head for head in every if head not in self.circuit]


def subjects(
    names: Sequence[str], *, seeds: int = len(SEEDS), n_prompts: int = 16
) -> tuple[dict[str, Subject], dict[str, str]]:
    """Models with induction heads by name, and why the others are left out."""
    models = small_models(seeds)
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
    parser.add_argument("--models", nargs="*", default=NAMED, help="besides the small ones")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="small models of each kind")
    return parser


def subject(model: HookedModel, *, n_prompts: int = 16) -> Subject:
    """One model on blocks of 50 tokens, of 20 where its context is short."""
    prompts = repeated_tokens(model, n_prompts=n_prompts, period=20 if (model.n_ctx or 101) < 101 else 50)
    return Subject(model, prompts, score_heads(model, prompts, scores=["previous_token", "prefix_matching"]))
