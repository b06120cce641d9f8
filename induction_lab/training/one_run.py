"""`train_run`: train what a recipe says into a folder, and go on where it was left (see `training.runs`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from induction_lab.models.attention_only.clamping import clamp_heads
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.results.tables import save_table, writing
from induction_lab.runtime.machine import find_device, using_threads
from induction_lab.runtime.progress import progress_bar
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import (
    LOG,
    PLOT,
    RESUME,
    Run,
    begin,
    checkpoint_folder,
    locked,
    writes,
)
from induction_lab.training.trainer import Trainer, Update

_RESUME_SECONDS = 60.0  # work that a cut costs at most, where checkpoints are rarer
_LOOK_EVERY = 10  # updates whose losses are read off the device, and looked at, together


def train_run(
    recipe: Recipe,
    folder: str | Path,
    *,
    device: str | torch.device | None = None,
    plot: bool = False,
    progress: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> Run:
    """Train from the start, or go on where the run in this folder was cut off.

    >>> run = train_run(load_recipe("minute"), "runs/minute", progress=True)     # doctest: +SKIP

    Args:
        recipe: What to train.
        folder: Made if need be; a run that is there already must be of the same recipe.
        device: `cpu`, `cuda`, …; a GPU by default where there is one.
        plot: Draw `loss.png` anew at every checkpoint.
        progress: A progress bar with loss and speed on standard error.
        on_step: Called with the number of updates done, after each.

    Raises:
        ValueError: If the folder holds another run or is in use, cannot be written, there is no such device, the text
            has changed, or the loss is no number any more.
    """
    folder = Path(folder)
    chosen = find_device(device)
    with locked(folder), using_threads(recipe.training.threads):
        run = begin(recipe, folder)
        if run.finished:
            return run
        network = recipe.network().to(chosen)
        trainer = Trainer(network, run.stream(), recipe.training, seed=recipe.seed)
        keeper = Keeper(run, trainer.state, plot=plot)
        keeper.resume(trainer)
        with ExitStack() as stack:
            stack.enter_context(clamp_heads(network, recipe.clamps))
            bar = progress_bar(recipe.training.steps, run.name, shown=progress, done=trainer.step)
            tick = stack.enter_context(bar)
            keeper.keep(trainer.step)
            while trainer.step < recipe.training.steps:
                keeper.note(trainer.step + 1, trainer.advance())
                keeper.keep(trainer.step)
                tick(1, keeper.summary)
                if on_step is not None:
                    on_step(trainer.step)
    return run


class Keeper:
    """Writes what one run leaves on disk, at the right steps and in an order that survives being killed.

    Args:
        run: Whose folder.
        state: Gives the trainer's state.
        plot: Draw the loss at every checkpoint.
    """

    def __init__(self, run: Run, state: Callable[[], dict[str, Tensor]], *, plot: bool = False) -> None:
        """Nothing is written yet."""
        self.run, self.state, self.plot = run, state, plot
        self.plan = run.recipe.training
        self.wanted = set(self.plan.checkpoints)
        self.rows: list[dict[str, float]] = []
        self.waiting: list[tuple[int, Update, float]] = []
        self.summary = ""
        self.before = 0.0  # seconds of training before this sitting
        self.begun = self.kept_at = time.monotonic()

    def resume(self, trainer: Trainer) -> None:
        """Bring the trainer to where the run was left."""
        path = self.run.folder / RESUME
        if not path.exists():
            return
        try:
            trainer.restore(load_file(path))
            log: Any = self.run.log
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}. Delete {self.run.folder} and train again.") from error
        kept = log[log["step"] <= trainer.step]
        self.rows = kept.to_dict("records")  # type: ignore[assignment]
        self.before = float(kept["seconds"].iloc[-1]) if len(kept) else 0.0

    def note(self, step: int, update: Update) -> None:
        """Remember one update; several are read off the device together."""
        self.waiting.append((step, update, self.before + time.monotonic() - self.begun))
        if len(self.waiting) >= _LOOK_EVERY:
            self._look()

    def keep(self, step: int) -> None:
        """Write what is due at this step: weights at checkpoints; from time to time all that resuming takes."""
        checkpoint = step in self.wanted
        if not checkpoint and time.monotonic() - self.kept_at < _RESUME_SECONDS:
            return
        self._look()
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state().items()}
        with writes(self.run.folder, step):
            if self.rows:
                save_table(pd.DataFrame(self.rows).astype({"step": int, "tokens": int}), {}, self.run.folder / LOG)
                with writing(self.run.folder / RESUME) as part:
                    save_file(state, part)
            if checkpoint:  # last, so that a run with its last checkpoint lacks nothing
                weights = {name.removeprefix("network."): x for name, x in state.items() if name.startswith("network.")}
                save_weights(self.run, step, weights)
            if checkpoint and self.plot and self.rows:
                _draw(self.run)
        self.kept_at = time.monotonic()

    def _look(self) -> None:
        n_tokens = self.plan.batch * self.plan.accumulate * self.run.recipe.model.n_ctx
        for step, update, seconds in self.waiting:
            loss, norm = float(update.loss), float(update.gradient_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):  # clipping an infinite gradient makes weights nan
                raise ValueError(
                    f"The loss is {loss} at step {step} (gradient norm {norm}). The last good checkpoint of "
                    f"{self.run.folder} is step {max(self.run.steps, default=0)}. Lower `peak_rate` (now "
                    f"{self.plan.peak_rate}) or `clip`, or warm up longer, and train into a new folder."
                )
            rate = self.plan.rate(step - 1)
            row = {"step": step, "tokens": step * n_tokens, "loss": loss, "gradient_norm": norm, "rate": rate}
            self.rows.append({**row, "seconds": seconds})
        if self.waiting:
            first, last = self.rows[-min(len(self.waiting) + 1, len(self.rows))], self.rows[-1]
            passed = last["seconds"] - first["seconds"]
            speed = (last["tokens"] - first["tokens"]) / passed if passed else 0.0
            self.summary = f"loss {last['loss']:.3f} · {speed:,.0f} tokens/s"
        self.waiting.clear()


def save_weights(run: Run, step: int, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint from the weights alone."""
    network = AttentionOnlyTransformer(run.recipe.model)
    network.load_state_dict(weights)
    network.save(checkpoint_folder(run.folder, step))


def _draw(run: Run) -> None:
    import matplotlib.pyplot as plt

    log = run.log
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    ax.plot(log["step"], log["loss"], lw=0.6, alpha=0.5, color="C0")
    ax.plot(log["step"], log["loss"].ewm(span=20).mean(), lw=1.5, color="C0")
    ax.set(xlabel="step", ylabel="loss, nats", title=run.name, xscale="symlog", ylim=(0, None))
    with writing(run.folder / PLOT) as part:
        figure.savefig(part, dpi=120)
    plt.close(figure)
