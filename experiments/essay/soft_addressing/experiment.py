"""Is attention soft, content-based addressing?

    python -m experiments soft_addressing

The formula: softmax(Q K^T / sqrt(d_k)) V, written out, against what the model's own heads put out. The softness: from
how many addresses heads read, BOS apart; what is lost when they read from BOS and their k best others alone. Matches:
what weight induction heads put on a key that matches, what the largest is where none does, against the score's margin;
and what the loss becomes when softmax(beta * scores) is flattened (beta = 0), sharpened or made an argmax (beta = inf).
The table: pairs of a key and a value in the context; when a key is given again, is its address found, and does its
value come back? Writes to figures/: soft_addressing.csv, soft_addressing.json (verdicts), soft_addressing.png. 4
minutes on one CPU core.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from experiments.essay.of_models import Least, on_models
from experiments.essay.passages import MODELS, same_layers
from experiments.essay.prose import read_prose
from experiments.essay.soft_addressing.conclusions import N, verdicts
from experiments.essay.soft_addressing.figure import draw
from experiments.essay.soft_addressing.lookups import fits, looked_up, lookups
from experiments.subjects.induction_models import LOOKS, Subject, subject
from induction_lab import AttentionOnlyTransformer, Head, HookedModel, Prompts, ablate, capture, temper, text_prompts
from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.attention.grouped import to_query_heads
from induction_lab.behaviour.losses import token_losses
from induction_lab.data.occurrences import copyable
from induction_lab.internals.reading import read_attention
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.runtime.progress import progress_bar

BETAS = {"induction": (0, 0.5, 2, math.inf), "previous token": (0, math.inf), "all": (0, 0.5, 2, 4, math.inf)}
KEPT = (1, 2, 4, 8, 16, 32)  # addresses besides BOS
PAIRS = (2, 8, 16, 64, 128)
GROUPS = {"induction": "prefix_matching", "previous token": "previous_token"}
PROMPTS, SETS, FIRST, MATCHED = 8, 3, 8, 3  # sets of random heads; the first query read; tokens matched before one
BINS = np.arange(-4.0, 14.1, 2.0)  # of the margin, in nats


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "soft_addressing",
        lambda model, n_prompts, seed: measured(model, n_prompts or PROMPTS, seed),
        verdicts,
        draw,
        least=Least("prompts", 2, "errors are taken over prompts"),
        seed="prompts and random heads",
        reads=False,
        models=MODELS,
    )


def measured(model: HookedModel, n_prompts: int, seed: int) -> list[dict[str, Any]]:
    """A row for each part, what was read or changed, and prompt, head or position.

    Raises:
        ValueError: If the model attends out of sight, or has no induction or previous-token heads.
    """
    if not model.anatomy.goes_through_interface:
        raise ValueError(f"{model.name} attends out of sight: choose a model of transformers' attention interface.")
    one = subject(model, n_prompts=n_prompts)
    groups, text = head_groups(one, seed=seed), one.prompts
    if model.tokenizer is not None:
        texts = [passage.text for passage in read_prose()][:n_prompts]
        text = beginnings(text_prompts(model, texts, length=min(512, model.n_ctx or 512)), n_prompts)
    parts = {
        "formula": formula(model, one.prompts.tokens[:4]),
        "spread": spread(model, text),
        "match": matching(one, groups["induction"]),
        "temper": [*tempered(one, groups), *rises(model, "all", "text", {"all": groups["all"]}, text)],
        "kept": truncated(model, text),
        "table": table_lookups(one, groups, n_prompts=n_prompts, seed=seed),
        "heads": [
            {"what": name, "members": " ".join(map(str, each))} for name, each in groups.items() if name != "all"
        ],
    }
    where = {"model": model.name, "prompts": text.kind, "n_heads": model.n_heads, "n_kv_heads": model.n_kv_heads}
    return [{"part": part, **where, **row} for part, rows in parts.items() for row in rows]


def beginnings(prompts: Prompts, n_prompts: int, length: int = 97) -> Prompts:
    """The beginnings of texts, all of one length."""
    lengths = prompts.lengths if prompts.lengths is not None else torch.full((len(prompts),), prompts.tokens.shape[1])
    length = min(length, int(lengths.max()))
    return Prompts(prompts.tokens[lengths >= length][:n_prompts, :length], kind="text")


def head_groups(one: Subject, *, seed: int) -> dict[str, list[Head]]:
    """Induction heads, previous-token heads, as many random others in the same layers; and all heads."""
    kinds = {name: one.scores.above(score, LOOKS) for name, score in GROUPS.items()}
    size = min(8, *map(len, kinds.values()))
    if not size:
        raise ValueError(f"{one.model.name} lacks induction or previous-token heads (scores above {LOOKS}).")
    groups = {name: heads[:size] for name, heads in kinds.items()}
    spared = {head for score in GROUPS.values() for head in one.scores.above(score, LOOKS / 2)}
    sets = same_layers(groups["induction"], one.model, SETS, seed=seed, spared=list(spared))
    others = {tuple(sorted(heads)): heads for heads in sets if len(heads) == size}  # full layers leave one set
    groups |= {f"random {i}": heads for i, heads in enumerate(others.values())}
    return groups | {"all": [Head(i, j) for i in range(one.model.n_layers) for j in range(one.model.n_heads)]}


def own_outputs(model: HookedModel, tokens: Tensor) -> dict[int, Tensor]:
    """What the model's heads put out when nobody changes how it attends, `[batch, head, pos, d_head]` by layer."""
    if isinstance(model.network, AttentionOnlyTransformer):
        found = capture(model, tokens, "z")
        return {layer: found["z", layer].transpose(1, 2) for layer in range(model.n_layers)}
    kept: dict[int, Tensor] = {}
    handles = []
    for layer in range(model.n_layers):

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], layer: int = layer) -> None:
            kept[layer] = inputs[0].unflatten(-1, (model.n_heads, -1)).transpose(1, 2).clone()

        handles.append(model.anatomy.output_projection(layer).register_forward_pre_hook(keep))
    try:
        model.hidden(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def by_formula(q: Tensor, k: Tensor, v: Tensor, *, scale: float, group: int) -> Tensor:
    """`softmax(scale * Q K^T) V` of a causal model, `[batch, head, pos, d_head]`; `group` query heads share keys."""
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    return (q @ k.mT * scale).masked_fill(future, -torch.inf).softmax(-1) @ v


def formula(model: HookedModel, tokens: Tensor) -> list[dict[str, Any]]:
    """How far the formula is from the model's own heads: the worst head of each layer, relative to its length."""
    own, rows, group = own_outputs(model, tokens), [], model.n_heads // model.n_kv_heads
    turned = model.anatomy.is_rotary
    before: Any = capture(model, tokens, ["q", "k"]) if turned else None

    def read(attention: AttentionReading) -> None:
        assert isinstance(attention, Attention)
        q, k, v, layer = attention.q, attention.k, attention.v, attention.layer
        scale = q.shape[-1] ** -0.5
        tried = {
            "the formula": by_formula(q, k, v, scale=scale, group=group),
            "without 1/√d_k": by_formula(q, k, v, scale=1.0, group=group),
            "another head's queries": by_formula(q.roll(1, 1), k, v, scale=scale, group=group),
        }
        if turned:
            q, k = (before[name, layer].transpose(1, 2) for name in ("q", "k"))
            tried["without rotation"] = by_formula(q, k, v, scale=scale, group=group)
        for name, z in tried.items():
            error = ((z - own[layer]).square().sum((0, 2, 3)) / own[layer].square().sum((0, 2, 3))).sqrt().max()
            rows.append({"what": name, "x": layer, "quantity": "error", "value": float(error)})

    read_attention(model, tokens.to(model.device), read)
    return rows


def spread(model: HookedModel, prompts: Prompts) -> list[dict[str, Any]]:
    """From how many addresses each head reads besides BOS, what rests on BOS; and over heads, by position."""
    rows, by_position = [], []

    def read(attention: AttentionReading) -> None:
        assert isinstance(attention, Attention)
        pattern = attention.pattern().float().cpu()
        addresses, largest, mass = beside_bos(pattern)
        there = torch.arange(pattern.shape[-1])[FIRST:].float()  # addresses besides BOS, of each query
        weight = mass / mass.sum(-1, keepdim=True)
        found = {
            "addresses": (addresses * weight).sum(-1), "even": (there * weight).sum(-1),
            "largest": (largest * weight).sum(-1), "rest": 1 - mass.mean(-1),
        }  # fmt: skip
        for quantity, values in found.items():
            rows.extend(
                {"what": str(Head(attention.layer, head)), "x": attention.layer, "quantity": quantity, "value": value}
                for head, value in enumerate(values.mean(0).tolist())
            )
        by_position.append((addresses * mass).sum(0) / mass.sum(0))

    read_attention(model, prompts.tokens.to(model.device), read)
    heads = torch.cat(by_position)
    return rows + [
        {"what": f"{q:.0%}", "x": FIRST + i, "quantity": "by position", "value": float(heads[:, i].quantile(q))}
        for i in range(heads.shape[1])
        for q in (0.1, 0.5, 0.9)
    ]


def beside_bos(
    pattern: Float[Tensor, "prompt head query key"],
) -> tuple[Float[Tensor, "prompt head read"], Float[Tensor, "prompt head read"], Float[Tensor, "prompt head read"]]:
    """Of queries from `FIRST` on: exp of the entropy over keys besides BOS, the largest share there, and their weight.

    A head that rests on BOS seems to read from one address, whatever it would read: so BOS is left out, and queries
    are later weighted by what they do not leave there.
    """
    others = pattern[:, :, FIRST:, 1:]
    mass = others.sum(-1).clamp(min=1e-12)
    share = others / mass[..., None]
    entropy = -(share * share.clamp(min=1e-30).log()).sum(-1)
    return entropy.exp(), share.amax(-1), mass


def matching(one: Subject, heads: list[Head]) -> list[dict[str, Any]]:
    """Weights of induction heads where a key matches and where none does, by head; and by the margin of the score.

    A key matches that follows an earlier occurrence of the last `MATCHED` tokens and the query's own: its weight, and
    its score less the best other one's. Where nothing is repeated yet the largest weight of any key but BOS, and its
    score less the next one's.
    """
    period = one.prompts.period
    assert period is not None
    again = torch.arange(period + 1 + MATCHED, 2 * period)
    target, fresh = again - period + 1, torch.arange(FIRST, period)
    rows = []

    def read(attention: AttentionReading) -> None:
        own = [head for head in heads if head.layer == attention.layer]
        if not own:
            return
        assert isinstance(attention, Attention)
        index = torch.tensor([head.head for head in own])
        pattern = attention.pattern().float().cpu()[:, index]
        scores = attention.scores().float().cpu()[:, index, :, 1:]
        after = torch.arange(scores.shape[-1])[None] + 1 > torch.arange(scores.shape[-2])[:, None]
        scores = scores.masked_fill(after, -torch.inf)
        weight = pattern[:, :, again, target]
        score = scores[:, :, again, target - 1]
        best = scores[:, :, again].scatter(-1, (target - 1).expand(*scores.shape[:2], -1)[..., None], -torch.inf)
        none, order = pattern[:, :, fresh, 1:].amax(-1), scores[:, :, fresh].topk(2, -1).values
        kinds = {
            "match": (weight, score - best.amax(-1), pattern[:, :, again, 0]),
            "no match": (none, order[..., 0] - order[..., 1], pattern[:, :, fresh, 0]),
        }
        for kind, (weights, margins, rest) in kinds.items():
            for number, head in enumerate(own):
                means = {"weight": weights, "margin": margins, "rest": rest}
                rows.extend(
                    {"what": kind, "x": attention.layer, "label": str(head), "quantity": quantity,
                     "value": float(values[:, number].mean())}
                    for quantity, values in means.items()
                )  # fmt: skip
            pairs.setdefault(kind, []).append(torch.stack([margins.flatten(), weights.flatten()]))

    pairs: dict[str, list[Tensor]] = {}
    read_attention(one.model, one.prompts.tokens.to(one.model.device), read)
    for kind, each in pairs.items():
        margin, weight = torch.cat(each, 1).numpy()
        which = np.digitize(margin.clip(BINS[0], BINS[-1] - 1e-6), BINS) - 1
        rows += [
            {"what": kind, "x": float(BINS[i] + 1), "quantity": "by margin", "value": float(weight[which == i].mean()),
             "n": int((which == i).sum())}
            for i in range(len(BINS) - 1)
            if (which == i).any()
        ]  # fmt: skip
    return rows


def tempered(one: Subject, groups: dict[str, list[Head]]) -> list[dict[str, Any]]:
    """The rise of the second copy's loss when each group but `all` attends with softmax(beta * scores)."""
    return [
        row
        for name, heads in groups.items()
        if name != "all"
        for row in rises(one.model, name, "repeated", {name: heads}, one.prompts)
    ]


def rises(
    model: HookedModel, name: str, where: str, groups: dict[str, list[Head]], prompts: Prompts
) -> list[dict[str, Any]]:
    """By prompt, the rise of the loss (nats a token) when a group of heads attends with softmax(beta * scores)."""
    clean, rows = losses(model, prompts, model.hidden(prompts.tokens)), []
    for beta in BETAS.get(name, (0, math.inf)):
        with temper(model, groups[name], beta):
            changed = losses(model, prompts, model.hidden(prompts.tokens))
        rows += [
            {"what": name, "on": where, "x": beta, "quantity": "rise of loss", "item": item, "value": value}
            for item, value in enumerate((changed - clean).tolist())
        ]
    return rows


def losses(model: HookedModel, prompts: Prompts, hidden: Tensor) -> Tensor:
    """Loss of each prompt in nats: of the second copy where tokens repeat, of all tokens of text."""
    start = prompts.period or 0  # of what is predicted: logits are dear
    each = token_losses(model, Prompts(prompts.tokens[:, start:]), hidden[:, start:])
    if start:
        each = each.masked_fill(~copyable(prompts.tokens)[:, start:-1], torch.nan)
    return each.nanmean(1).double()


def truncated(model: HookedModel, prompts: Prompts) -> list[dict[str, Any]]:
    """By prompt, the rise of the loss when every head reads from BOS and its best addresses alone."""
    streams = residual_streams(model, prompts.tokens)
    clean, rows = losses(model, prompts, streams.normalised), []
    with progress_bar(len(KEPT), "cutting patterns", shown=sys.stderr.isatty()) as tick:
        for kept in KEPT:
            changed = losses(model, prompts, streams.run(0, cut_to(kept)))
            rows += [
                {"what": "all", "x": kept, "quantity": "rise of loss", "item": item, "value": value}
                for item, value in enumerate((changed - clean).tolist())
            ]
            tick(1)
    return rows


def cut_to(kept: int) -> Callable[[Any], Any]:
    """An edit: BOS and the keys with the largest weights are read, by their weights, and nothing else."""

    def edit(attention: Any) -> Any:
        pattern = attention.pattern()
        others = pattern[..., 1:]
        if kept < others.shape[-1]:
            others = others.masked_fill(others < others.topk(kept, -1).values[..., -1:], 0.0)
        pattern = torch.cat([pattern[..., :1], others], -1)
        pattern = pattern / pattern.sum(-1, keepdim=True)
        v = to_query_heads(attention.v, attention.z.shape[1], dim=1)
        return replace(attention, z=(pattern.to(v) @ v).to(attention.z))

    return edit


def table_lookups(one: Subject, groups: dict[str, list[Head]], *, n_prompts: int, seed: int) -> list[dict[str, Any]]:
    """Does the value come back, by the number of pairs: of the model as it is; of `N` also without some heads."""
    model, best, rows = one.model, groups["induction"][0], []
    without = {name: heads for name, heads in groups.items() if name == "induction" or name.startswith("random")}
    sizes = [n for n in PAIRS if fits(model, n)]
    with progress_bar(len(sizes), "looking up keys", shown=sys.stderr.isatty()) as tick:
        for n in sizes:
            table = lookups(model, n, n_prompts=n_prompts, seed=seed)
            for name, heads in {"as it is": [], **(without if n == min(N, sizes[-1]) else {})}.items():
                with ablate(model, heads) if heads else nullcontext():
                    found = looked_up(model, table, best)
                what = f"without {name}" if heads else name
                rows += [
                    {"what": what, "x": n, "quantity": quantity, "item": item, "value": value}
                    for quantity, values in found.items()
                    for item, value in enumerate(values.mean(1).tolist())
                ]
            tick(1)
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
