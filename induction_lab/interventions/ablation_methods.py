"""What heads put out instead of their own: nothing, a mean, another prompt's, or what an ideal pattern would bring.

    mean                  at each position its mean over other prompts: what the head says on any of them
    zero                  nothing; harsh, because later layers have learnt to expect something
    resample              what it puts out on another prompt
    pattern_preserving    nothing, while every other head attends as in a clean run, so that only what passes through
                          values is lost (Olsson et al. 2022)
    ideal_previous_token  what its values bring if it attends to the token before, and to nothing else
    ideal_induction       what its values bring if it attends evenly to what followed each earlier occurrence of the
                          current token, and to BOS where there is none

Each is a class, known by its `name` to whatever takes a `method`. In use:

1. `find_method(model, name)` gives the class, or says why this model cannot be ablated so.
2. `prepared(prompts)` takes note of all prompts, of which any may lend its outputs; where they cannot (one prompt, or
   texts of which one is the longest), prompts of random tokens do.
3. `on(rows)` gives the edit of attention on a batch of them.

Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895, with Redwood's comment on idealised patterns there;
means and other prompts' values as in Wang et al. (2022), https://arxiv.org/abs/2211.00593.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Protocol, runtime_checkable

import torch

from induction_lab.attention.exact import LayerAttention
from induction_lab.data.occurrences import ideal_pattern
from induction_lab.data.prompts import Prompts
from induction_lab.internals.editing import is_edited
from induction_lab.interventions.edits import HeldPatterns, OtherOutputs, OtherPattern, Substitute
from induction_lab.interventions.outputs import Outputs, Sums, cut_to, length_of, random_reference, sums_over
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.nearest import did_you_mean


@runtime_checkable
class CleanRuns(Protocol):
    """How a method runs the model that nothing is done to."""

    @property
    def model(self) -> HookedModel:
        """The model, with nothing edited."""
        ...

    def outputs(self, prompts: Prompts) -> Outputs:
        """What heads put out on some prompts."""
        ...

    def attention(self, prompts: Prompts) -> Mapping[int, LayerAttention]:
        """By layer, the attention on some prompts."""
        ...


class Method(ABC):
    """A way to say what heads put out instead; a new one is a class with a `name` that stands in `METHODS`.

    Args:
        runs: How the clean model is run.
        reference: Prompts whose outputs to take, at least as long; by default the other prompts.
        seed: Of the choice of other prompts.

    Attributes:
        name: What users call it.
        of_patterns: Whether it holds or changes where heads look, which not every architecture lets happen.
        from_others: Whether a prompt is given what heads put out on other prompts.
        every_layer: Whether layers are edited of which no head was chosen.
        prompts: All prompts it was prepared for.
    """

    name: ClassVar[str]
    of_patterns: ClassVar[bool] = False
    from_others: ClassVar[bool] = False
    every_layer: ClassVar[bool] = False
    prompts: Prompts

    def __init__(self, runs: CleanRuns, *, reference: Prompts | None = None, seed: int = 0) -> None:
        """Take note of the arguments; nothing is run."""
        self.runs, self.reference, self.seed = runs, reference, seed

    @classmethod
    def check(cls, model: HookedModel) -> None:
        """Refuse a model that cannot be ablated so.

        Raises:
            ValueError: With the reason.
        """
        if cls.of_patterns and not model.anatomy.goes_through_interface:
            raise ValueError(
                f"Patterns can be neither held nor changed in {model.name} ({type(model.network).__name__}), which "
                f"attends out of sight of transformers' attention interface. {listed(OUTPUT_METHODS, 'and')} ablation "
                "are to be had."
            )

    @property
    def needs_tokens(self) -> bool:
        """Whether the substitute depends on what the model is run on."""
        return True

    def prepared(self, prompts: Prompts) -> Method:
        """The method for these prompts; what it needs of all of them is worked out when it is first asked for.

        Raises:
            ValueError: If it takes outputs from a reference, and that is too short for these prompts.
        """
        method = copy.copy(self)
        method.prompts = prompts
        for known in ("_sums", "_shift", "_partners"):  # of the prompts before
            vars(method).pop(known, None)
        if self.from_others and self.reference is not None:
            method.reference = cut_to(self.reference, prompts)
        elif self.from_others and not self.serve_each_other(prompts):
            method.reference = random_reference(self.runs.model, prompts)
        return method

    @staticmethod
    def serve_each_other(prompts: Prompts) -> bool:
        """Whether each of these prompts can be given outputs of the others, at all its positions."""
        return int(prompts.real.sum(0).min()) >= 2

    @abstractmethod
    def on(self, rows: slice) -> Substitute:
        """What heads do instead on some of the prompts."""


class Known(Method):
    """What is known already, whatever the prompts; made from a substitute, not found by name."""

    name = "known"

    def __init__(self, substitute: Substitute) -> None:
        """Take note of it."""
        self.substitute = substitute

    @property
    def needs_tokens(self) -> bool:
        """Never."""
        return False

    def on(self, rows: slice) -> Substitute:
        """That."""
        return self.substitute


class Zero(Method):
    """Nothing."""

    name = "zero"

    @property
    def needs_tokens(self) -> bool:
        """Never."""
        return False

    def on(self, rows: slice) -> Substitute:
        """No outputs."""
        return OtherOutputs()


class Mean(Method):
    """The mean over a reference or, for each prompt, over all other prompts that reach the position."""

    name, from_others = "mean", True

    @property
    def needs_tokens(self) -> bool:
        """Only without a reference."""
        return self.reference is None

    def on(self, rows: slice) -> Substitute:
        """The reference's mean, or each prompt's own."""
        if self.reference is not None:
            return self._of_reference
        batch = self.prompts[rows]
        own = self.runs.outputs(batch)
        sums = Sums.of(own, batch) if len(batch) == len(self.prompts) else self._sums
        return OtherOutputs(sums.mean_of_others(own, batch))

    @cached_property
    def _of_reference(self) -> Substitute:
        assert self.reference is not None
        return OtherOutputs(sums_over(self.reference, self.runs.outputs).mean())

    @cached_property
    def _sums(self) -> Sums:
        return sums_over(self.prompts, self.runs.outputs)


class Resample(Method):
    """Another prompt's: of a reference, one to one where it has as many prompts, else drawn; or of another of its own.

    Without a reference each prompt takes the outputs of the one that stands so far before it, in a circle, as is drawn.
    """

    name, from_others = "resample", True

    def prepared(self, prompts: Prompts) -> Method:
        """The method for these prompts.

        Raises:
            ValueError: If prompts of the reference are of several lengths: one would lend its padding.
        """
        method = super().prepared(prompts)
        if method.reference is not None and method.reference.lengths is not None:
            raise ValueError(
                "`resample` takes whole prompts' outputs, and those of the reference end at different places. Use "
                f"`mean`, or prompts of one length: reference=distinct_tokens(model, length={length_of(prompts)})."
            )
        return method

    @staticmethod
    def serve_each_other(prompts: Prompts) -> bool:
        """Whether there are several, of one length."""
        return len(prompts) >= 2 and bool(prompts.real.all())

    def on(self, rows: slice) -> Substitute:
        """The outputs of each prompt's partner."""
        batch = self.prompts[rows]
        if self.reference is None and len(batch) == len(self.prompts):  # which has all partners in it
            return OtherOutputs(self.runs.outputs(batch).map(lambda x: x.roll(self._shift, 0)))
        return OtherOutputs(self.runs.outputs(self._partners[rows]))

    @cached_property
    def _shift(self) -> int:
        return drawn_shift(len(self.prompts), seed=self.seed)

    @cached_property
    def _partners(self) -> Prompts:
        if self.reference is None:
            return Prompts(self.prompts.tokens.roll(self._shift, 0))
        return paired(self.prompts, self.reference, seed=self.seed)


class PatternPreserving(Method):
    """Nothing, while every head attends as in a clean run."""

    name, of_patterns, every_layer = "pattern_preserving", True, True

    @classmethod
    def check(cls, model: HookedModel) -> None:
        """Refuse a model whose patterns cannot be held.

        Raises:
            ValueError: If they are out of sight, or holding them would undo an edit that is in force.
        """
        super().check(model)
        if is_edited(model):
            raise ValueError(
                f"Holding the patterns of {model.name} would undo the ablation that is in force: leave that context "
                "first, or enter the one that holds patterns before it."
            )

    def on(self, rows: slice) -> Substitute:
        """The patterns of the batch, held."""
        return HeldPatterns(self.runs.attention(self.prompts[rows]))


class IdealPattern(Method):
    """What the heads' own values bring if they attend as an ideal head does: `kind` as in `ideal_pattern`."""

    of_patterns = True
    kind: ClassVar[str]

    def on(self, rows: slice) -> Substitute:
        """The ideal pattern on the batch's tokens."""
        return OtherPattern(ideal_pattern(self.prompts[rows], self.kind).to(self.runs.model.device))


class IdealPreviousToken(IdealPattern):
    """All attention on the token before."""

    name, kind = "ideal_previous_token", "previous_token"


class IdealInduction(IdealPattern):
    """Attention spread evenly over what followed each earlier occurrence of the current token."""

    name, kind = "ideal_induction", "induction"


METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Mean, Zero, Resample, PatternPreserving, IdealPreviousToken, IdealInduction)
}
OUTPUT_METHODS = tuple(name for name, method in METHODS.items() if not method.of_patterns)


def find_method(model: HookedModel, name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ValueError: If there is none, or it is not to be had of this model.
    """
    if name not in METHODS:
        raise ValueError(f"`method` must be one of {', '.join(METHODS)}, got {name!r}.{did_you_mean(name, METHODS)}")
    METHODS[name].check(model)
    return METHODS[name]


def listed(names: tuple[str, ...], last: str = "or") -> str:
    """`mean, zero or resample`."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def paired(prompts: Prompts, reference: Prompts, *, seed: int) -> Prompts:
    """For each prompt the one of the reference that `resample` takes its outputs from: one to one, or drawn."""
    if len(reference) == len(prompts):
        return reference
    drawn = torch.randint(len(reference), (len(prompts),), generator=torch.Generator().manual_seed(seed))
    return replace(reference, tokens=reference.tokens[drawn], lengths=None)


def drawn_shift(n_prompts: int, *, seed: int) -> int:
    """How far off, in a circle, the prompt stands that `resample` takes each prompt's outputs from."""
    return 1 + int(torch.randint(n_prompts - 1, (1,), generator=torch.Generator().manual_seed(seed)))
