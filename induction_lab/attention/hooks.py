"""The engine: exact attention probabilities at the price of a flash forward pass.

The probability that a head puts on key `j` from query `i` is `exp(scale * q_i . k_j - lse_i)`, where `lse_i`
is the log-sum-exp of row `i`. A flash kernel computes `lse` anyway, so attention runs once with a flash kernel
and afterwards any few (query, key) pairs can be read exactly, in O(pairs * d_head), without an n x n matrix.

Everything here is tensors in, tensors out. `attend` is what a model calls; `reading` installs the function that
sees every layer's attention while a model runs. Memory is O(n), except that rows asked for as `pattern` are
materialised, and a model that hands over an n x n mask (sliding windows, padding) has already paid for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from induction_lab.attention.exact import Attention, AttentionReading, LayerAttention, Mixed
from induction_lab.attention.kernels import attention_with_lse, with_columns
from induction_lab.attention.scopes import Scope, said

Reader = Callable[[AttentionReading], None]
Columns = Callable[[int, Tensor], Tensor]  # of a layer's number and values: what stands beside these
Edit = Callable[[LayerAttention], LayerAttention]  # one layer's attention in, what goes on in its place out


class Enough(Exception):
    """Ends a run early: raised by a reader or a hook that has seen all it wants, so that nothing further up runs.

    `read_attention`, `bridge_run` and `ResidualStreams` catch it.
    """


_READER, _COLUMNS = "reader", "columns"
_lasting: WeakKeyDictionary[nn.Module, tuple[Edit, ...]] = WeakKeyDictionary()


@contextmanager
def reading(reader: Reader, columns: Columns | None = None) -> Iterator[None]:
    """Call `reader` with every layer's attention that `attend` computes inside this context.

    Args:
        reader: What is called.
        columns: Given a layer's number and its values, a few columns `[batch, kv_head, key, column]`, of which the same
            pass takes the means by attention: `Attention.mixed`.
    """
    with Scope({_READER: reader, _COLUMNS: columns}):
        yield


@contextmanager
def editing(modules: Iterable[nn.Module], edit: Edit) -> Iterator[None]:
    """Let `edit` change what the attention of these modules passes on; of several edits the last one has its way."""
    with Scope(dict.fromkeys(modules, edit)):
        yield


def edit_for_good(modules: Iterable[nn.Module], edit: Edit) -> None:
    """Let `edit` change what these modules pass on as long as they live, before what others edit."""
    _lasting.update({module: (edit,) for module in modules})


def has_edits(module: nn.Module) -> bool:
    """Whether somebody is `editing` this module."""
    return bool(said(module))


def edited(attention: Any, owner: nn.Module | None) -> Any:
    """What a layer's attention is after the edits of its module; they may be asked more than once.

    An edit may run a model itself, to know what heads put out elsewhere: whoever is `reading` does not see that run.
    """
    edits = (*_lasting.get(owner, ()), *said(owner)) if owner is not None else ()
    if edits:
        with Scope({_READER: None, _COLUMNS: None}):
            for edit in edits:
                attention = edit(attention)
    return attention


def _last(of: str) -> Any:
    """What the innermost scope says of it; None where none does."""
    return next(reversed(said(of)), None)


def pass_on(attention: AttentionReading, owner: nn.Module | None = None) -> Float[Tensor, "batch head query d_head"]:
    """One layer's output: edited, shown to whoever is `reading`, returned."""
    attention = edited(attention, owner)
    if (reader := _last(_READER)) is not None:
        reader(attention)
    return attention.z


def attend(
    q: Float[Tensor, "batch head query d_key"],
    k: Float[Tensor, "batch kv_head key d_key"],
    v: Float[Tensor, "batch kv_head key d_head"],
    *,
    layer: int,
    scale: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
    owner: nn.Module | None = None,
) -> Float[Tensor, "batch head query d_head"]:
    """Causal attention; whoever is `reading` sees it. Returns `softmax(scale * q k^T) v` for every head, or its edit.

    Args:
        q: Queries, rotated already where the model rotates.
        k: Keys; fewer heads than `q` in grouped-query models.
        v: Values.
        layer: Told to the reader.
        scale: Multiplies the scores, usually `1 / sqrt(d_head)`.
        mask: Boolean (True: may attend) or additive, broadcastable to `[batch, head, query, key]`. It replaces
            the causal mask and must not allow keys after the query.
        softcap: Scores become `softcap * tanh(scores / softcap)` (Gemma 2).
        sinks: One extra score a head that takes probability and gives nothing (gpt-oss).
        owner: The module that attends, by which `editing` knows it.
    """
    how: dict[str, Any] = {"scale": scale, "mask": mask, "softcap": softcap, "sinks": sinks}
    if torch.compiler.is_compiling():  # nobody can look into a compiled network
        return attention_with_lse(q, k, v, **how)[0]
    mixed = None
    if (beside := _last(_COLUMNS)) is None:
        z, lse = attention_with_lse(q, k, v, **how)
    else:
        columns = beside(layer, v)
        z, lse, means = with_columns(q, k, v, columns, **how)
        mixed = Mixed(columns, means, lse, v)
    return pass_on(Attention(layer, q, k, v, z, lse, **how, mixed=mixed), owner)
