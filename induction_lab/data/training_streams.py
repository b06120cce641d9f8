"""Random tokens to train on: blocks that repeat, Zipfian noise, Markov chains, triggers.

A stream is a frozen set of numbers that draws batches of prompts, `[BOS, n_ctx - 1 tokens]`, from a generator that is
passed in; token 0 is always BOS and is drawn nowhere else. The same generator state gives the same tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.data.markov import doubly_stochastic, stationary_distribution
from induction_lab.data.random_tokens import draw_lengths, draw_tokens, far_places, random_rows, row_starts, with_bos


@runtime_checkable
class TokenStream(Protocol):
    """What training draws its batches from."""

    @property
    def d_vocab(self) -> int:
        """Tokens of the vocabulary, BOS included."""
        ...

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """`[BOS, n_ctx - 1 tokens]`, one row a prompt."""
        ...


@dataclass(frozen=True)
class TiledBlocks:
    """`[BOS, u u u …]`: each row a block of random tokens, repeated to the end of the context.

    A model that is trained on one length alone learns that distance, not to copy. With many, small models may still
    learn another way than induction heads: keys that tell of the token k places back and values of the one k - 1 back.
    That costs it nothing where blocks repeat to the end; `ScatteredCopies` make it costly.

    Args:
        d_vocab: Tokens of the vocabulary, BOS included.
        shortest: The least length of a block, in tokens.
        longest: The greatest; every length between is equally likely.
        left_out: Lengths that are never drawn, to test on.
        exponent: Tokens are drawn with probability ~ token^-exponent; 0 is uniform.

    Raises:
        ValueError: If no token or no length is left, or a number is out of range.
    """

    d_vocab: int = 64
    shortest: int = 4
    longest: int = 31
    left_out: tuple[int, ...] = ()
    exponent: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _check_vocabulary(self.d_vocab, self.exponent)
        _check_lengths(self.shortest, self.longest)
        if not self.lengths:
            raise ValueError(
                f"`left_out` must leave a length between {self.shortest} and {self.longest}, got {self.left_out}."
            )

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of the blocks that are drawn."""
        return tuple(n for n in range(self.shortest, self.longest + 1) if n not in self.left_out)

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch; `n_ctx` must hold BOS and the longest block."""
        _check_shape(n_prompts, n_ctx, longest=max(self.lengths))
        lengths = draw_lengths(self.lengths, generator, n_prompts)
        # drawn in one go, the tokens are those that block after block would be
        stream = draw_tokens(generator, int(lengths.sum()), self.d_vocab, self.exponent)
        starts = lengths.cumsum(0) - lengths
        places = torch.arange(n_ctx - 1) % lengths[:, None]
        return with_bos(stream[starts[:, None] + places])


@dataclass(frozen=True)
class ScatteredCopies:
    """Each row one random block again and again, with 0 to `longest_gap` other random tokens before each copy.

    Only looking right after the last occurrence of the current token predicts a copy from its second token on.

    Args:
        d_vocab: Tokens of the vocabulary, BOS included.
        shortest: The least length of a block, in tokens.
        longest: The greatest; every length between is equally likely.
        longest_gap: Most tokens before a copy; every number from 0 on is equally likely.
        exponent: Tokens are drawn with probability ~ token^-exponent; 0 is uniform.

    Raises:
        ValueError: If a number is out of range.
    """

    d_vocab: int = 64
    shortest: int = 3
    longest: int = 12
    longest_gap: int = 8
    exponent: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _check_vocabulary(self.d_vocab, self.exponent)
        _check_lengths(self.shortest, self.longest)
        if self.longest_gap < 0:
            raise ValueError(f"`longest_gap` must be 0 or more tokens, got {self.longest_gap}.")

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch; `n_ctx` must hold BOS and the longest block."""
        _check_shape(n_prompts, n_ctx, longest=self.longest)
        lengths = draw_lengths(range(self.shortest, self.longest + 1), generator, n_prompts)
        copies = n_ctx // lengths + 1
        # A row takes its block, the sizes of its gaps, then the gaps' tokens, and how many those are the sizes tell.
        # So the most numbers that there can be come from a copy of the generator, each to be read as a token or as a
        # size (drawn below a multiple of both ranges it is, modulo each, what that range would have drawn), and the
        # generator itself is moved past those that were used.
        modulus = (self.d_vocab - 1) * (self.longest_gap + 1)
        fork = torch.Generator()
        fork.set_state(generator.get_state())
        most = int((lengths + copies * (1 + self.longest_gap)).sum())
        numbers = torch.randint(modulus, (most,), generator=fork)
        sizes = numbers % (self.longest_gap + 1)
        starts, used = row_starts(sizes, lengths, copies)
        torch.randint(modulus, (used,), generator=generator)
        if self.exponent == 0:
            tokens = numbers % (self.d_vocab - 1) + 1
        else:
            tokens = draw_tokens(generator, most, self.d_vocab, self.exponent)
        return with_bos(tokens[far_places(starts, sizes, lengths, copies, n_ctx - 1)])


@dataclass(frozen=True)
class ZipfianTokens:
    """Independent tokens with probability ~ token^-exponent: nothing to copy, a control.

    Raises:
        ValueError: If there is no token beside BOS, or the exponent is negative.
    """

    d_vocab: int = 64
    exponent: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _check_vocabulary(self.d_vocab, self.exponent)

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch."""
        _check_shape(n_prompts, n_ctx)
        tokens = draw_tokens(generator, n_prompts * (n_ctx - 1), self.d_vocab, self.exponent)
        return with_bos(tokens.reshape(n_prompts, n_ctx - 1))


@dataclass(frozen=True)
class MarkovChains:
    """In each prompt a new Markov chain, from its stationary distribution on; state s is token s + 1.

    The best prediction counts what followed the current state so far (`in_context_bigrams`), a poorer one counts the
    states (`in_context_unigrams`). Source: Edelman et al. (2024), https://arxiv.org/abs/2402.11004.

    Args:
        n_states: Of each chain.
        concentration: Of the Dirichlet distribution of each row of the transition matrix; 1 is flat.
        doubly_stochastic: The columns sum to 1 as well, so that all states are equally frequent in the long run and
            counting them says nothing. Such matrices are Gamma(concentration) numbers, scaled by rows and by columns.

    Raises:
        ValueError: If there are fewer than two states, or `concentration` is not positive.
    """

    n_states: int = 3
    concentration: float = 1.0
    doubly_stochastic: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.n_states < 2:
            raise ValueError(f"`n_states` must be 2 or more, got {self.n_states}.")
        _check_concentration(self.concentration)

    @property
    def d_vocab(self) -> int:
        """The states and BOS."""
        return self.n_states + 1

    def transitions(self, generator: torch.Generator, n_prompts: int) -> Float[Tensor, "prompt state next"]:
        """Transition matrices, float64; rows sum to 1."""
        _check_shape(n_prompts, n_ctx=2)
        matrices = random_rows((n_prompts, self.n_states, self.n_states), self.concentration, generator)
        return doubly_stochastic(matrices) if self.doubly_stochastic else matrices

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch: the transitions are drawn first, then the states."""
        _check_shape(n_prompts, n_ctx)
        matrices = self.transitions(generator, n_prompts)
        rows = torch.arange(n_prompts)
        chances = torch.rand(n_ctx - 1, n_prompts, 1, generator=generator, dtype=torch.float64)
        edges = matrices.cumsum(-1)[..., :-1].contiguous()  # without the last, which rounding may leave below 1
        state = (stationary_distribution(matrices).cumsum(-1)[:, :-1] <= chances[0]).sum(-1)
        states = [state]
        for step in range(1, n_ctx - 1):
            state = (edges[rows, state] <= chances[step]).sum(-1)
            states.append(state)
        return with_bos(torch.stack(states, 1) + 1)


class World(NamedTuple):
    """What is the same in all prompts of `TriggerBigrams`; token t is row t - 1."""

    bigrams: Float[Tensor, "token next"]
    first: Float[Tensor, " token"]
    triggers: Int[Tensor, " trigger"]


@dataclass(frozen=True)
class TriggerBigrams:
    """Tokens from one bigram model, except that after each trigger comes the token that this prompt gave it.

    Bigrams can be learnt by heart, the triggers' outputs only be read from the prompt. The triggers are the most
    frequent tokens of the bigram model's stationary distribution, from which the first token comes too. Outputs are
    drawn anew for each prompt, uniformly among the tokens that are no triggers: otherwise triggers could lead to each
    other, and the rest of the prompt would go round in a circle.
    Source: Bietti et al. (2023), https://arxiv.org/abs/2306.00802.

    Args:
        d_vocab: Tokens of the vocabulary, BOS included.
        n_triggers: Tokens that are triggers.
        world_seed: Of the bigram model.
        concentration: Of the Dirichlet distribution of each token's successors; the smaller the fewer.

    Raises:
        ValueError: If there are no tokens beside BOS and the triggers, or a number is out of range.
    """

    d_vocab: int = 64
    n_triggers: int = 5
    world_seed: int = 0
    concentration: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        _check_vocabulary(self.d_vocab)
        _check_concentration(self.concentration)
        if not 1 <= self.n_triggers < self.d_vocab - 1:
            raise ValueError(
                f"`n_triggers` must be between 1 and {self.d_vocab - 2}, so that tokens are left beside BOS and the "
                f"triggers, got {self.n_triggers} of {self.d_vocab} tokens."
            )

    @cached_property
    def world(self) -> World:
        """The bigram model and the triggers, drawn from `world_seed`."""
        generator = torch.Generator().manual_seed(self.world_seed)
        bigrams = random_rows((self.d_vocab - 1, self.d_vocab - 1), self.concentration, generator)
        first = stationary_distribution(bigrams[None])[0]
        return World(bigrams, first, 1 + first.topk(self.n_triggers).indices.sort().values)

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch."""
        _check_shape(n_prompts, n_ctx)
        triggers = self.world.triggers
        others = torch.ones(self.d_vocab - 1, dtype=torch.bool).index_fill(0, triggers - 1, False).nonzero()[:, 0]
        picks = torch.randint(len(others), (n_prompts, self.n_triggers), generator=generator)
        output = torch.full((n_prompts, self.d_vocab - 1), -1)  # of each row of the bigram model; -1: no trigger
        output[:, triggers - 1] = others[picks]
        chances = torch.rand(n_ctx - 1, n_prompts, 1, generator=generator, dtype=torch.float64)
        edges = self._edges
        row = torch.searchsorted(self.world.first.cumsum(0)[:-1].contiguous(), chances[0, :, 0], right=True)
        drawn = [row]
        for step in range(1, n_ctx - 1):
            usual = torch.searchsorted(edges[row], chances[step], right=True)
            given = output.gather(1, row[:, None])
            row = torch.where(given >= 0, given, usual)[:, 0]
            drawn.append(row)
        return with_bos(torch.stack(drawn, 1) + 1)

    def trigger_outputs(self, tokens: Int[Tensor, "prompt pos"]) -> Bool[Tensor, "prompt pos"]:
        """The positions whose next token the prompt has told: a trigger's that occurred before in it."""
        occurs = tokens[..., None] == self.world.triggers
        return (occurs & (occurs.cumsum(1) > 1)).any(-1)

    @cached_property
    def _edges(self) -> Float[Tensor, "token edge"]:
        return self.world.bigrams.cumsum(-1)[:, :-1].contiguous()


STREAMS: dict[str, type] = {
    "tiled": TiledBlocks,
    "scattered": ScatteredCopies,
    "zipfian": ZipfianTokens,
    "markov": MarkovChains,
    "triggers": TriggerBigrams,
}


def _check_shape(n_prompts: int, n_ctx: int, longest: int = 1) -> None:
    if n_prompts < 1 or n_ctx < 2:
        raise ValueError(f"A batch holds 1 prompt or more of 2 tokens or more, got {n_prompts=} and {n_ctx=}.")
    if longest > n_ctx - 1:
        raise ValueError(
            f"Blocks must fit behind BOS, got blocks of up to {longest} tokens and {n_ctx=}. Take a smaller `longest`."
        )


def _check_vocabulary(d_vocab: int, exponent: float = 0.0) -> None:
    if d_vocab < 2:
        raise ValueError(f"`d_vocab` must be 2 or more, BOS and a token, got {d_vocab}.")
    if not 0 <= exponent < math.inf:
        raise ValueError(f"`exponent` must be 0 (uniform) or more, got {exponent}.")


def _check_lengths(shortest: int, longest: int) -> None:
    if not 1 <= shortest <= longest:
        raise ValueError(f"Blocks have 1 token or more and `shortest` <= `longest`, got {shortest=} and {longest=}.")


def _check_concentration(concentration: float) -> None:
    if not 0 < concentration < math.inf:
        raise ValueError(f"`concentration` must be positive, got {concentration}.")
