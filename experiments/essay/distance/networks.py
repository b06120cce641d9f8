"""The small models of distance.py: attention, a GRU and an LSTM of equal size, on blocks of tokens that come back.

Every row is made of its own few blocks, written again and again in random order, one of them often and another rarely:
a block returns after a few tokens or after a hundred. All three networks see the same rows, `STEPS` batches of them.
Tokens and blocks are few because the recurrent networks learnt less still with more (one seed, 48 tokens and up to 7
blocks: accuracy 0.16 and 0.08 at a gap of 1 where attention had 1.00).

Loss with a rate of 3e-3 and of 1e-2 on another seed after 200 steps, in nats: attention 0.67 and 0.63, GRU 2.32 and
2.01, LSTM 2.53 and 2.21; attention keeps the lower rate, which is no advantage to it. Its keys are smeared with the key
before (`AttentionOnlyConfig.smeared_keys`): without that, two layers had hardly begun to copy after 480 steps, because
they must first find the token before, which a recurrent network has in its state from the start. Kept in
runs/distance/, trained once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from experiments.harness import RUNS_FOLDER
from induction_lab import AttentionOnlyConfig, TrainingPlan
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.results.tables import writing
from induction_lab.runtime.progress import progress_bar
from induction_lab.training.trainer import train

RUNS = RUNS_FOLDER / "distance"
STEPS, CONTEXT, WIDTH = 500, 128, 64
RATES = {"attention": 3e-3, "GRU": 1e-2, "LSTM": 1e-2}
KINDS = tuple(RATES)


@dataclass(frozen=True)
class ReturningBlocks:
    """`[BOS, blocks]`: each row 1 to `most` blocks of distinct random tokens, written in random order to its end.

    The n-th of k blocks is drawn with probability `(n / k)^(1/4) - ((n - 1) / k)^(1/4)`, the first of five two thirds
    of the time, so that there are short and long gaps. No token is in two blocks of a row: the token after the last
    occurrence is the right one but at a block's end.
    """

    d_vocab: int = 32
    shortest: int = 3
    longest: int = 6
    most: int = 5

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch."""
        n_blocks = 1 + torch.randint(self.most, (n_prompts, 1), generator=generator)
        rows = self._write(self._tokens(generator, n_prompts), n_blocks, generator, n_ctx - 1)
        return nn.functional.pad(rows, (1, 0))

    def copies(self, generator: torch.Generator, *, n_prompts: int, gap: int) -> Int[Tensor, "prompt pos"]:
        """`[BOS, block, others, block]`: a block of `longest` tokens twice, between them `gap` tokens of other blocks.

        Raises:
            ValueError: If the gap is negative.
        """
        if gap < 0:
            raise ValueError(f"`gap` must be 0 tokens or more, got {gap}.")
        tokens = self._tokens(generator, n_prompts)
        block, others = tokens[:, : self.longest], tokens[:, self.longest :]
        between = self._write(others, torch.full((n_prompts, 1), self.most - 1), generator, gap)
        return nn.functional.pad(torch.cat([block, between, block], 1), (1, 0))

    def _tokens(self, generator: torch.Generator, n_prompts: int) -> Int[Tensor, "prompt token"]:
        return 1 + torch.rand(n_prompts, self.d_vocab - 1, generator=generator).argsort(1)

    def _write(self, tokens: Tensor, n_blocks: Tensor, generator: torch.Generator, n: int) -> Tensor:
        """The first `n` tokens of blocks cut from `tokens` and written in random order."""
        n_prompts, most = len(tokens), n // self.shortest + 1
        sizes = torch.randint(self.shortest, self.longest + 1, (n_prompts, self.most), generator=generator)
        order = (torch.rand(n_prompts, most, generator=generator) ** 4 * n_blocks).long()
        written = sizes.gather(1, order)
        ends, place = written.cumsum(1), torch.arange(n).expand(n_prompts, -1).contiguous()
        nth = torch.searchsorted(ends, place, right=True)
        inside = place - (ends - written).gather(1, nth)
        return tokens.gather(1, (sizes.cumsum(1) - sizes).gather(1, order.gather(1, nth)) + inside)


class RecurrentNetwork(nn.Module):
    """Embedding, one recurrent layer, unembedding: what `train` needs of a network, and nothing that attends."""

    trusts_tokens = True  # an embedding refuses tokens that it does not have

    def __init__(self, kind: str, config: AttentionOnlyConfig, width: int, *, seed: int = 0) -> None:
        """Torch's own initial weights; an LSTM's forget gates begin open (Jozefowicz et al. 2015)."""
        super().__init__()
        self.cfg = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = nn.Embedding(config.d_vocab, config.d_model)
            self.cell = (nn.GRU if kind == "GRU" else nn.LSTM)(config.d_model, width, batch_first=True)
            self.W_U = nn.Parameter(torch.randn(width, config.d_vocab) * width**-0.5)
        if kind == "LSTM":
            biases: Any = self.cell.bias_ih_l0
            biases.data[width : 2 * width] += 1

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding."""
        return self.embed.weight

    def forward(self, tokens: Int[Tensor, "batch pos"], *, return_type: str = "logits") -> Tensor:
        """Logits of every next token, or the states before the unembedding."""
        states = self.cell(self.embed(tokens))[0]
        return states if return_type == "hidden" else states @ self.W_U


Network = AttentionOnlyTransformer | RecurrentNetwork


def new_network(kind: str, seed: int) -> Network:
    """A network with random weights; the recurrent ones as wide as gives them as many parameters as attention has."""
    config = AttentionOnlyConfig(d_model=WIDTH, d_vocab=ReturningBlocks().d_vocab, n_ctx=CONTEXT, smeared_keys=True)
    attention = AttentionOnlyTransformer(config, seed=seed, scale=0.16)
    if kind == "attention":
        return attention
    wanted = size(attention)
    width = min(range(8, 200), key=lambda width: abs(size(RecurrentNetwork(kind, config, width)) - wanted))
    return RecurrentNetwork(kind, config, width, seed=seed)


def size(network: nn.Module) -> int:
    """Parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def plan(kind: str, steps: int) -> TrainingPlan:
    return TrainingPlan(steps=steps, batch=48, peak_rate=RATES[kind], initial_scale=0.16)


def trained(seeds: int, steps: int = STEPS, *, cores: int | None = None) -> dict[tuple[str, int], Network]:
    """The networks by kind and seed, trained where runs/ does not have them, one process a core."""
    wanted = [(kind, seed) for seed in range(seeds) for kind in KINDS]
    left = [(kind, seed) for kind, seed in wanted if not _kept(kind, seed, steps)]
    work = partial(_train, steps=steps, runs=RUNS)
    cores = min(cores or os.cpu_count() or 1, len(left))
    with progress_bar(len(left), "training small models", shown=sys.stderr.isatty()) as tick:
        if cores <= 1:
            for one in left:
                work(one)
                tick(1)
        else:  # forked threads of torch would hang
            with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
                for _ in pool.map(work, left):
                    tick(1)
    return {(kind, seed): _load(kind, seed, steps) for kind, seed in wanted}


def _train(which: tuple[str, int], steps: int, runs: Path) -> None:
    kind, seed = which
    network = new_network(kind, seed)
    train(network, ReturningBlocks(), plan(kind, steps), seed=seed)
    with writing(runs / _path(kind, seed, steps).name) as part:
        weights = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
        save_file(weights, part, metadata={"settings": _settings(kind, network, steps)})


def _load(kind: str, seed: int, steps: int) -> Network:
    network = new_network(kind, seed)
    network.load_state_dict(load_file(_path(kind, seed, steps)))
    return network.eval()


def longer(network: Network, n_ctx: int) -> Network:
    """The same weights where longer prompts are allowed than were trained on."""
    if not isinstance(network, AttentionOnlyTransformer):
        return network
    other = AttentionOnlyTransformer(replace(network.cfg, n_ctx=n_ctx))
    other.load_state_dict(network.state_dict())
    return other.eval()


def _kept(kind: str, seed: int, steps: int) -> bool:
    path = _path(kind, seed, steps)
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("settings") == _settings(kind, new_network(kind, seed), steps)


def _path(kind: str, seed: int, steps: int) -> Path:
    return RUNS / f"{kind}-{steps}-seed{seed}.safetensors"


def _settings(kind: str, network: Network, steps: int) -> str:
    """Whatever would make another network of it."""
    parts = [asdict(ReturningBlocks()), asdict(plan(kind, steps)), network.cfg.to_dict(), size(network)]
    return json.dumps(parts)
