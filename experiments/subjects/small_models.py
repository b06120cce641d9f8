"""The small models that several experiments read: trained once, kept in runs/, the same for the same seed.

    python -m experiments.subjects.small_models    # all of them, about 20 minutes of one CPU core

repeats    blocks of 4 to 60 tokens repeated to the end, vocabulary 256: the bundled model's data and width of heads
scattered  blocks of 3 to 12 random tokens that come again after gaps (vocabulary 64)
tiled      blocks of 4 to 31 tokens repeated to the end (vocabulary 64)
text       no layer and one layer on the sources of Python's standard library, 1,024 byte-pair tokens

Repeats, scattered and tiled are two attention-only layers of eight heads each, so that there are heads left that belong
to no circuit, with rotary positions and five seeds. Initial weights have a standard deviation of 0.02, GPT-2's and that
of the recipes that come with the package, whatever the claims come to. Steps were decided once a kind of data on a seed
that is not among these (100): half as many again as its best head took to 0.6 in prefix matching.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace

from experiments.harness import RUNS_FOLDER
from experiments.subjects import train_bundled_model
from induction_lab import AttentionOnlyConfig, HookedModel
from induction_lab.data.corpora import TextFiles
from induction_lab.data.training_streams import ScatteredCopies, TiledBlocks
from induction_lab.training.many_runs import train_runs
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import Run
from induction_lab.training.trainer import TrainingPlan

RUNS = RUNS_FOLDER
SEEDS = (0, 1, 2, 3, 4)
HEADS = 8  # a layer
DEVIATION = 0.02  # of initial weights
STEPS = {"repeats": 600, "scattered": 600, "tiled": 450}
SNAPSHOT_EVERY = 50
TEXT_VOCABULARY, TEXT_CONTEXT = 1024, 64


def small_models(seeds: int = len(SEEDS)) -> list[HookedModel]:
    """All models that learnt to copy, kind by kind: `seeds` of each."""
    makers = (repeats_model, scattered_model, tiled_model)
    return [make(seed) for make in makers for seed in SEEDS[:seeds]]


def repeats_model(seed: int, *, steps: int = STEPS["repeats"]) -> HookedModel:
    """The bundled model's data and width of heads; more heads, and other seeds."""
    return last(*_repeats(seed, steps))


def snapshots(kind: str, seed: int, *, steps: int | None = None) -> dict[int, HookedModel]:
    """A run of one of `STEPS`' kinds every `SNAPSHOT_EVERY` steps: by step, the untrained model at 0."""
    makers = {"repeats": _repeats, "scattered": _scattered, "tiled": _tiled}
    name, recipe = makers[kind](seed, steps or STEPS[kind])
    run = trained({name: recipe})[name]
    return {step: run.model(step) for step in run.steps if step % SNAPSHOT_EVERY == 0}


def scattered_model(seed: int, *, steps: int = STEPS["scattered"]) -> HookedModel:
    """Two layers that learn to copy blocks wherever they come again."""
    return last(*_scattered(seed, steps))


def tiled_model(seed: int, *, steps: int = STEPS["tiled"]) -> HookedModel:
    """Two layers that learn to go on with a block repeated to the end."""
    return last(*_tiled(seed, steps))


def text_model(n_layers: int, seed: int = 0, *, steps: int = 1500) -> HookedModel:
    """Layers without LayerNorm, so that the weights alone are the whole story, on Python sources."""
    return last(*_text(n_layers, seed, steps))


def trained(recipes: Mapping[str, Recipe]) -> dict[str, Run]:
    """Runs in runs/, trained where they are not there yet."""
    return train_runs(recipes, RUNS, device="cpu", progress=sys.stderr.isatty())


def last(name: str, recipe: Recipe) -> HookedModel:
    """The last model of one run, under the run's name."""
    model = trained({name: recipe})[name].model()
    model.revision = None
    return model


def _repeats(seed: int, steps: int = STEPS["repeats"]) -> tuple[str, Recipe]:
    config = replace(train_bundled_model.CONFIG, n_heads=HEADS)
    return f"repeats-{steps}-seed{seed}", _recipe(config, train_bundled_model.DATA, steps, seed)


def _scattered(seed: int, steps: int = STEPS["scattered"]) -> tuple[str, Recipe]:
    config = AttentionOnlyConfig(n_heads=HEADS)
    return f"scattered-{steps}-seed{seed}", _recipe(config, ScatteredCopies(), steps, seed)


def _tiled(seed: int, steps: int = STEPS["tiled"]) -> tuple[str, Recipe]:
    config = AttentionOnlyConfig(n_heads=HEADS)
    return f"tiled-{steps}-seed{seed}", _recipe(config, TiledBlocks(left_out=(20,)), steps, seed)


def _recipe(config: AttentionOnlyConfig, data: TiledBlocks | ScatteredCopies, steps: int, seed: int) -> Recipe:
    plan = replace(_plan(steps), initial_scale=DEVIATION * math.sqrt(config.d_model))
    return Recipe(config, data, plan, seed=seed)


def _text(n_layers: int, seed: int, steps: int = 1500) -> tuple[str, Recipe]:
    text = TextFiles(d_vocab=TEXT_VOCABULARY)
    config = AttentionOnlyConfig(
        n_layers=n_layers,
        n_heads=8,
        d_model=128,
        d_head=32,
        d_vocab=text.d_vocab,
        n_ctx=TEXT_CONTEXT,
        layer_norm=False,
    )
    name = f"text-{n_layers}l-{text.d_vocab}-{steps}-seed{seed}"
    return name, Recipe(config, text, _plan(steps, batch=32), seed=seed)


def _plan(steps: int, *, batch: int = 48) -> TrainingPlan:
    return TrainingPlan(steps=steps, batch=batch, every=SNAPSHOT_EVERY)


if __name__ == "__main__":
    wanted = [make(seed) for make in (_tiled, _scattered, _repeats) for seed in SEEDS]
    wanted += [_text(depth, 0) for depth in (0, 1)]
    trained(dict(wanted))
