"""Tokens a second in training, beside a plain loop and TransformerLens' native model and trainer.

    python -m experiments training_speed

The shapes of the recipes `minute` and `text-2l`, both with rotary positions (those of `text-2l` TransformerLens lacks),
float32, the recipes' threads, the same batches, AdamW (ours in torch's fused form, theirs as they call it), gradients
clipped at norm 1; all three read whole batches and leave out the last prediction. Rounds of the three ways take turns,
so that noise of the machine hits all alike; `speed_up` is the median over rounds of our speed over theirs, with the
lowest and the highest. The plain loop is written as people write it after nanoGPT: one linear layer for queries, keys
and values, attention by `scaled_dot_product_attention`, `nn.LayerNorm`, rotary positions, `cross_entropy` on logits.
TransformerLens is `TransformerBridge.boot_native` under `transformer_lens.tools.training.train`.

Then what it costs to look: `follow_training` on one checkpoint, without and with the probes of weights, as a share of
the time that training takes from one checkpoint to the next; and what a second process gains: six seeds of `minute`
(400 steps) with two workers against one after another, worker start included. Writes training.csv, looking.csv and
workers.csv beside this file. About 10 minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.training import TrainConfig, train as train_with_lens

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    Recipe,
    follow_training,
    load_recipe,
    over_seeds,
    train_runs,
)
from induction_lab.runtime.machine import using_threads
from induction_lab.training.trainer import BETAS, Trainer, TrainingPlan
from induction_lab.weights.probes_over_training import PROBES

HERE = Path(__file__).parent
OURS, PLAIN, LENS = "induction_lab", "plain loop (nanoGPT's way)", "TransformerLens native model and trainer"
COMPILED = "induction_lab, compile = true"
STEPS = {"minute": 20, "text-2l": 8}  # of a round
Way = Callable[[int], float]  # steps in, loss of the last out


class Fixed:
    """The same batches over and over: what is timed is the training."""

    def __init__(self, batches: list[Tensor], d_vocab: int) -> None:
        self.batches, self.d_vocab, self.at = batches, d_vocab, 0

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Tensor:
        self.at += 1
        return self.batches[self.at % len(self.batches)]


class PlainAttention(nn.Module):
    """Rotary causal self-attention."""

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__()
        width = config.n_heads * config.d_head
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * width, bias=False)
        self.out = nn.Linear(width, config.d_model, bias=False)
        frequency = 10_000.0 ** (-torch.arange(0, config.d_head, 2) / config.d_head)
        angle = torch.outer(torch.arange(config.n_ctx), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        z = nn.functional.scaled_dot_product_attention(self.turn(q), self.turn(k), v, is_causal=True)
        return self.out(z.transpose(1, 2).flatten(2))

    def turn(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        n_pos = x.shape[2]
        return x * self.cos[:n_pos] + torch.cat([-b, a], -1) * self.sin[:n_pos]  # type: ignore[index]


class PlainModel(nn.Module):
    """The same shape, plainly."""

    def __init__(self, config: AttentionOnlyConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(config.d_vocab, config.d_model)
        self.norms = nn.ModuleList(nn.LayerNorm(config.d_model) for _ in range(config.n_layers))
        self.layers = nn.ModuleList(PlainAttention(config) for _ in range(config.n_layers))
        self.last = nn.LayerNorm(config.d_model)
        self.unembed = nn.Linear(config.d_model, config.d_vocab, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = x + layer(norm(x))
        return self.unembed(self.last(x))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    rows = []
    for name in STEPS:
        recipe = rotary(name)
        batches = [fixed_batch(recipe, seed) for seed in range(8)]
        ways = {OURS: ours(recipe, batches), PLAIN: plain(recipe, batches), LENS: lens(recipe, batches)}
        ways[COMPILED] = ours(replace(recipe, training=replace(recipe.training, compile=True)), batches)
        with using_threads(recipe.training.threads):
            rows += timed(name, recipe, ways, rounds=args.rounds)
    for name, found in {"training": rows, "looking": looking(rows), "workers": workers()}.items():
        table = pd.DataFrame(found)
        table.round(3).to_csv(args.out / f"{name}.csv", index=False)
        print(table.round(3).to_string(index=False), end="\n\n")


def rotary(name: str) -> Recipe:
    """A ready recipe with the positions that all three ways have."""
    recipe = load_recipe(name)
    return replace(recipe, model=replace(recipe.model, positions="rotary"))


def fixed_batch(recipe: Recipe, seed: int) -> Tensor:
    """Random tokens: their worth to learn from does not change the time."""
    shape = (recipe.training.batch, recipe.model.n_ctx)
    return torch.randint(1, recipe.model.d_vocab, shape, generator=torch.Generator().manual_seed(seed))


def ours(recipe: Recipe, batches: list[Tensor]) -> Way:
    trainer = Trainer(AttentionOnlyTransformer(recipe.model), Fixed(batches, recipe.model.d_vocab), recipe.training)
    return lambda steps: float([trainer.advance().loss for _ in range(steps)][-1])


def plain(recipe: Recipe, batches: list[Tensor]) -> Way:
    plan: TrainingPlan = recipe.training
    torch.manual_seed(0)
    model = PlainModel(recipe.model).to(batches[0].device)
    rate, decay = plan.peak_rate, plan.weight_decay
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=BETAS, weight_decay=decay)

    def run(steps: int) -> float:
        loss = torch.zeros(())
        for step in range(steps):
            tokens = batches[step % len(batches)]
            logits = model(tokens)[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), plan.clip)
            optimizer.step()
        return float(loss.detach())

    return run


def lens(recipe: Recipe, batches: list[Tensor]) -> Way:
    shape, plan = recipe.model, recipe.training
    config = TransformerBridgeConfig(
        d_model=shape.d_model, n_heads=shape.n_heads, d_head=shape.d_head, n_layers=shape.n_layers, n_ctx=shape.n_ctx,
        d_vocab=shape.d_vocab, attn_only=True, normalization_type="LN", positional_embedding_type="rotary",
        rotary_dim=shape.d_head, architecture="TransformerLensNative",
    )  # fmt: skip
    bridge: Any = TransformerBridge
    model = bridge.boot_native(config)
    data: list[dict[str, Tensor]] = [{"tokens": row} for batch in batches for row in batch]

    def run(steps: int) -> float:
        some = [data[i % len(data)] for i in range(steps * plan.batch)]
        settings = TrainConfig(
            num_epochs=1, batch_size=plan.batch, lr=plan.peak_rate, weight_decay=plan.weight_decay,
            max_grad_norm=plan.clip, optimizer_name="AdamW", device="cpu", print_every=None,
        )  # fmt: skip
        with contextlib.redirect_stderr(io.StringIO()):
            train_with_lens(model, settings, some)  # type: ignore[arg-type]
        return 0.0

    return run


def timed(name: str, recipe: Recipe, ways: dict[str, Way], *, rounds: int) -> list[dict[str, Any]]:
    steps = STEPS[name]
    n_tokens = steps * recipe.training.batch * recipe.model.n_ctx
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for way in ways.values():
        way(2)
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            run(steps)
            seconds[way].append(time.perf_counter() - start)
    rows = []
    for way, taken in seconds.items():
        ups = sorted(theirs / mine for mine, theirs in zip(seconds[OURS], taken, strict=True))
        row = {"recipe": name, "way": way, "threads": recipe.training.threads, "rounds": rounds}
        row |= {"tokens_a_second": round(n_tokens / statistics.median(taken))}
        rows.append({**row, "speed_up": statistics.median(ups), "lowest": ups[0], "highest": ups[-1]})
    return rows


class Alike:
    """Checkpoints that are all the same network."""

    name = "alike"

    def __init__(self, recipe: Recipe, n: int) -> None:
        self.steps = list(range(n))
        self.network = AttentionOnlyTransformer(recipe.model).eval()

    def model(self, step: int) -> HookedModel:
        return HookedModel(self.network)


def looking(rows: list[dict[str, Any]], *, n: int = 20) -> list[dict[str, Any]]:
    """Seconds a checkpoint, and their share of the training until the next."""
    speed = {row["recipe"]: row["tokens_a_second"] for row in rows if row["way"] == OURS}
    found = []
    for name in STEPS:
        recipe = rotary(name)
        texts = torch.cat([fixed_batch(recipe, seed) for seed in range(8)])[:128]
        texts[:, 0] = 0
        between = recipe.training.every * recipe.training.batch * recipe.model.n_ctx / speed[name]
        for what, probes in (("scores and losses", ()), ("and probes of the weights", PROBES)):
            with using_threads(recipe.training.threads):
                follow_training(Alike(recipe, 1), texts=texts, probes=probes)
                start = time.perf_counter()
                follow_training(Alike(recipe, n), texts=texts, probes=probes)
                seconds = (time.perf_counter() - start) / n
            row = {"recipe": name, "what": what, "look": seconds, "train": between, "share": seconds / between}
            found.append(row)
    return found


def workers(*, seeds: int = 6, steps: int = 400) -> list[dict[str, Any]]:
    """Seconds for several seeds of `minute` with one and with two processes."""
    recipes = over_seeds(load_recipe("minute", steps=steps), seeds)
    seconds = {}
    for n in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            train_runs(recipes, folder, workers=n, device="cpu")
            seconds[n] = time.perf_counter() - start
    return [{"seeds": seeds, "steps": steps, "one": seconds[1], "two": seconds[2], "gain": seconds[1] / seconds[2]}]


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=HERE)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
