"""Train an `AttentionOnlyTransformer` on batches that somebody draws: the loop, and blocks that repeat.

The same seed gives the same weights, bit for bit, on one machine. Recipe: AdamW, warm-up, flat, then linear decay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab.attention_only import AttentionOnlyConfig, AttentionOnlyTransformer
from induction_lab.losses import loss_per_token
from induction_lab.progress import progress_bar

Batches = Callable[[torch.Generator], Tensor]
DECAY, LOWEST_RATE = 0.4, 0.02  # the last share of the steps, and where the rate ends, as a part of its peak


def train(
    network: AttentionOnlyTransformer,
    batches: Batches,
    *,
    steps: int,
    seed: int = 0,
    peak_rate: float = 3e-3,
    warm_up: int = 50,
    look: Callable[[AttentionOnlyTransformer], dict[str, int | float]] | None = None,
    every: int = 50,
    progress: bool = False,
) -> list[dict[str, int | float]]:
    """Train in place.

    Args:
        network: To be trained.
        batches: Draws one batch of tokens `[prompt, pos]` from a random generator.
        steps: Batches to train on.
        seed: Of the generator.
        peak_rate: Learning rate after the warm-up.
        warm_up: Steps over which the rate rises.
        look: What else to record about the network every `every` steps.
        every: Steps between records.
        progress: A progress bar on the terminal.

    Returns:
        A record for every `every` steps: `step`, `train_loss` in nats, and what `look` saw.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warm_up, max(LOWEST_RATE, (steps - step) / (DECAY * steps)))
    )
    history = []
    with progress_bar(steps, "training", shown=progress) as tick:
        for step in range(1, steps + 1):
            tokens = batches(generator)
            loss = loss_per_token(network(tokens), tokens).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % every == 0:
                seen = look(network) if look is not None else {}
                history.append({"step": step, "train_loss": round(loss.item(), 4), **seen})
            tick(1)
    return history


def tiled_blocks(
    config: AttentionOnlyConfig, periods: Sequence[int], generator: torch.Generator, *, n_prompts: int = 48
) -> Int[Tensor, "prompt pos"]:
    """`[BOS, u u u …]`: each row a block of random tokens, its length among `periods`, to the end of the context.

    A model that is trained on one length alone learns that distance, not to copy. With many, small models may still
    learn another way than induction heads: keys that tell of the token k places back and values of the one k - 1 back.
    That costs it nothing where blocks repeat to the end; `scattered_copies` make it costly.
    """
    rows = []
    for pick in torch.randint(len(periods), (n_prompts,), generator=generator).tolist():
        block = torch.randint(1, config.d_vocab, (periods[pick],), generator=generator)
        rows.append(block.repeat(config.n_ctx // len(block) + 1)[: config.n_ctx - 1])
    bos = torch.full((n_prompts, 1), config.bos_token_id)
    return torch.cat([bos, torch.stack(rows)], 1)


def scattered_copies(
    config: AttentionOnlyConfig,
    periods: Sequence[int],
    generator: torch.Generator,
    *,
    n_prompts: int = 48,
    longest_gap: int = 8,
) -> Int[Tensor, "prompt pos"]:
    """Each row one random block again and again, with 0 to `longest_gap` other random tokens before each copy.

    Only looking right after the last occurrence of the current token predicts a copy from its second token on.
    """
    rows = []
    for pick in torch.randint(len(periods), (n_prompts,), generator=generator).tolist():
        block = torch.randint(1, config.d_vocab, (periods[pick],), generator=generator)
        gaps = torch.randint(longest_gap + 1, (config.n_ctx // len(block) + 1,), generator=generator).tolist()
        parts = [
            part for gap in gaps for part in (torch.randint(1, config.d_vocab, (gap,), generator=generator), block)
        ]
        rows.append(torch.cat(parts)[: config.n_ctx - 1])
    bos = torch.full((n_prompts, 1), config.bos_token_id)
    return torch.cat([bos, torch.stack(rows)], 1)
