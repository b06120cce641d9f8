"""What distance.py reads of a model: how well it copies a block after a gap, and whether its heads look back to it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.distance.networks import CONTEXT, Network, RecurrentNetwork, ReturningBlocks, longer
from induction_lab import Head, HookedModel, repeated_tokens, score_heads
from induction_lab.data.prompts import ordinary_tokens
from induction_lab.internals.reading import read_attention
from induction_lab.runtime.progress import progress_bar

# A criterion is read between a gap of NEAR tokens and the longest, or for the small models FAR: three quarters of the
# context they were trained in; pairs further apart, up to the context's end, are rare in training and only shown.
NEAR, FAR = 1, 96
SMALL_GAPS = (1, 2, 4, 8, 16, 32, 64, 96, CONTEXT - 13)
BEYOND = (2, 4, 8)  # contexts, for the whole prompt
SMALL_PROMPTS, LARGE_PROMPTS = 128, 8  # a gap
LARGE_GAPS = (1, 16, 128, 512)  # and the longest that there is room for
LOOKS, AT_MOST = 0.4, 8  # what counts as an induction head
TOKENS_A_BATCH = 8192


class Trial(NamedTuple):
    """Prompts that end with a second copy, and where the first is."""

    prompts: str  # copy, near (the same tokens, the gap moved before the first copy) or unrelated (another block)
    gap: int
    tokens: Int[Tensor, "prompt pos"]


def measure_small(network: Network, kind: str, seed: int) -> pd.DataFrame:
    """Copies of blocks of six tokens, on prompts that no network was trained on."""
    data, rows = ReturningBlocks(), []
    longest = max(BEYOND) * CONTEXT
    model = network if isinstance(network, RecurrentNetwork) else HookedModel(longer(network, longest))
    generator = torch.Generator().manual_seed(1_000_003)
    sample = data.draw(generator, n_prompts=64, n_ctx=CONTEXT)
    heads = [] if isinstance(model, RecurrentNetwork) else induction_heads(model, sample)
    for gap in (*SMALL_GAPS, *(times * CONTEXT - 1 - 2 * data.longest for times in BEYOND)):
        tokens = data.copies(generator, n_prompts=SMALL_PROMPTS, gap=gap)
        trials = [Trial("copy", gap, tokens), Trial("unrelated", gap, unrelated(tokens, data.longest))]
        trials += [Trial("near", NEAR, moved_near(tokens, data.longest))] if gap > NEAR else []
        rows += [read(model, trial, data.longest, heads) for trial in trials]
    return pd.DataFrame(rows).assign(
        model=kind, seed=seed, trained_length=CONTEXT, chance=1 / (data.d_vocab - 1), heads=len(heads)
    )


def measure_large(model: HookedModel, *, period: int, longest: int, seed: int) -> pd.DataFrame:
    """Blocks of distinct random tokens, others between them."""
    trials = list(large_trials(model, period=period, longest=longest, seed=seed))
    heads = induction_heads(model, repeated_tokens(model, period=period, seed=seed + 1).tokens)
    total = sum(trial.tokens.numel() for trial in trials)
    with progress_bar(total, f"{model.name}, tokens", shown=sys.stderr.isatty()) as tick:
        rows = []
        for trial in trials:
            rows.append(read(model, trial, period, heads))
            tick(trial.tokens.numel())
    chance = 1 / len(ordinary_tokens(model))
    return pd.DataFrame(rows).assign(
        model=model.name, seed=seed, trained_length=model.n_ctx, chance=chance, heads=len(heads)
    )


def large_trials(model: HookedModel, *, period: int, longest: int, seed: int) -> Iterator[Trial]:
    kinds = len(ordinary_tokens(model))
    room = min(min(longest, model.n_ctx or longest) - 1 - 2 * period, kinds - period)
    if room <= NEAR:
        raise SystemExit(
            f"Two blocks of {period} tokens and a gap do not fit {model.name} (prompts of up to {longest} tokens, "
            f"context {model.n_ctx}, {kinds} tokens to draw from). Take a smaller --period."
        )
    gaps = [*(gap for gap in LARGE_GAPS if gap < 0.9 * room), room]
    for gap in gaps:
        tokens = repeated_tokens(model, n_prompts=LARGE_PROMPTS, period=period, gap=gap, seed=seed).tokens
        yield Trial("copy", gap, tokens)
        if gap > NEAR:
            yield Trial("near", NEAR, moved_near(tokens, period))
        if gap in gaps[1:2]:
            yield Trial("unrelated", gap, unrelated(tokens, period))


def unrelated(tokens: Int[Tensor, "prompt pos"], period: int) -> Int[Tensor, "prompt pos"]:
    """The same prompts, the last block being another prompt's."""
    return torch.cat([tokens[:, :-period], tokens[:, -period:].roll(1, 0)], 1)


def moved_near(tokens: Int[Tensor, "prompt pos"], period: int) -> Int[Tensor, "prompt pos"]:
    """The same tokens, all of the gap but its last token moved before the first copy."""
    block, gap = tokens[:, 1 : 1 + period], tokens[:, 1 + period : -period]
    return torch.cat([tokens[:, :1], gap[:, :-1], block, gap[:, -1:], block], 1)


def induction_heads(model: HookedModel, tokens: Int[Tensor, "prompt pos"]) -> list[Head]:
    """Found on other prompts than they are read on; the best one where none is what people call an induction head."""
    scores = score_heads(model, tokens, scores=["prefix_matching"], loss=False)
    return scores.above("prefix_matching", LOOKS)[:AT_MOST] or [scores.top("prefix_matching", 1)[0][0]]


def read(model: HookedModel | RecurrentNetwork, trial: Trial, period: int, heads: list[Head]) -> dict[str, Any]:
    """Means over prompts of one trial, with their standard errors, the prompts run a few at a time."""
    size = max(1, TOKENS_A_BATCH // trial.tokens.shape[1])
    parts = [read_some(model, some, period, trial.gap, heads) for some in trial.tokens.split(size)]
    values = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    row: dict[str, Any] = {"prompts": trial.prompts, "gap": trial.gap, "length": trial.tokens.shape[1]}
    for name, each in values.items():
        row |= {name: float(each.mean()), f"{name}_error": float(each.std() / len(each) ** 0.5)}
    return {**row, "n_prompts": len(trial.tokens)}


@torch.inference_mode()
def read_some(
    model: HookedModel | RecurrentNetwork, tokens: Int[Tensor, "prompt pos"], period: int, gap: int, heads: list[Head]
) -> dict[str, Float[Tensor, " prompt"]]:
    """Accuracy and loss on the second copy, loss on the first, and the heads' attention to the right earlier token."""
    n_prompts, end = tokens.shape
    second = torch.arange(end - period, end - 1)  # queries whose next token the first copy tells
    first = second - period - gap
    looked = torch.full((n_prompts,), torch.nan)
    if isinstance(model, RecurrentNetwork):
        hidden = model(tokens, return_type="hidden")
        logits = {name: hidden[:, at] @ model.W_U for name, at in {"first": first, "second": second}.items()}
    else:
        found: list[Tensor] = []
        prompt = torch.arange(n_prompts).repeat_interleave(len(second))
        query, key = second.repeat(n_prompts), (first + 1).repeat(n_prompts)

        def look(attention: Any) -> None:
            chosen = [head for layer, head in heads if layer == attention.layer]
            if chosen:
                found.append(attention.probabilities(prompt, query, key)[:, chosen].T.unflatten(1, (n_prompts, -1)))

        hidden = read_attention(model, tokens, look).normalised
        assert hidden is not None
        logits = {name: model.unembed(hidden[:, at]) for name, at in {"first": first, "second": second}.items()}
        looked = torch.cat(found).mean((0, 2))
    losses = {name: loss(logits[name], tokens[:, at + 1]) for name, at in {"first": first, "second": second}.items()}
    right = (logits["second"].argmax(-1) == tokens[:, second + 1]).float().mean(1)
    return {"accuracy": right, "loss": losses["second"], "first_loss": losses["first"], "induction": looked}


def loss(logits: Float[Tensor, "prompt pos d_vocab"], answers: Int[Tensor, "prompt pos"]) -> Float[Tensor, " prompt"]:
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), answers.flatten(), reduction="none")
    return each.view(answers.shape).mean(1)
