"""The small models that several experiments read: trained once, kept in runs/, the same for the same seed.

    python experiments/small_models.py            # all of them, about 20 minutes on 2 CPU cores

repeats    the bundled model's recipe (vocabulary 256, blocks of 4 to 60 tokens repeated to the end), other seeds
scattered  two attention-only layers on blocks of 3 to 12 random tokens that come again after gaps (vocabulary 64)
tiled      the same on blocks of 4 to 31 tokens repeated to the end, with rotary or learned positions
text       no layer and one layer on the sources of Python's standard library, 1,024 byte-pair tokens
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import train_bundled_model

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel
from induction_lab.attention_only import Positions
from induction_lab.texts import Text, standard_library, text_batches
from induction_lab.training import scattered_copies, tiled_blocks, train

RUNS = Path(__file__).parents[1] / "runs"
SEEDS = (0, 1, 2)
REPEATS_SEEDS = (0, 2)  # the bundled model is seed 1
SNAPSHOT_EVERY = 100
PERIODS = tuple(period for period in range(4, 32) if period != 20)
TEXT_VOCABULARY, TEXT_CONTEXT = 1024, 64


def repeats_model(seed: int, *, steps: int = 1500) -> HookedModel:
    """The bundled model's own recipe with another seed (its own is 1) and fewer steps."""
    config = train_bundled_model.CONFIG
    return _kept(f"repeats-{steps}-seed{seed}", config, train_bundled_model.BATCHES, steps=steps, seed=seed)


def repeats_snapshots(seed: int, *, steps: int = 1500) -> dict[int, HookedModel]:
    """The same run again, every `SNAPSHOT_EVERY` steps: by step, the untrained model at 0."""
    name = f"repeats-{steps}-seed{seed}"
    config, batches = train_bundled_model.CONFIG, train_bundled_model.BATCHES
    wanted = range(0, steps + 1, SNAPSHOT_EVERY)
    folders = {step: RUNS / f"{name}-step{step}" for step in wanted}
    if not all((folder / "model.safetensors").exists() for folder in folders.values()):
        print(f"training {name} with snapshots", file=sys.stderr)
        network = AttentionOnlyTransformer(config, seed=seed)
        network.save(folders[0])
        saved = iter(folders[step] for step in wanted if step)

        def save(network: AttentionOnlyTransformer) -> dict[str, int | float]:
            network.save(next(saved))
            return {}

        torch.set_num_threads(1)
        progress = sys.stderr.isatty()
        train(network, batches, steps=steps, seed=seed, look=save, every=SNAPSHOT_EVERY, progress=progress)
    return {
        step: HookedModel(AttentionOnlyTransformer.load(folder), name=folder.name) for step, folder in folders.items()
    }


def scattered_model(seed: int, *, steps: int = 2000) -> HookedModel:
    """Two layers that learn to copy blocks wherever they come again."""
    config = AttentionOnlyConfig()
    batches = partial(scattered_copies, config, tuple(range(3, 13)))
    return _kept(f"scattered-{steps}-seed{seed}", config, batches, steps=steps, seed=seed)


def tiled_model(seed: int, positions: Positions = "rotary", *, steps: int = 800) -> HookedModel:
    """Two layers that learn to go on with a block repeated to the end."""
    config = AttentionOnlyConfig(positions=positions)
    batches = partial(tiled_blocks, config, PERIODS)
    return _kept(f"tiled-{positions}-{steps}-seed{seed}", config, batches, steps=steps, seed=seed)


def text_model(n_layers: int, seed: int = 0, *, text: Text | None = None, steps: int = 1500) -> HookedModel:
    """Layers without LayerNorm, so that the weights alone are the whole story, on Python sources."""
    text = standard_library(TEXT_VOCABULARY) if text is None else text
    config = AttentionOnlyConfig(
        n_layers=n_layers,
        n_heads=8,
        d_model=128,
        d_head=32,
        d_vocab=text.d_vocab,
        n_ctx=TEXT_CONTEXT,
        layer_norm=False,
    )
    batches = partial(text_batches, text, config.n_ctx)
    model = _kept(f"text-{n_layers}l-{text.d_vocab}-{steps}-seed{seed}", config, batches, steps=steps, seed=seed)
    model.tokenizer = text.tokenizer
    return model


def _kept(name: str, config: AttentionOnlyConfig, batches: Callable, *, steps: int, seed: int) -> HookedModel:
    folder = RUNS / name
    if (folder / "model.safetensors").exists():
        kept = AttentionOnlyTransformer.load(folder)
        if kept.cfg == config:
            return HookedModel(kept, name=name)
    print(f"training {name}", file=sys.stderr)
    network = AttentionOnlyTransformer(config, seed=seed)
    torch.set_num_threads(1)  # such small matrices gain nothing from a second thread, and sums keep their order
    train(network, batches, steps=steps, seed=seed, progress=sys.stderr.isatty())
    network.save(folder)
    return HookedModel(network.eval(), name=name)


if __name__ == "__main__":
    for each in REPEATS_SEEDS:
        repeats_model(each)
    for each in SEEDS:
        scattered_model(each)
        tiled_model(each, "rotary")
        tiled_model(each, "learned")
    for depth in (0, 1):
        text_model(depth)
