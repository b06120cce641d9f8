"""Queries, keys and values that are made in several steps with norms between (multi-head latent attention), as linear.

DeepSeek's and its like's keys and values are a short vector times a matrix for all heads, and that vector is
normalised on the way; a part of each key goes round that norm. No module gives what attention is given, so the layer is
run on vectors that are put in the place of what its attention reads. With the norms inside held at a scale all is
linear, which is proven on random vectors, and that nothing but the vector where a token stands is read.

A norm before attention divides all that a head reads by one number, which weights leave out. A norm inside the
attention divides one part of a key and not the other, so its number cannot be left out. It is held at the root mean
square, over directions of the stream, of the size that a direction has there: what the norm would divide by on average
if the stream were white noise.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.scopes import Scope, outside
from induction_lab.models.wiring.norms import frozen_norm
from induction_lab.models.wiring.projections import alike
from induction_lab.models.wiring.watching import AttentionCall, attention_calls

_ROWS_A_RUN, _PROVEN = 1024, 4


class _Seen(Exception):
    """Ends a run behind the layer that was asked for."""


class Latents:
    """What one layer attends with, of any vectors.

    Args:
        network: Whose.
        run: Runs it on tokens `[1, pos]`, up to the unembedding.
        attention: The layer's module that attends.
        configs: Configurations in which modules look up how to attend.
        tokens: Two of the vocabulary.
        name: How to call the layer.
    """

    def __init__(
        self,
        network: nn.Module,
        run: Callable[[Tensor], Any],
        attention: nn.Module,
        configs: list[Any],
        tokens: Int[Tensor, "1 2"],
        name: str,
    ) -> None:
        """Nothing is run yet."""
        self._network, self._run, self._attention, self._configs = network, run, attention, configs
        self._tokens, self._name = tokens, name

    def given(self, read: Float[Tensor, "row d_model"]) -> AttentionCall:
        """The queries, keys and values `[row, head, width]` that the layer makes of these normalised vectors."""
        with outside():
            parts = [self._given(rows[:, None], self._tokens[:, :1]) for rows in read.split(_ROWS_A_RUN)]
        return AttentionCall(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def linear(self, directions: Float[Tensor, "row d_model"]) -> AttentionCall:
        """How queries, keys and values `[row, head, width]` change along directions, inner norms held, biases out.

        Args:
            directions: What the norm before attention makes of each direction of the stream, its scale left out.

        Raises:
            ValueError: If they are not linear, or made of something else beside the vector.
        """
        n, generator = len(directions), torch.Generator().manual_seed(0)
        mixed = torch.randn(_PROVEN, n, generator=generator).to(directions) / n**0.5
        rows = torch.cat([torch.zeros_like(directions[:1]), directions, mixed @ directions])
        with outside(), Scope() as scope:
            held = _Held(n)
            for module in self._attention.modules():
                if module is not self._attention and next(module.children(), None) is None:
                    scope.after(module, held)
            found = self._given(rows[:, None], self._tokens[:, :1])
        parts = [(x[1:] - x[:1]).split([n, _PROVEN]) for x in found]
        linear = all(x.any() and alike(m, torch.einsum("mr,r...->m...", mixed, x)) for x, m in parts)
        if not linear or not self._reads_its_place(directions):
            raise ValueError(
                f"{self._name} makes its queries, keys or values in a way that is not linear in the normalised stream, "
                "even with norms held at their scale (it is gated, shared with another layer or mixed with something "
                "else), so weights by head cannot be had of it. Scores that read where heads look can."
            )
        return AttentionCall(*(x for x, _ in parts))

    def _reads_its_place(self, like: Float[Tensor, "row d_model"]) -> bool:
        """Whether what stands at other places, and which tokens they are, makes no difference."""
        generator = torch.Generator().manual_seed(1)
        one, other, own = torch.randn(3, like.shape[1], generator=generator).to(like)
        with outside():
            before = self._given(torch.stack([one, own])[None], self._tokens)
            after = self._given(torch.stack([other, own])[None], self._tokens.flip(1))
        return all(alike(*pair) for pair in zip(before, after, strict=True))

    def _given(self, read: Float[Tensor, "row pos d_model"], tokens: Int[Tensor, "1 pos"]) -> AttentionCall:
        """Run the network up to the layer, which reads these vectors; what it attends with at the last place."""

        def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if "hidden_states" in kwargs:
                return args, {**kwargs, "hidden_states": read}
            return (read, *args[1:]), kwargs

        def end(*_: Any) -> None:
            raise _Seen

        with attention_calls(self._network, self._configs) as calls, Scope() as scope, suppress(_Seen):
            scope.before(self._attention, replace, with_kwargs=True)
            scope.after(self._attention, end)
            try:
                self._run(tokens)
            except (RuntimeError, TypeError) as error:
                raise ValueError(f"{self._name} does not run on vectors alone ({error}).") from error
        return calls[self._attention][0]


class _Held:
    """A hook that lets norms divide by one number, that of a stream of independent directions, whatever they read.

    They read a row for the zero vector, one for each direction, and others.
    """

    def __init__(self, n_directions: int) -> None:
        self._n, self._probing = n_directions, False

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
        x = args[0] if len(args) == 1 else None
        if self._probing or not (isinstance(x, Tensor) and isinstance(output, Tensor) and x.shape == output.shape):
            return None
        self._probing = True
        try:
            frozen = frozen_norm(module, x.shape[-1], like=x) if self._normalises(module, x, output) else None
        except ValueError:  # what is left as it is, is not linear
            frozen = None
        finally:
            self._probing = False
        if frozen is None:
            return None
        x = x.to(frozen.gain)
        x = x - x.mean(-1, keepdim=True) if frozen.centred else x
        along = x[1 : 1 + self._n] - x[:1]
        scale = along.square().sum(0).mean(-1, keepdim=True).sqrt()
        return (x * frozen.gain / torch.where(scale > 0, scale, 1.0) + frozen.bias).to(output.dtype)

    def _normalises(self, module: nn.Module, x: Tensor, output: Tensor) -> bool:
        """Whether vectors of other lengths are normalised to the same."""
        rows, given = 16 * x[-_PROVEN:], output[-_PROVEN:]
        return not alike(given, x[-_PROVEN:]) and bool((module(rows) - given).abs().max() < 0.1 * given.abs().max())
