"""The projections and norms of a layer, found by what flows through its modules, whatever they are called.

A few single tokens are run (`wiring.watching`). The projection of queries, keys or values is the module whose output,
cut into heads in one of the known layouts, is what attention was given; a module between the two that keeps the shape
is a norm of heads. The output projection is the module that gives what attention as a whole gives. All read one vector,
which must be the residual stream or what one module, the norm before attention, makes of it; and what they write must
be added to the stream, which goes on as it is or through norms that are found too (GPT-1, BERT). Whatever is found is
thereby proven on these tokens; whatever is not is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from induction_lab.models.wiring.watching import AttentionCall, Passed, Watched

Flow = dict[nn.Module, Passed]
_WORDS = {"q": "queries", "k": "keys", "v": "values"}
RENORMALISED = ValueError("does not add what its heads write to a residual stream that goes on as it is")


class Layout(NamedTuple):
    """Where the heads of queries, keys or values lie in the output of a module: `output.unflatten(shape)[index]`."""

    shape: tuple[int, ...]
    index: tuple[slice | int, ...]

    def cut(self, rows: Tensor) -> Tensor:
        """`[width, …]` to `[head, d_head, …]`."""
        heads = rows.unflatten(0, self.shape)[self.index]
        return heads.flatten(0, 1) if heads.ndim > rows.ndim + 1 else heads


class Projection(NamedTuple):
    """A module that makes vectors of heads, and where they lie in its output; or one that reads heads (no layout)."""

    module: nn.Module
    layout: Layout | None


class LayerParts(NamedTuple):
    """One layer's parts, or the reason why one cannot be had.

    Attributes:
        projections: By `q`, `k`, `v`, `o`.
        head_norms: Norms of heads, by component; `z` between the heads and the output projection.
        norm_before: The norm before attention; `nn.Identity` where there is none.
        norm_after: The norm of what the heads write together, if there is one.
        has_mlp: Whether the block writes anything beside what its heads write.
        gated: Whether the output projection reads the heads' outputs times something that depends on the stream.
        width: Of what the output projection reads.
        widths: Of queries and keys, and of values.
        apart: Why what the heads write cannot be followed through a residual stream, if so.
        stream_norms: The norms that the whole stream goes through between the sum with what the heads write and the
            block's end, in order (post-norm); none where it goes on as it is.
    """

    projections: dict[str, Projection | ValueError]
    head_norms: dict[str, nn.Module | None]
    norm_before: nn.Module | ValueError
    norm_after: nn.Module | None
    has_mlp: bool
    gated: bool
    width: int
    widths: tuple[int, int]
    apart: ValueError | None
    stream_norms: tuple[nn.Module, ...] = ()


def layer_parts(
    watched: Watched, block: nn.Module, attention: nn.Module, *, n_kv_heads: int, factor: float
) -> LayerParts:
    """Find the parts of a layer.

    Args:
        watched: A run on a few single tokens.
        block: The layer.
        attention: Its module that attends.
        n_kv_heads: Key-value heads, of which modules that attend by themselves may make copies.
        factor: What the layer's output is multiplied by before it enters the stream.
    """
    inside = _once(watched, attention)
    whole = _once(watched, block)
    if block not in whole or attention not in whole:
        reason = ValueError("is not run once on each token of one residual stream")
        return LayerParts(dict.fromkeys(("o", "q", "k", "v"), reason), {}, reason, None, True, False, 0, (0, 0), reason)
    around: Flow = {m: passed for m, passed in whole.items() if m not in set(attention.modules())}
    call = _grouped(watched.calls[attention][0], n_kv_heads)
    read, stream = whole[attention].read, whole[block].read
    z = _outputs(call)
    if same(whole[attention].gave, z):  # as BERT's, whose output projection stands behind the module that attends
        found_o = _behind(around, z)
    else:
        found_o = _output(inside, attention, whole[attention].gave, stream)
    written = whole[attention].gave if isinstance(found_o, ValueError) else whole[found_o].gave
    changes = (m for m, p in around.items() if same(p.read, written) and not same(p.gave, written))
    norm_after = next((m for m in changes if _keeps_shape(m)), None)
    added = written if norm_after is None else around[norm_after].gave
    projections: dict[str, Projection | ValueError] = {}
    head_norms: dict[str, nn.Module | None] = {}
    gated = False
    apart, behind = None, _Behind((), None)
    if isinstance(found_o, ValueError):
        projections["o"] = found_o
    else:
        head_norms["z"], gated = _between(inside, z, whole[found_o].read)
        projections["o"] = Projection(found_o, None)
        apart = _adds_up(whole[block], around, added * factor, factor)
        if apart is not None and norm_after is None and factor == 1:
            behind = _renormalised(whole[block], around, added)
            apart = None if behind.norms else apart
    within = {m: passed for m, passed in inside.items() if m is not attention}  # which may give values as they are
    for component, (maker, norm) in _by_flow(within, call).items():
        head_norms[component] = norm
        if maker is not None and not same(inside[maker.module].read, read):
            maker = None
        projections[component] = maker or ValueError(
            f"makes its {_WORDS[component]} in a way that is not one linear map of the normalised stream "
            "(of low rank, shared with another layer, or mixed with something else)"
        )
    before = _norm_before(around, stream, read)
    has_mlp = stream.shape != added.shape or not same(whole[block].gave, stream + added * factor)
    has_mlp = has_mlp if behind.has_mlp is None else behind.has_mlp
    width = 0 if isinstance(found_o, ValueError) else whole[found_o].read.shape[1]
    widths = call.q.shape[-1], call.v.shape[-1]
    return LayerParts(projections, head_norms, before, norm_after, has_mlp, gated, width, widths, apart, behind.norms)


def _once(watched: Watched, within: nn.Module) -> Flow:
    """What passed through a module and those in it that ran exactly once on all tokens, from the outside in."""
    ran = {m: passed[0] for m in within.modules() if len(passed := watched.passed.get(m, ())) == 1}
    return {m: passed for m, passed in ran.items() if len(passed.read) == len(watched.end)}


def _by_flow(inside: Flow, call: AttentionCall) -> dict[str, tuple[Projection | None, nn.Module | None]]:
    """The projection that makes what attention was given, and the norm of heads behind it."""
    found = {}
    shape = (call.q.shape[1], call.k.shape[1], call.q.shape[2], call.v.shape[2])
    for component in ("q", "k", "v"):
        target = getattr(call, component)
        layouts = list(_layouts(component, *shape))
        maker = _maker(inside, target, layouts)
        if maker is None and component != "v":
            maker = _maker(inside, target, layouts, rescaled=True)
        norm = None
        if maker is not None:
            heads = inside[maker.module].read
            under = _maker(inside, heads.view_as(target), layouts) if heads.shape == target.flatten(1).shape else None
            if under is not None and under.module is not maker.module:
                maker, norm = (under, maker.module) if _keeps_shape(maker.module) else (None, None)
        found[component] = (maker, norm)
    return found


def _maker(inside: Flow, target: Tensor, layouts: list[Layout], *, rescaled: bool = False) -> Projection | None:
    """The module whose output, cut into heads, is the target `[token, head, d_head]` up to a factor.

    One factor for all; or, `rescaled`, one for each token and head, as a norm without a gain brings it about.
    """
    for module, passed in inside.items():
        if getattr(module, "out_features", passed.gave.shape[1]) != passed.gave.shape[1]:
            continue  # it makes several vectors of a token (ProphetNet)
        for layout in layouts:
            if torch.Size(layout.shape).numel() != passed.gave.shape[1] or same(passed.gave, passed.read):
                continue
            ours = layout.cut(passed.gave.mT).movedim(-1, 0).to(torch.promote_types(passed.gave.dtype, torch.float32))
            over = (-1,) if rescaled else (0, 1, 2)
            factor = (target * ours).sum(over, keepdim=True) / ours.square().sum(over, keepdim=True)
            factor = factor.nan_to_num(nan=1.0)  # heads that are zero throughout
            if (factor > 0).all() and alike(target, (factor * ours).to(passed.gave.dtype)):
                return Projection(module, layout)
    return None


def _layouts(component: str, n_heads: int, n_kv_heads: int, d_key: int, d_value: int) -> Iterator[Layout]:
    """Where a component's heads may lie in the output of a projection, alone or with other components."""
    mine = n_heads if component == "q" else n_kv_heads
    d, every, at = d_value if component == "v" else d_key, slice(None), "qkv".index(component)
    yield Layout((mine, d), (every,))
    if d_key != d_value:
        return
    group = n_heads // n_kv_heads
    starts = (0, n_heads, n_heads + n_kv_heads)
    yield Layout((n_heads + 2 * n_kv_heads, d), (slice(starts[at], starts[at] + mine),))  # GPT-2, Phi-3
    yield Layout((n_kv_heads, group + 2, d), (every, slice(0, group) if at == 0 else group + at - 1))  # NeoX, Falcon
    if group == 1 and n_heads % 4 == 0:
        yield Layout((4, 3, n_heads // 4, d), (every, (0, 2, 1)[at]))  # CodeGen
    if at == 0:  # queries and their gates: Qwen 3.5
        yield Layout((n_heads, 2, d), (every, 0))
        yield Layout((2 * n_heads, d), (slice(0, n_heads),))
    else:  # keys and values
        yield Layout((2 * n_kv_heads, d), (slice((at - 1) * mine, at * mine),))
        yield Layout((n_kv_heads, 2, d), (every, at - 1))


def _output(inside: Flow, attention: nn.Module, gave: Tensor, stream: Tensor) -> nn.Module | ValueError:
    """The module in attention that gives what attention gives, to which BLOOM has added the stream already."""
    for module, passed in inside.items():
        if module is not attention and same(passed.gave, gave) and not same(passed.read, gave):
            return module
    for module, passed in inside.items() if gave.shape == stream.shape else ():
        if module is not attention and alike(passed.gave, gave - stream, scale=gave):
            return module
    return ValueError("has no one projection of what its heads put out")


def _behind(around: Flow, z: Tensor) -> nn.Module | ValueError:
    """The module that reads what the heads put out, where the module that attends gives it as it is."""
    for module, passed in around.items():
        if same(passed.read, z) and not _keeps_shape(module) and next(module.children(), None) is None:
            return module
    return ValueError("has no one projection of what its heads put out")


def _grouped(call: AttentionCall, n_kv_heads: int) -> AttentionCall:
    """Keys and values once for each group of query heads, where they were repeated for every query head (Falcon)."""
    step = call.k.shape[1] // n_kv_heads
    if step < 2 or call.k.shape[1] != call.q.shape[1]:
        return call
    k, v = call.k[:, ::step], call.v[:, ::step]
    repeated = same(k.repeat_interleave(step, 1), call.k) and same(v.repeat_interleave(step, 1), call.v)
    return AttentionCall(call.q, k, v) if repeated else call


def _outputs(call: AttentionCall) -> Tensor:
    """What the heads put out for a token that attends to itself, side by side."""
    return call.v.repeat_interleave(call.q.shape[1] // call.v.shape[1], 1).flatten(1)


def _between(inside: Flow, z: Tensor, read: Tensor) -> tuple[nn.Module | None, bool]:
    """The norm between what heads put out and what the output projection reads, and whether a gate is there instead."""
    if z.shape == read.shape and same(z, read):
        return None, False
    for module, passed in inside.items():
        if same(passed.read, z) and same(passed.gave, read):
            return module, False
    return None, True


def _keeps_shape(module: nn.Module) -> bool:
    """Whether it has no matrices, as norms have none."""
    return all(parameter.ndim < 2 for parameter in module.parameters())


def _norm_before(around: Flow, stream: Tensor, read: Tensor) -> nn.Module | ValueError:
    if same(stream, read):
        return nn.Identity()
    for module, passed in around.items():
        if same(passed.read, stream) and same(passed.gave, read):
            return module
    return ValueError("reads something else than its normalised residual stream")


def _adds_up(block: Passed, around: Flow, added: Tensor, factor: float) -> ValueError | None:
    """Whether what heads write is added to a stream that goes on as it is: a reason, if not."""
    if not block.read.shape == block.gave.shape == added.shape:
        return ValueError("keeps a residual stream of another width than what its heads write")
    middle = block.read + added
    rest = block.gave - middle
    inner = [passed for passed in around.values() if passed is not block and not same(passed.gave, passed.read)]
    explained = alike(block.gave, middle) or any(alike(p.gave * factor, rest, scale=middle) for p in inner)
    read_between = any(alike(passed.read, middle) for passed in inner)
    for passed in inner:  # what another mixer wrote beside the heads is read too (Falcon-H1)
        beside = passed.read - middle if passed.read.shape == middle.shape else middle
        read_between |= any(alike(p.gave * factor, beside, scale=middle) for p in inner)
    rewritten = any(same(passed.gave, block.gave) for passed in inner)
    if explained or (read_between and not rewritten):
        return None
    return RENORMALISED


class _Behind(NamedTuple):
    """The norms of a stream behind the sum with what heads write; and whether anything else is added, if known."""

    norms: tuple[nn.Module, ...]
    has_mlp: bool | None


def _renormalised(block: Passed, around: Flow, added: Tensor) -> _Behind:
    """Follow the stream from the sum to the block's end, from norm to norm, one other module adding to it at a time."""
    inner = {m: p for m, p in around.items() if p is not block and not same(p.gave, p.read)}
    norms, has_mlp, stream = list[nn.Module](), False, block.read + added
    while not same(stream, block.gave):
        for norm, passed in inner.items():
            if norm in norms or not _keeps_shape(norm) or passed.read.shape != stream.shape:
                continue
            rest = passed.read - stream
            beside = not alike(passed.read, stream)
            if not beside or any(alike(p.gave, rest, scale=passed.read) for p in inner.values()):
                norms, has_mlp, stream = [*norms, norm], has_mlp or beside, passed.gave
                break
        else:
            return _Behind((), None)
    return _Behind(tuple(norms), has_mlp)


def same(actual: Tensor, expected: Tensor) -> bool:
    """Whether one is the other, perhaps in another number format."""
    if actual.dtype == expected.dtype or actual.shape != expected.shape:
        return torch.equal(actual, expected)
    return _close(actual, expected, 1.0, expected)


def alike(actual: Tensor, expected: Tensor, *, scale: Tensor | None = None) -> bool:
    """Whether they are equal up to the rounding of a few operations, of the largest."""
    return actual.shape == expected.shape and _close(actual, expected, 4.0, expected if scale is None else scale)


def _close(actual: Tensor, expected: Tensor, roundings: float, scale: Tensor) -> bool:
    wide = torch.promote_types(torch.promote_types(actual.dtype, expected.dtype), torch.float32)
    coarsest = max(torch.finfo(x.dtype).eps for x in (actual, expected, scale))
    tolerance = max(1e-5, roundings * coarsest) * scale.to(wide).abs().max()
    return bool(((actual.to(wide) - expected.to(wide)).abs().max() <= tolerance).item())
