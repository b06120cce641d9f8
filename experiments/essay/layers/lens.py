"""The next token read off each layer's stream by a lens that was fitted: a tuned lens, by least squares.

The logit lens reads a layer's stream as if it were the last one, and so sees little below. Here the last layer's stream
is foretold from each layer's (ridge regression of what is still to be added), fitted on half of the passages and read
on the other half. After Belrose et al. (2023), https://arxiv.org/abs/2303.08112, who fit by the divergence instead.
"""

from __future__ import annotations

import sys

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab import HookedModel, Prompts
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.runtime.progress import progress_bar

PENALTY = 0.3  # of a standardised dimension's own weight, a prompt's token each
AT_ONCE = 64  # tokens


def streams_of(model: HookedModel, prompts: Prompts) -> Float[Tensor, "layer prompt pos d_model"]:
    """What enters each layer, and last what leaves the highest."""
    found = [residual_streams(model, some).before for some in prompts.tokens.split(4)]
    return torch.stack([torch.cat(each).float().cpu() for each in zip(*found, strict=True)])


def foretold(
    stream: Float[Tensor, "layer prompt pos d"], there: Bool[Tensor, "prompt pos"]
) -> Float[Tensor, "layer prompt pos d"]:
    """The last layer's stream as each layer's foretells it; every second passage is read by a fit on the others.

    Args:
        stream: Of all layers.
        there: Positions that a fit may use: no padding, and no BOS.
    """
    found, last = stream.clone(), stream[-1]
    even = torch.arange(stream.shape[1]) % 2 == 0
    for layer in range(len(stream) - 1):
        for own in (even, ~even):
            used = there & ~own[:, None]
            x, rest = stream[layer][used], (last - stream[layer])[used]
            mean, spread = x.mean(0), x.std(0).clamp(min=1e-6)
            rows = ((x - mean) / spread).double()
            penalty = PENALTY * len(rows) * torch.eye(x.shape[1], dtype=torch.double)
            weights = torch.linalg.solve(rows.T @ rows + penalty, rows.T @ (rest - rest.mean(0)).double()).float()
            added = ((stream[layer][own] - mean) / spread) @ weights + rest.mean(0)
            found[layer][own] = stream[layer][own] + added
    return found


def read_off(
    model: HookedModel,
    stream: Float[Tensor, "layer row d_model"],
    answers: Int[Tensor, " row"],
) -> tuple[Float[Tensor, "layer row"], Int[Tensor, "layer row"]]:
    """Log-probability of the answers, and how many tokens are held likelier, by final norm and unembedding."""
    log_p, rank = torch.zeros(stream.shape[:2]), torch.zeros(stream.shape[:2], dtype=torch.long)
    with progress_bar(len(stream), "reading layers", shown=sys.stderr.isatty()) as tick, torch.inference_mode():
        for layer, rows in enumerate(stream):
            for at in torch.arange(len(rows)).split(AT_ONCE):
                hidden = model.final_norm(rows[at][None].to(model.device, model.dtype))
                logits = model.unembed(hidden)[0].float()
                own = logits.gather(1, answers[at, None].to(logits.device))
                log_p[layer, at] = (own[:, 0] - logits.logsumexp(-1)).cpu()
                rank[layer, at] = (logits > own).sum(1).cpu()
            tick(1)
    return log_p, rank
