"""Is attention soft, content-based addressing?

    python -m experiments soft_addressing

The formula: softmax(Q K^T / sqrt(d_k)) V, written out, against what the model's own heads put out. The softness: from
how many addresses heads read, and what the loss becomes when softmax(beta * scores) is flattened (beta = 0), sharpened
or made an argmax (beta = inf) in induction heads, previous-token heads, as many random heads, all heads. The table:
pairs of a key and a value in the context, 2 to 256 of them; when a key is given again, does its value come back?
Writes to figures/: soft_addressing.csv, soft_addressing.json (verdicts), soft_addressing.png. 4 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from experiments.essay.prose import read_prose
from experiments.essay.soft_addressing.conclusions import draw, verdicts
from experiments.essay.soft_addressing.lookups import fits, looked_up, lookups
from experiments.harness import begin, common_arguments, show_files
from experiments.subjects.induction_models import LOOKS, Subject, subject
from experiments.verdicts import save_verdicts
from induction_lab import (
    AttentionOnlyTransformer,
    Head,
    HookedModel,
    Prompts,
    ablate,
    attention_spread,
    capture,
    load_model,
    temper,
    text_prompts,
)
from induction_lab.attention.exact import Attention, AttentionReading
from induction_lab.behaviour.losses import token_losses
from induction_lab.data.occurrences import copyable
from induction_lab.internals.reading import read_attention
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.spread import queries_read, spread_per_query

BETAS = (0, 0.25, 0.5, 1, 2, 4, math.inf)
PAIRS = (2, 4, 8, 16, 32, 64, 128, 256)
GROUPS = {"induction": "prefix_matching", "previous token": "previous_token"}
ABLATED_UP_TO = 64  # pairs: beyond, the means that replace heads would cost more than they say
SETS = 3  # of random heads
KEPT = ("addresses", "evenness", "largest", "first", "distance_past_first")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    model = load_model(args.model)
    if not model.anatomy.goes_through_interface:
        raise SystemExit(f"{model.name} attends out of sight: choose a model of transformers' attention interface.")
    one = subject(model, n_prompts=args.prompts)
    groups = head_groups(one, seed=args.seed)
    prompts = {"repeated": one.prompts}
    if model.tokenizer is not None:
        texts = [passage.text for passage in read_prose()][: args.prompts]
        whole = text_prompts(model, texts, length=min(512, model.n_ctx or 512))
        prompts["text"] = text_prompts_of(whole, args.prompts)
    parts = [formula(model, one.prompts.tokens[:4])]
    parts += [spread(model, one_kind, name) for name, one_kind in prompts.items()]
    parts += [tempered(model, prompts, groups), table_lookups(one, groups, n_prompts=args.prompts + 2, seed=args.seed)]
    table = pd.concat(parts, ignore_index=True).assign(model=model.name)
    begin(args.out)
    table.to_csv(args.out / "soft_addressing.csv", index=False, float_format="%.5g")  # errors are small
    written = [args.out / "soft_addressing.csv"]
    written.append(save_verdicts(verdicts(model, table, groups), args.out / "soft_addressing.json"))
    written.append(args.out / "soft_addressing.png")
    draw(model, table).savefig(written[-1], dpi=110)
    show_files(written)


def text_prompts_of(prompts: Prompts, n_prompts: int, length: int = 97) -> Prompts:
    """The beginnings of texts, all of one length."""
    lengths = prompts.lengths if prompts.lengths is not None else torch.full((len(prompts),), prompts.tokens.shape[1])
    length = min(length, int(lengths.max()))
    return Prompts(prompts.tokens[lengths >= length][:n_prompts, :length], kind="text")


def head_groups(one: Subject, *, seed: int) -> dict[str, list[Head]]:
    """Induction heads, previous-token heads and random others, as many of each; and all heads."""
    kinds = {name: one.scores.above(score, LOOKS) for name, score in GROUPS.items()}
    size = min(8, *map(len, kinds.values()))
    if not size:
        raise SystemExit(f"{one.model.name} lacks induction or previous-token heads (scores above {LOOKS}).")
    groups = {name: heads[:size] for name, heads in kinds.items()}
    for i in range(SETS if len(one.bystanders) >= size else 0):
        groups[f"random {i}"] = random.Random(seed + i).sample(one.bystanders, size)
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


def formula(model: HookedModel, tokens: Tensor) -> pd.DataFrame:
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
            rows.append({"part": "formula", "what": name, "x": layer, "quantity": "error", "value": float(error)})

    read_attention(model, tokens.to(model.device), read)
    return pd.DataFrame(rows)


def spread(model: HookedModel, prompts: Prompts, name: str) -> pd.DataFrame:
    """From how many addresses each head reads, and how that grows with the addresses there are."""
    table: Any = attention_spread(model, prompts, progress=sys.stderr.isatty())
    table = table[table["quantity"].isin(KEPT)].rename(columns={"label": "what", "layer": "x"})
    heads = table[["what", "x", "quantity", "value", "standard_error", "uniform"]].assign(part="spread")
    read = spread_per_query(model, prompts)["addresses"].mean(1)  # [layer, head, query]
    rows = [
        {"what": f"{q:.0%}", "x": t, "quantity": "addresses", "value": float(read[..., t].quantile(q))}
        for t in queries_read(prompts).all(0).nonzero()[:, 0].tolist()
        for q in (0.1, 0.5, 0.9)
    ]
    return pd.concat([heads, pd.DataFrame(rows).assign(part="position")], ignore_index=True).assign(prompts=name)


def tempered(model: HookedModel, prompts: dict[str, Prompts], groups: dict[str, list[Head]]) -> pd.DataFrame:
    """The rise of the loss (nats) when a group of heads attends with softmax(beta * scores)."""
    clean, rows = losses(model, prompts), []
    total = sum(len(betas_of(group)) - 1 for group in groups)
    with progress_bar(total, "tempering heads", shown=sys.stderr.isatty()) as tick:
        for group, heads in groups.items():
            for beta in betas_of(group):
                with temper(model, heads, beta):
                    changed = clean if beta == 1 else losses(model, prompts)
                for name, values in changed.items():
                    rise = values - clean[name]
                    where = {"part": "temper", "prompts": name, "what": group, "x": beta, "quantity": "rise of loss"}
                    rows.append(where | {"value": rise.mean(), "standard_error": rise.std(ddof=1) / len(rise) ** 0.5})
                tick(int(beta != 1))
    return pd.DataFrame(rows)


def betas_of(group: str) -> tuple[float, ...]:
    """Random heads are a control of the two ends alone."""
    return (0, 1, math.inf) if group.startswith("random") else BETAS


def losses(model: HookedModel, prompts: dict[str, Prompts]) -> dict[str, np.ndarray]:
    """Loss of each prompt in nats: of the second copy where tokens repeat, of all tokens of text."""
    found = {}
    for name, some in prompts.items():
        each = token_losses(model, some, model.hidden(some.tokens))
        if name == "repeated":
            each = each.masked_fill(~copyable(some.tokens)[:, :-1], torch.nan)
        found[name] = each.nanmean(1).double().numpy()
    return found


def table_lookups(one: Subject, groups: dict[str, list[Head]], *, n_prompts: int, seed: int) -> pd.DataFrame:
    """Does the value come back, by the number of pairs: of the model as it is, and without some of its heads."""
    model, best, rows = one.model, groups["induction"][0], []
    without = {name: heads for name, heads in groups.items() if name == "induction" or name.startswith("random")}
    sizes = [n for n in PAIRS if fits(model, n)]
    with progress_bar(len(sizes), "looking up keys", shown=sys.stderr.isatty()) as tick:
        for n in sizes:
            table = lookups(model, n, n_prompts=n_prompts, seed=seed)
            for name, heads in {"as it is": [], **(without if n <= ABLATED_UP_TO else {})}.items():
                with ablate(model, heads) if heads else nullcontext():
                    found = looked_up(model, table, best)
                what = f"without {name}" if heads else name
                for quantity, values in found.items():
                    per_prompt = values.mean(1)
                    error = float(per_prompt.std()) / n_prompts**0.5
                    numbers = {"value": float(per_prompt.mean()), "standard_error": error}
                    rows.append({"part": "table", "what": what, "x": n, "quantity": quantity} | numbers)
            tick(1)
    return pd.DataFrame(rows)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="any causal model that attends through the interface")
    parser.add_argument("--prompts", type=int, default=6, help="of each kind, at least 2")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.prompts < 2:
        parser.error(f"--prompts must be at least 2, got {args.prompts}: errors are taken over prompts")
    return args


if __name__ == "__main__":
    main()
