"""Heads that carry the next token of what is copied, and heads that carry the word as a whole, by what they cause.

Source: Feucht et al. (2025), https://arxiv.org/abs/2504.03022, section 2, on the prompts of `dual_route`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.internals.batches import chunks
from induction_lab.internals.one_head_changed import probability_of, with_each_head_changed
from induction_lab.internals.reading import attention_layers
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.progress import Ticker, progress_bar
from induction_lab.scores.kinds.dual_route import CONTEXT, ENTITY_TOKENS, FEUCHT, Copied, copied, words_to_copy
from induction_lab.scores.score import CausalScore

N_PROMPTS = 64


class TokenCopying(CausalScore):
    """How much a head's output makes the first of a few random tokens come next where they are to be copied.

    Of a clean prompt `BOS r e newline r e1` and a corrupt one, in which other tokens stand in place of the first r and
    e (30 tokens), the head's output at the last token of the second r is put from the clean into the corrupt run: the
    score is the rise of P(e1) there. Where exactly the paper reads the probability we could not check in its text; a
    head that copies the next token can raise no other than this one.

    Args:
        n_prompts: How many, a quarter for each length of e, 2 to 5. Each costs two forward passes of 60 tokens and, for
            every head, half a pass of one, or of all 60 where a model cannot run these alone
            (`internals.one_head_changed`): `n_prompts * heads / 2` such passes in all.
    """

    name, source, low, high, chance = "token_copying", FEUCHT, -1.0, 1.0, 0.0
    meaning = (
        "Rise of the probability of the random token to be copied next, when the head's output there is put from a "
        "run in which it occurred before into one in which it did not."
    )
    measured_on = "copied tokens"
    ahead = 0  # how many positions behind the changed one is looked at

    def __init__(self, *, n_prompts: int = N_PROMPTS) -> None:
        """Say how many prompts."""
        self.n_prompts = n_prompts

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Why the prompts cannot be made of this model, or its heads not changed one by one."""
        try:
            refuse_on_disk(model, self.title or self.name, model.n_layers * model.n_heads)
            self.parts(model, seed=0)
        except ValueError as error:
            return str(error)
        return None

    def entities(self) -> Iterable[str] | None:
        """What is copied; None: random tokens."""
        return None

    def parts(self, model: HookedModel, *, seed: int) -> list[Copied]:
        """What the prompts are made of."""
        return copied(model, n_prompts=self.n_prompts, seed=seed, entities=self.entities())

    def measure(
        self, model: HookedModel, *, seed: int = 0, progress: bool = False
    ) -> Float[Tensor, "prompt layer head"]:
        """The rise of every prompt's probability for every head."""
        parts = self.parts(model, seed=seed)
        found = torch.empty(len(parts), model.n_layers, model.n_heads, dtype=torch.float32)
        total = len(attention_layers(model)) * model.n_heads * len(parts)
        with progress_bar(total, "patching heads", shown=progress) as tick:
            for first in range(len(ENTITY_TOKENS)):  # prompts of one length
                rows = range(first, len(parts), len(ENTITY_TOKENS))
                for some in chunks(len(rows), 2 * CONTEXT + 4):
                    which = list(rows[some])
                    found[which] = self._rise(model, [parts[i] for i in which], tick)
        return found

    def _rise(self, model: HookedModel, parts: list[Copied], tick: Ticker) -> Float[Tensor, "prompt layer head"]:
        clean, corrupt = (torch.tensor(rows) for rows in zip(*map(_prompts, parts), strict=True))
        at = torch.full((len(parts),), clean.shape[1] - 2)
        token = torch.tensor([part.entity[self.ahead] for part in parts])
        outputs = {layer: seen.z[:, :, -2].clone() for layer, seen in residual_streams(model, clean).attention.items()}
        streams = residual_streams(model, corrupt)
        read = probability_of(model, token)
        return with_each_head_changed(streams, outputs, at, read, ahead=self.ahead, tick=tick)


class ConceptCopying(TokenCopying):
    """How much a head's output makes the second token of a word come next where the first is still to be copied.

    The prompts of `TokenCopying`, with a word, a name or a title as e: the score is the rise of P(e2) at e1, the
    position behind the one at which the head's output is changed. A head that carries the next token alone does not
    raise it.

    Args:
        n_prompts: How many, a quarter for each length of e, 2 to 5. Each costs two forward passes of 60 tokens and, for
            every head, half a pass of two, or of all 60 where a model cannot run these alone
            (`internals.one_head_changed`): `n_prompts * heads / 2` such passes in all.
        entities: Words to be copied, of 2 to 5 tokens; by default the package's own 533.
    """

    name = "concept_copying"
    meaning = (
        "Rise of the probability of the second token of a word behind its first, when the head's output before the "
        "word is put from a run in which the word occurred before into one in which it did not."
    )
    measured_on = "copied words"
    ahead = 1

    def __init__(self, *, n_prompts: int = N_PROMPTS, entities: Sequence[str] | None = None) -> None:
        """Say how many prompts, and of which words."""
        super().__init__(n_prompts=n_prompts)
        self.own_entities = entities

    def entities(self) -> Iterable[str]:
        """The words."""
        return words_to_copy(self.own_entities)


def _prompts(part: Copied) -> tuple[list[int], list[int]]:
    """The clean and the corrupt prompt, equally long."""
    size = CONTEXT - len(part.entity)
    before, others = part.others[:size], part.others[size : size + CONTEXT]
    end = [*part.newline, *before, part.entity[0]]
    return [*part.begin, *before, *part.entity, *end], [*part.begin, *others, *end]
