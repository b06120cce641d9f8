"""The small models that several experiments read: trained once, kept in runs/, the same for the same seed.

    python experiments/small_models.py            # all of them, about 6 minutes on 2 CPU cores

copying    two attention-only layers on blocks of random tokens that repeat (4 to 31 tokens, vocabulary 64), with
           rotary or learned positions; 20-token blocks are never trained on
text       zero, one and two layers on the sources of Python's standard library, 1,024 byte-pair tokens
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel
from induction_lab.texts import Text, standard_library, text_batches
from induction_lab.training import tiled_blocks, train

RUNS = Path(__file__).parents[1] / "runs"
SEEDS = (0, 1, 2)
PERIODS = tuple(period for period in range(4, 32) if period != 20)
TEXT_VOCABULARY, TEXT_CONTEXT = 1024, 64


def copying_model(seed: int, positions: str = "rotary", *, steps: int = 800) -> HookedModel:
    """Two layers that learn to copy repeated blocks."""
    config = AttentionOnlyConfig(positions=positions)  # type: ignore[arg-type]
    batches = partial(tiled_blocks, config, PERIODS)
    return _kept(f"copying-{positions}-{steps}-seed{seed}", config, batches, steps=steps, seed=seed)


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
        return HookedModel(AttentionOnlyTransformer.load(folder), name=name)
    print(f"training {name}", file=sys.stderr)
    network = AttentionOnlyTransformer(config, seed=seed)
    train(network, batches, steps=steps, seed=seed, progress=sys.stderr.isatty())
    network.save(folder)
    return HookedModel(network.eval(), name=name)


if __name__ == "__main__":
    for positions in ("rotary", "learned"):
        for seed in SEEDS:
            copying_model(seed, positions)
    for n_layers in (0, 1, 2):
        text_model(n_layers)
