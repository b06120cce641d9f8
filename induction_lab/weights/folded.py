"""A model's weights with its norms folded in, each part made once and handed to whatever reads weights.

Folding a layer probes its norms with vectors and copies its weights; the rows of the stream run the model on every
token of its vocabulary. Functions of this package need the same parts again and again, so they take a `FoldedWeights`
where there is one, or the one that is shared around them, and make their own otherwise.

Where a norm stands in the stream itself (post-norm: `x -> norm(x + heads(x))`, as in GPT-1 and BERT), no basis is
common to all layers: what stands in the stream that enters one layer reaches another through all norms between. At
frozen scale that is one linear map for each pair of layers, the product of their centring and gains, and `layer` folds
it into the weights on either side. Each token's own scales divide all that comes this way alike, so they drop out of
ratios. The map follows the stream itself: what MLPs and other heads make of it on the way, and biases, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, partial
from itertools import chain
from operator import index
from pathlib import Path
from typing import SupportsIndex, TypeVar

from jaxtyping import Float
from torch import Tensor

from induction_lab.models.frozen_norms import folded_weights, stream_norms, unembedding_readers
from induction_lab.models.head_weights import HeadWeights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import as_model
from induction_lab.models.wiring.norms import FrozenNorm
from induction_lab.weights.rotary import relative_rotations
from induction_lab.weights.stream_sources import Source, stream_rows

Offset = SupportsIndex | range
Part = TypeVar("Part", bound=Tensor | Iterable[Tensor])


class FoldedWeights:
    """Weights as the residual stream meets them at frozen scale, from one moment of a model; biases are left out.

    >>> folded = FoldedWeights(load_model())                              # doctest: +SKIP
    >>> matching = qk_matching(folded.model, previous_token, folded=folded)  # doctest: +SKIP
    >>> copying = ov_copying(folded.model, folded=folded)                 # doctest: +SKIP

    What was made is kept up to `max_bytes` and made anew beyond that, so memory is bounded for large models. All of
    SmolLM2-135M takes 370 MB: 106 MB for its 30 layers, 113 MB each for `rows("embedding")` and `readers`, 40 MB for
    what composition asks of its heads. Training the model further does not change what is kept: make another one.

    Args:
        model: Any model whose projections are linear maps of the normalised stream.
        max_bytes: How much may be kept.
    """

    def __repr__(self) -> str:
        """Of which model, and how much of it is kept."""
        return f"FoldedWeights({self.model.name!r}, {self._bytes:,} of {self.max_bytes:,} bytes kept)"

    def __init__(self, model: HookedModel | str | Path, *, max_bytes: int = 2**30) -> None:
        """Nothing is folded before it is asked for."""
        self.model = as_model(model)
        self.max_bytes = max_bytes
        self._kept: dict[Hashable, Tensor | Iterable[Tensor]] = {}
        self._bytes = 0

    @classmethod
    def of(cls, model: HookedModel, folded: FoldedWeights | None = None) -> FoldedWeights:
        """The given folded weights; those that are `shared` of this model where none are given; else fresh ones.

        Raises:
            ValueError: If the given ones are another model's.
        """
        if folded is not None and folded.model is not model:
            raise ValueError(f"`folded` holds the weights of {folded.model.name}, not those of this {model.name}.")
        around = _SHARED.get()
        return folded or (around if around is not None and around.model is model else cls(model))

    @contextmanager
    def shared(self) -> Iterator[FoldedWeights]:
        """Within it, whatever is given no folded weights of this model reads these: scores among others.

        >>> with FoldedWeights(model).shared():                               # doctest: +SKIP
        ...     scores, values = score_heads(model, prompts), ov_eigenvalues(model)
        """
        before = _SHARED.set(self)
        try:
            yield self
        finally:
            _SHARED.reset(before)

    def layer(self, layer: int, *, start: int | None = None, end: int | None = None) -> HeadWeights:
        """`W_Q`, `W_K`, `W_V`, `W_O` of a layer, norms folded in (`models.frozen_norms.folded_weights`).

        Args:
            layer: Which.
            start: The layer that is entered by the stream which queries, keys and values are made of; by default this
                one. Only where norms stand in the stream does that change anything, and likewise `end`.
            end: The layer that is entered by the stream in which the output is looked for, `n_layers` for the end of
                all; by default the next one.

        Raises:
            ValueError: If the weights by head cannot be had, a norm is none that can be folded, or norms in the stream
                lie between what is asked for and a layer that is too early to read it.
        """
        W_Q, W_K, W_V, W_O = weights = self.once(("layer", layer), lambda: folded_weights(self.model, layer))
        start, end = layer if start is None else start, layer + 1 if end is None else end
        if not self._stream_norms or (start == layer and end == layer + 1):
            return weights
        if not start <= layer < end:
            raise ValueError(
                f"{self.model.name} normalises its stream in every layer, so heads of layer {layer} read what entered "
                f"it or an earlier layer, and are read in later ones: not from layer {start} to layer {end}."
            )
        W_Q, W_K, W_V = (self._back(W.mT, start, layer).mT for W in (W_Q, W_K, W_V))
        return HeadWeights(W_Q, W_K, W_V, self.carried(W_O, layer + 1, end))

    @cached_property
    def renormalises(self) -> bool:
        """Whether norms stand in the stream itself, so that each layer has a basis of its own."""
        return self.model.anatomy.renormalises

    @cached_property
    def _stream_norms(self) -> list[list[FrozenNorm]]:
        """The norms that stand in the stream itself, of every layer; none where it goes on as it is."""
        layers = range(self.model.n_layers) if self.renormalises else ()
        return [stream_norms(self.model, layer) for layer in layers]

    def carried(self, rows: Float[Tensor, "*rows d_model"], start: int, end: int) -> Float[Tensor, "*rows d_model"]:
        """Vectors in the stream that enters one layer, as they arrive in that which enters a later one; less biases."""
        for norm in chain.from_iterable(self._stream_norms[start:end]):
            rows = norm.apply(rows)
        return rows

    def _back(self, readers: Float[Tensor, "*rows d_model"], start: int, end: int) -> Float[Tensor, "*rows d_model"]:
        """Directions to read in at a later layer, as those that read the same in the stream that enters an earlier."""
        for norm in reversed(list(chain.from_iterable(self._stream_norms[start:end]))):
            readers = norm.fold(readers)
        return readers

    @property
    def readers(self) -> Float[Tensor, "d_vocab d_model"]:
        """The unembedding as rows, final norm and logit scale folded in (`models.frozen_norms.unembedding_readers`).

        Raises:
            ValueError: If the stream is projected before the unembedding.
        """
        return self.once("readers", partial(unembedding_readers, self.model))

    def rows(self, source: Source = "embedding") -> Float[Tensor, "row d_model"]:
        """What enters the residual stream for every token or position (`stream_rows`).

        Raises:
            ValueError: If the model has no such thing.
        """
        if source == "positions" and self.model.anatomy.positions_after_norm:
            raise ValueError(f"{self.model.name} adds its position vectors behind the norms, which never read them.")
        return self.once(("rows", source), lambda: stream_rows(self.model, source))

    def rotations(self, offset: Offset) -> Float[Tensor, "layer d_head d_head"]:
        """Each layer's rotation between query and key at an offset, or its mean over a range of offsets.

        Raises:
            ValueError: If an offset lies outside the context, or the rotation cannot be read off the model.
        """
        offsets = offset if isinstance(offset, range) else range(index(offset), index(offset) + 1)
        return self.once(("rotations", offsets), lambda: relative_rotations(self.model, offsets).mean(1))

    def once(self, name: Hashable, make: Callable[[], Part]) -> Part:
        """What `make` gives, kept under this name as long as there is room for it."""
        if name in self._kept:
            return self._kept[name]  # type: ignore[return-value]
        made = make()
        size = sum(part.nbytes for part in ([made] if isinstance(made, Tensor) else made))
        if self._bytes + size <= self.max_bytes:
            self._kept[name] = made
            self._bytes += size
        return made


_SHARED: ContextVar[FoldedWeights | None] = ContextVar("shared folded weights", default=None)
