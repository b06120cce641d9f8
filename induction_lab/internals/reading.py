"""Run a model once and see every layer's attention as it passes, whatever the architecture.

Three routes, one result: transformers models that go through its attention interface run on the engine, an
`AttentionOnlyTransformer` calls the engine itself, and architectures outside the interface (BLOOM, GPT-J, GPT-Neo, MPT,
CodeGen, …) hand over one layer's matrix at a time, through TransformerLens' hooks or, where it has none, off the
product of probabilities and values that they make themselves. The numbers are the same; only the last route needs
O(n^2) memory, for one layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import TorchFunctionMode

from induction_lab.attention.exact import AttentionReading, MaterialisedAttention
from induction_lab.attention.hooks import Columns, Enough, Reader, attend, reading
from induction_lab.attention.scopes import Scope
from induction_lab.internals.bridge_hooks import bridge_run
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.wiring.attending import attending, refuse_own_attention
from induction_lab.models.wiring.watching import PRODUCTS
from induction_lab.results.heads import Head, HeadLike, parse_heads

ENGINE = "induction_lab"
_attending: WeakKeyDictionary[HookedModel, list[int]] = WeakKeyDictionary()


StreamReader = Callable[[int, Tensor], None]


class StreamEnd(NamedTuple):
    """The end of the residual stream: before and after the last normalisation; None where it was not reached."""

    final: Float[Tensor, "batch pos d_model"] | None
    normalised: Float[Tensor, "batch pos d_model"] | None


def read_attention(
    model: HookedModel,
    tokens: Int[Tensor, "batch pos"],
    reader: Reader,
    *,
    final: bool = False,
    enter: StreamReader | None = None,
    columns: Columns | None = None,
) -> StreamEnd:
    """Run `model` up to the unembedding and show `reader` each layer's attention, in order.

    Args:
        model: Any supported model.
        tokens: Prompts of one length; padding on the right is harmless.
        reader: Called once a layer; may raise `Enough` to stop there.
        final: Whether the stream before the last normalisation is wanted too.
        enter: Shown the number of each layer and the residual stream before it, ahead of its attention.
        columns: What the same pass takes the means of, see `hooks.reading`; where a matrix is handed over, nothing.

    Raises:
        ValueError: If the model's attention can be reached on no route or is not causal, or if a layer below the last
            one run showed none.
    """
    seen: list[int] = []

    def counting(attention: AttentionReading) -> None:
        seen.append(attention.layer)
        reader(attention)

    route = _route(model)
    if route is _by_engine:
        stream = _by_engine(model, tokens, counting, final, enter, columns)
    else:
        stream = route(model, tokens, counting, final, enter)
    n_layers = model.n_layers if stream.normalised is not None else seen[-1] + 1
    if model.anatomy.calls_engine:  # which shows a layer again where its pattern was hooked
        seen = list(dict.fromkeys(seen))
    if seen != list(range(n_layers)):
        expected = [layer for layer in attention_layers(model) if layer < n_layers]
        if seen != expected:
            raise ValueError(f"Layers {expected} of {model.name} attend, but {seen} showed their attention.")
    elif n_layers == model.n_layers:
        _attending.setdefault(model, seen)
    return stream


def attention_layers(model: HookedModel) -> list[int]:
    """The layers that attend by a softmax: all, but for hybrids, whose other layers have no heads that look anywhere.

    Raises:
        ValueError: If there is none, or a layer runs more than once.
    """
    if model not in _attending:
        seen: list[int] = []
        tokens = torch.full((1, 2), model.bos_token_id)
        _route(model)(model, tokens, lambda attention: seen.append(attention.layer))
        kind = type(model.network).__name__
        if not seen:
            if _route(model) is _by_products:
                _ = model.hooked  # says why TransformerLens has no hooks, which would have shown them
            raise ValueError(f"No layer of {kind} showed softmax attention, so there are no heads to score.")
        if seen != sorted(set(seen)) or seen[-1] >= model.n_layers:
            raise ValueError(f"{kind} runs its {model.n_layers} layers in the order {seen}; each once is supported.")
        _attending[model] = seen
    return _attending[model]


def heads_of(model: HookedModel, heads: HeadLike | Iterable[HeadLike]) -> list[Head]:
    """Read one head of a model or many (`parse_heads`).

    Raises:
        ValueError: If one cannot be read, is not there, or is given twice; or if its layer does not attend.
    """
    found = parse_heads(heads, n_layers=model.n_layers, n_heads=model.n_heads)
    layers = attention_layers(model) if found else []
    absent = [head for head in found if head.layer not in layers]
    if absent:
        raise ValueError(f"{absent[0]} is not there: layers {layers} of {model.name} attend, the others have no heads.")
    return found


@contextmanager
def on_engine(model: HookedModel) -> Iterator[None]:
    """Let a transformers model attend with the engine inside the context, and as before afterwards."""
    if not model.anatomy.attention_configs:
        yield
        return
    from transformers.masking_utils import sdpa_mask

    refuse_own_attention(model.anatomy.attention_configs, model.name)
    with attending(model.anatomy.attention_configs, ENGINE, _transformers_attention, sdpa_mask):
        yield


def _transformers_attention(
    module: Any,
    query: Float[Tensor, "batch head query d_key"],
    key: Float[Tensor, "batch kv_head key d_key"],
    value: Float[Tensor, "batch kv_head key d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch query head d_head"], None]:
    """The engine in the form that transformers calls."""
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if not causal and attention_mask is None:
        raise ValueError(
            f"{type(module).__name__} is not causal: it attends to later tokens, and scores are for causal attention."
        )
    if position_bias is not None:
        raise ValueError(f"{type(module).__name__} adds a position bias to its scores, which is not supported.")
    z = attend(
        query,
        key,
        value,
        layer=module.layer_idx,
        scale=query.shape[-1] ** -0.5 if scaling is None else float(scaling),
        mask=attention_mask,
        softcap=softcap,
        sinks=s_aux,
        owner=module,
    )
    return z.transpose(1, 2).contiguous(), None


def _route(model: HookedModel) -> Callable[..., StreamEnd]:
    if model.anatomy.goes_through_interface:
        return _by_engine
    return _by_products if model.bridge is None else _by_hooks


def _by_engine(
    model: HookedModel,
    tokens: Tensor,
    reader: Reader,
    final: bool = False,
    enter: StreamReader | None = None,
    columns: Columns | None = None,
) -> StreamEnd:
    kept: list[Tensor] = []
    normalised = None
    with Scope() as scope, suppress(Enough), torch.inference_mode(), reading(reader, columns), on_engine(model):
        if final:
            scope.before(model.final_norm, lambda _, inputs: kept.append(inputs[0]))
        if enter is not None:
            for layer, block in enumerate(model.anatomy.blocks):
                scope.before(block, _entering(enter, layer, tokens.shape), with_kwargs=True)
        normalised = model.hidden(tokens)
    return StreamEnd(kept[0] if kept else None, normalised)


def _entering(enter: StreamReader, layer: int, shape: torch.Size) -> Callable[..., None]:
    """Show what enters a block the first time: one on disk may be run on probes while its attention is read."""
    shown = False

    def show(_: Any, args: Any, kwargs: Any) -> None:
        nonlocal shown
        stream = args[0] if args else kwargs["hidden_states"]
        if not shown and stream.shape[:2] == shape:
            shown = True
            enter(layer, stream)

    return show


def _by_hooks(
    model: HookedModel, tokens: Tensor, reader: Reader, final: bool = False, enter: StreamReader | None = None
) -> StreamEnd:
    """One layer's matrix at a time, read and thrown away."""
    end: dict[str, Tensor] = {}

    def keep_final(stream: Tensor, hook: Any) -> None:
        end["final"] = stream

    def stop(_: Any, inputs: tuple[Tensor, ...]) -> None:
        end["normalised"] = inputs[0]
        raise Enough

    hooks = _matrix_hooks(model, reader)
    if final:
        hooks.append((f"blocks.{model.n_layers - 1}.hook_resid_post", keep_final))
    if enter is not None:
        show = enter  # which is not None in the hooks either
        shown = (f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers))
        hooks += [(name, lambda stream, hook: show(hook.layer(), stream)) for name in shown]
    with Scope() as scope, bridge_run(model) as bridge:
        scope.before(bridge.unembed, stop)
        bridge.run_with_hooks(tokens.to(model.device), fwd_hooks=hooks)
    return StreamEnd(end.get("final"), end.get("normalised"))


def _by_products(
    model: HookedModel, tokens: Tensor, reader: Reader, final: bool = False, enter: StreamReader | None = None
) -> StreamEnd:
    """One layer's matrix at a time, off the product of probabilities and values in its block."""
    kept: list[Tensor] = []
    normalised = None
    tokens = tokens.to(model.device)
    seeing = _SeeingProducts(reader, (len(tokens), tokens.shape[1], model.n_heads))
    with Scope() as scope, suppress(Enough), torch.inference_mode():
        for layer in model.anatomy.attending:
            scope.before(model.anatomy.blocks[layer], lambda *_, layer=layer: seeing.enter(layer))
        if final:
            scope.before(model.final_norm, lambda _, inputs: kept.append(inputs[0]))
        if enter is not None:
            for layer, block in enumerate(model.anatomy.blocks):
                scope.before(block, _entering(enter, layer, tokens.shape), with_kwargs=True)
        with seeing:
            normalised = model.hidden(tokens)
    return StreamEnd(kept[0] if kept else None, normalised)


class _SeeingProducts(TorchFunctionMode):
    """Shows a reader the first product of probabilities and values that is made after a block was entered.

    Args:
        reader: Called once a layer.
        shape: Prompts, positions and heads.
    """

    def __init__(self, reader: Reader, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.reader, self.shape, self._layer = reader, shape, None

    def enter(self, layer: int) -> None:
        """What comes next is this layer's."""
        self._layer = layer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if self._layer is None or getattr(func, "__name__", "") not in PRODUCTS:
            return made
        batch, n_pos, n_heads = self.shape
        tensors = [x for x in args if isinstance(x, Tensor)]
        if len(tensors) == 2 and tensors[0].shape[-2:] == (n_pos, n_pos) and _are_probabilities(tensors[0]):
            pattern, v, z = (x.reshape(batch, -1, n_pos, x.shape[-1]) for x in (*tensors, made))
            layer, self._layer = self._layer, None
            if pattern.shape[1] != n_heads or v.shape[1] != n_heads:
                raise ValueError(
                    f"Layer {layer} multiplies probabilities of {pattern.shape[1]} heads, not of {n_heads}."
                )
            self.reader(MaterialisedAttention(layer, pattern, v, z))
        return made


def _are_probabilities(rows: Tensor) -> bool:
    return bool((rows >= 0).all()) and bool(((rows.sum(-1) - 1).abs() < 1e-3).all())


def _matrix_hooks(model: HookedModel, reader: Reader) -> list[tuple[str, Callable[..., None]]]:
    half: dict[int, dict[str, Tensor]] = {layer: {} for layer in range(model.n_layers)}
    hooks: list[tuple[str, Callable[..., None]]] = []
    for layer in range(model.n_layers):
        for name in ("v", "pattern", "z"):  # in this order in some bridges, in another in others

            def keep(tensor: Tensor, hook: Any, layer: int = layer, name: str = name) -> None:
                half[layer][name] = tensor
                if len(half[layer]) == 3:
                    all_ = half.pop(layer)
                    v, z = all_["v"].transpose(1, 2), all_["z"].transpose(1, 2)
                    reader(MaterialisedAttention(layer, all_["pattern"], v, z))

            hooks.append((f"blocks.{layer}.attn.hook_{name}", keep))
    return hooks
