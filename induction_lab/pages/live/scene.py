"""What is on the live page: a text, and heads that are changed. Read from JSON, and checked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from induction_lab.data.prompts import Prompts, text_prompts
from induction_lab.internals.reading import heads_of
from induction_lab.interventions.ablating import ablate, scale_heads
from induction_lab.interventions.outputs import Outputs
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.heads import Head, parse_head

MOST_TOKENS = 256  # every head's pattern of a text is kept while it is on the page
MOST_CHARACTERS = 20_000
SCALE = "scale"
NAMED_METHODS = ("mean", "zero", "ideal_induction", "ideal_previous_token")
METHODS = (*NAMED_METHODS, SCALE)
MOST_FACTOR = 100


class Change(NamedTuple):
    """What is done to a head: a method of `ablate`, or `scale` with its factor."""

    head: Head
    method: str
    by: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A text and the heads that are changed.

    Attributes:
        text: What the model reads; of a model without a tokenizer, its tokens as numbers.
        changes: One a head, in the order of heads.
    """

    text: str
    changes: tuple[Change, ...] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any], model: HookedModel) -> Scene:
        """The scene that a page asks for: `{"text": …, "heads": {"L1H2": "mean", "L0H1": 0.5}}`.

        Raises:
            ValueError: If a head or method is none, or a number none that heads can be scaled by.
        """
        text, heads = given.get("text", ""), given.get("heads") or {}
        if not isinstance(text, str) or not isinstance(heads, dict):
            raise ValueError("A scene is a text, and heads with what is done to each.")
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"The text has {len(text):,} characters; {MOST_CHARACTERS:,} are read at most.")
        shape = {"n_layers": model.n_layers, "n_heads": model.n_heads}
        changes = [_change(parse_head(str(head), **shape), how) for head, how in heads.items()]
        heads_of(model, [change.head for change in changes])  # also that their layers attend, and none twice
        return cls(text, tuple(sorted(changes)))

    @property
    def untouched(self) -> Scene:
        """The same text, no head changed."""
        return Scene(self.text)

    def prompt(self, model: HookedModel) -> Prompts:
        """The text as the model reads it.

        Raises:
            ValueError: If there is none, it is too long, or names no tokens of a model that reads numbers.
        """
        return read_text(model, self.text)

    @property
    def _together(self) -> dict[tuple[str, float], list[Head]]:
        """Heads by what is done to them."""
        found: dict[tuple[str, float], list[Head]] = {}
        for change in self.changes:
            found.setdefault((change.method, change.by), []).append(change.head)
        return found

    @contextmanager
    def applied(self, model: HookedModel, means: Outputs | None) -> Iterator[None]:
        """The model as the scene has it, inside.

        Args:
            model: Whose heads.
            means: What heads put out on average, as long as the text; needed where one is replaced by its mean.
        """
        with ExitStack() as stack:
            for (method, by), heads in self._together.items():
                if method == SCALE:
                    stack.enter_context(scale_heads(model, heads, by))
                else:
                    known = means if method == "mean" else None
                    stack.enter_context(ablate(model, heads, method=method, reference=known))
            yield


def read_text(model: HookedModel, text: str) -> Prompts:
    """One prompt of a text; of a model without a tokenizer numbers, separated by spaces.

    Raises:
        ValueError: As `Scene.prompt`.
    """
    most = min(MOST_TOKENS, model.n_ctx or MOST_TOKENS)
    if model.tokenizer is not None:
        if not text:
            return Prompts(torch.tensor([[model.bos_token_id]]), kind="text")
        prompts = text_prompts(model, text, length=most)
    else:
        prompts = Prompts(torch.tensor([[model.bos_token_id, *_numbers(model, text)]]), kind="text")
    if len(prompts) > 1 or prompts.tokens.shape[1] > most:
        raise ValueError(f"The text has more than the {most - 1} tokens that fit here: shorten it.")
    return prompts


def _numbers(model: HookedModel, text: str) -> list[int]:
    words = text.replace(",", " ").split()
    wrong = next((word for word in words if not word.isdecimal() or int(word) >= model.d_vocab), None)
    if wrong is not None:
        raise ValueError(f"{model.name} reads tokens: numbers from 0 to {model.d_vocab - 1}, got {wrong[:20]!r}.")
    return [int(word) for word in words]


def _change(head: Head, how: Any) -> Change:
    if isinstance(how, bool) or not isinstance(how, str | int | float):
        raise ValueError(f"A head is changed by a factor or by {', '.join(NAMED_METHODS)}, got {how!r}.")
    if isinstance(how, str):
        if how not in NAMED_METHODS:
            raise ValueError(f"A head is changed by a factor or by {', '.join(NAMED_METHODS)}, got {how[:30]!r}.")
        return Change(head, how)
    if not (math.isfinite(how) and abs(how) <= MOST_FACTOR):
        raise ValueError(f"Heads are scaled by a number from -{MOST_FACTOR} to {MOST_FACTOR}, got {how!r}.")
    return Change(head, SCALE, float(how))
