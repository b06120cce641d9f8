"""What enters the residual stream: a vector for every token, or for every position.

    embedding   what a token puts into the stream before the first layer, as the architecture scales or normalises it
    effective   that plus what the first layer's MLP makes of it, `W_E + MLP0(W_E)`, attention left out: what later
                layers see of a token (many models tie `W_E` to `W_U`, and make a better embedding of it first)
    positions   learned position vectors, through a norm of the sum of both (BERT) at frozen scale

All are read off the model as it runs on single tokens, so its own norms, scales and parallel blocks are in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.hooks import Enough
from induction_lab.attention.scopes import Scope
from induction_lab.models.frozen_norms import positions_in_stream
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names

Source = Literal["embedding", "effective", "positions"]
_TOKENS_A_RUN = 8192


@takes_names
def stream_rows(model: HookedModel, source: Source = "embedding") -> Float[Tensor, "row d_model"]:
    """One row for every token of the vocabulary, or for every position.

    Raises:
        ValueError: If the model has no such thing: `positions` without learned ones, `effective` without an MLP.
    """
    if source not in get_args(Source):
        raise ValueError(f"`source` must be one of {', '.join(get_args(Source))}, got {source!r}.")
    if source == "positions":
        return _positions(model)
    if source == "effective" and not model.anatomy.has_mlps:
        raise ValueError(f"{model.name} has no MLP in its first layer, so no effective embedding; use 'embedding'.")
    return torch.cat([rows for _, rows in token_rows(model, source)])


def token_rows(
    model: HookedModel, source: Source
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, "row d_model"]]]:
    """Some tokens and a row for each, then the next ones, for vocabularies whose rows memory cannot hold."""
    vocabulary = torch.arange(model.d_vocab, device=model.device)
    return ((some, _run(model, some, source)) for some in vocabulary.split(_TOKENS_A_RUN))


def token_vectors(model: HookedModel, layer: int, tokens: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
    """What a layer's heads find of a token by itself: its embedding in layer 0, above its effective embedding.

    Where no MLP writes into the stream, the two are the same.
    """
    effective = layer > 0 and model.anatomy.has_mlps
    return _run(model, tokens.to(model.device), "effective" if effective else "embedding")


def _run(model: HookedModel, tokens: Int[Tensor, " row"], source: Source) -> Float[Tensor, "row d_model"]:
    """Each token alone, positions and the first layer's attention taken out."""
    anatomy = model.anatomy
    end = anatomy.blocks[0] if model.n_layers else anatomy.final_norm

    def remove(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    removed = [anatomy.position_module(), anatomy.attention_output(0) if source == "effective" else None]
    with Scope() as scope:
        for module in removed:
            if module is not None:
                scope.after(module, remove)
        return _seen(model, tokens[:, None], end, entering=source == "embedding")[:, 0].to(model.wide)


def _positions(model: HookedModel) -> Float[Tensor, "row d_model"]:
    module = model.anatomy.position_module()
    if module is None or model.n_ctx is None:
        raise ValueError(
            f"{model.name} has no position vectors. For rotary models ask for an offset instead: "
            "qk_circuit(…, offset=1), positional_preference(model, offsets)."
        )
    tokens = torch.full((1, model.n_ctx), model.bos_token_id, device=model.device)
    if isinstance(module, nn.Embedding):  # which may not count from its first row (RoBERTa, OPT)
        first = (module.weight == _seen(model, tokens[:, :1], module).flatten(0, -2)).all(-1).nonzero()[:1]
        tokens = tokens[:, : len(module.weight) - int(first)]
    return positions_in_stream(model, _seen(model, tokens, module).flatten(0, -2).to(model.wide))


def _seen(model: HookedModel, tokens: Int[Tensor, "batch pos"], module: nn.Module, *, entering: bool = False) -> Tensor:
    """What a module gives, or what enters it, when the model runs."""
    kept: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        seen = (args[0] if args else kwargs["hidden_states"]) if entering else output
        kept.append(seen[0] if isinstance(seen, tuple | list) else seen)
        raise Enough

    with Scope() as scope, suppress(Enough):
        if entering:
            scope.before(module, stop, with_kwargs=True, prepend=True)
        else:
            scope.after(module, stop, with_kwargs=True)
        model.hidden(tokens)
    return kept[0]
