"""The small models that several experiments read: trained once, kept in runs/, the same for the same seed.

    python -m experiments small_models            # all of them, about 20 minutes on 2 CPU cores

repeats    the bundled model's recipe (vocabulary 256, blocks of 4 to 60 tokens repeated to the end), other seeds
scattered  two attention-only layers on blocks of 3 to 12 random tokens that come again after gaps (vocabulary 64)
tiled      the same on blocks of 4 to 31 tokens repeated to the end, with rotary or learned positions
text       no layer and one layer on the sources of Python's standard library, 1,024 byte-pair tokens
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from experiments.harness import RUNS_FOLDER
from experiments.subjects import train_bundled_model
from induction_lab import AttentionOnlyConfig, HookedModel
from induction_lab.data.corpora import TextFiles
from induction_lab.data.training_streams import ScatteredCopies, TiledBlocks
from induction_lab.models.attention_only.config import Positions
from induction_lab.training.many_runs import train_runs
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import Run
from induction_lab.training.trainer import TrainingPlan

RUNS = RUNS_FOLDER
SEEDS = (0, 1, 2)
REPEATS_SEEDS = (0, 2)  # the bundled model is seed 1
SNAPSHOT_EVERY = 100
TEXT_VOCABULARY, TEXT_CONTEXT = 1024, 64


def repeats_model(seed: int, *, steps: int = 1500) -> HookedModel:
    """The bundled model's own recipe with another seed (its own is 1) and fewer steps."""
    return last(*_repeats(seed, steps))


def repeats_snapshots(seed: int, *, steps: int = 1500) -> dict[int, HookedModel]:
    """The same run every `SNAPSHOT_EVERY` steps: by step, the untrained model at 0."""
    name, recipe = _repeats(seed, steps)
    run = trained({name: recipe})[name]
    return {step: run.model(step) for step in run.steps if step % SNAPSHOT_EVERY == 0}


def scattered_model(seed: int, *, steps: int = 2000) -> HookedModel:
    """Two layers that learn to copy blocks wherever they come again."""
    return last(*_scattered(seed, steps))


def tiled_model(seed: int, positions: Positions = "rotary", *, steps: int = 800) -> HookedModel:
    """Two layers that learn to go on with a block repeated to the end."""
    return last(*_tiled(seed, positions, steps))


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


def _repeats(seed: int, steps: int = 1500) -> tuple[str, Recipe]:
    recipe = Recipe(train_bundled_model.CONFIG, train_bundled_model.DATA, _plan(steps), seed=seed)
    return f"repeats-{steps}-seed{seed}", recipe


def _scattered(seed: int, steps: int = 2000) -> tuple[str, Recipe]:
    return f"scattered-{steps}-seed{seed}", Recipe(AttentionOnlyConfig(), ScatteredCopies(), _plan(steps), seed=seed)


def _tiled(seed: int, positions: Positions, steps: int = 800) -> tuple[str, Recipe]:
    data, config = TiledBlocks(left_out=(20,)), AttentionOnlyConfig(positions=positions)
    return f"tiled-{positions}-{steps}-seed{seed}", Recipe(config, data, _plan(steps), seed=seed)


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
    wanted = [_repeats(seed) for seed in REPEATS_SEEDS] + [_scattered(seed) for seed in SEEDS]
    wanted += [_tiled(seed, positions) for seed in SEEDS for positions in ("rotary", "learned")]
    wanted += [_text(depth, 0) for depth in (0, 1)]
    trained(dict(wanted))
