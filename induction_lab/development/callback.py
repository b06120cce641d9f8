"""`InductionCallback`: heads scored while a model trains, in the trainer's own log and in one `Trajectory`.

What is measured is what `follow_training` measures of a checkpoint, on the network as it is in memory. Training goes on
with the same bits: dropout, gradients, hooks and the state of all random generators are as they were.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import TrainerCallback

from induction_lab.data.prompts import Prompts, PromptsLike, as_repeats
from induction_lab.development.evaluation import Evaluation, default_prompts
from induction_lab.development.following import about_model, with_checkpoint
from induction_lab.development.rows import Rows, empty_table
from induction_lab.development.trajectory import Trajectory
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.tables import check_suffix
from induction_lab.runtime.optional import library
from induction_lab.runtime.whole_numbers import check_numbers
from induction_lab.scores.score import Score


class InductionCallback(TrainerCallback):
    """Score heads every so many updates: give it to a `Trainer` of transformers, or `.lightning()` to Lightning's.

    >>> callback = InductionCallback(every=100)                                                   # doctest: +SKIP
    >>> Trainer(model, arguments, train_dataset=data, callbacks=[callback]).train()               # doctest: +SKIP
    >>> callback.trajectory.best("prefix_matching")                                               # doctest: +SKIP

    The trainer logs (TensorBoard, W&B, its `log_history`) the best head's value of each score, `induction/NAME`, and
    the loss on each copy of the repeated block, `induction/loss_copy_1`, `induction/loss_copy_2`. Of several processes
    the first measures.

    Args:
        every: Updates between measurements; the network is measured before the first and after the last as well.
        prompts: What to score on, as in `score_heads`, or several of these by name; 16 blocks of 20 random tokens
            written twice by default.
        scores: As in `follow_training`.
        path: Where to keep the trajectory (`.parquet`, `.csv`, `.json`), written after every measurement.

    Raises:
        ValueError: If `every` is no whole number above 0 or the path has a suffix that no table has; when training
            begins, if this is no model that can be measured.
    """

    def __init__(
        self,
        every: int = 100,
        prompts: PromptsLike | Mapping[str, PromptsLike] | None = None,
        *,
        scores: Sequence[str | Score] = ("prefix_matching", "previous_token"),
        path: str | Path | None = None,
    ) -> None:
        """Take note of what is wanted; the network comes with the training."""
        check_numbers(every=every)
        if path is not None:
            check_suffix(Path(path))
        self.every, self.scores, self.path = every, scores, path
        self.trajectory = Trajectory(empty_table())
        self._asked: Any = prompts
        self._model: HookedModel | None = None
        self._trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the network that comes, unless another process does."""
        if state.is_world_process_zero:
            self._trainer = _calling(self)
            self._begin(kwargs["model"], kwargs.get("processing_class"), name=args.run_name or "training")
            self._log_to_trainer(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure the network after an update that counts."""
        due = state.global_step % self.every == 0 or state.global_step >= state.max_steps
        if state.is_world_process_zero and due:
            wanted = control.should_log  # the training loss is logged after this, unless a log of ours takes its place
            self._log_to_trainer(state.global_step)
            control.should_log = wanted

    def lightning(self) -> Any:
        """This callback as Lightning's trainer takes it, of the module or the first of its parts that can be measured.

        >>> lightning.Trainer(callbacks=[callback.lightning()]).fit(module)                       # doctest: +SKIP

        Raises:
            ValueError: If Lightning is not installed.
        """
        old = "pytorch_lightning" in sys.modules and "lightning" not in sys.modules  # its name as a package of its own
        base = library("pytorch_lightning" if old else "lightning.pytorch", extra="lightning").Callback
        ours = self

        class LightningInductionCallback(base):
            """Hands on what happens."""

            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                if trainer.is_global_zero:
                    ours._begin(pl_module, getattr(pl_module, "tokenizer", None), name=type(pl_module).__name__)
                    self._log(trainer)

            def on_train_batch_end(self, trainer: Any, pl_module: Any, *what: Any) -> None:
                if trainer.is_global_zero and trainer.global_step % ours.every == 0:
                    self._log(trainer)

            def on_train_end(self, trainer: Any, pl_module: Any) -> None:
                if trainer.is_global_zero:
                    self._log(trainer)

            def _log(self, trainer: Any) -> None:
                values = ours._measured(trainer.global_step)
                for logger in trainer.loggers if values else ():
                    logger.log_metrics(values, step=trainer.global_step)

        return LightningInductionCallback()

    def _begin(self, network: nn.Module, tokenizer: Any, *, name: str) -> None:
        """Find the network, and plan what is read of it."""
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # a processor's
        with _undisturbed(network):
            model = self._model = _measurable(network, tokenizer if hasattr(tokenizer, "all_special_ids") else None)
            self._evaluation = Evaluation(self._prompts(model), scores=self.scores, probes=())
        facts = {"run": name, **about_model(model), **self._evaluation.facts()}
        self.trajectory = Trajectory(empty_table(), facts)

    def _prompts(self, model: HookedModel) -> dict[str, Prompts]:
        if self._asked is None:
            name, prompts = next(iter(default_prompts(model).items()))
            return {name: prompts}
        named = isinstance(self._asked, Mapping) and "input_ids" not in self._asked
        return {
            name: as_repeats(model, some) for name, some in (self._asked if named else {"prompts": self._asked}).items()
        }

    def _log_to_trainer(self, step: int) -> None:
        if values := self._measured(step):
            self._trainer.log(values)

    def _measured(self, step: int) -> dict[str, float]:
        """What the log is told of the network now; nothing where that step is known already."""
        model = self._model
        if model is None or step in self.trajectory.steps:
            return {}
        with _undisturbed(model.network):
            rows = self._evaluation.measure(model, Rows(self.trajectory.provenance["run"], step))
            self.trajectory = with_checkpoint(self.trajectory, rows, model)
        if self.path is not None:
            self.trajectory.save(self.path)
        return _summary(rows, list(self._evaluation.prompts))


def _summary(rows: Rows, prompts: Sequence[str]) -> dict[str, float]:
    """The best head's value of each score and the loss on each copy; prompts are named where there are several."""
    found: dict[str, float] = {}
    groups: Any = rows.table().groupby(["prompts", "metric"], sort=False)
    for (on, metric), some in groups:
        place = f"induction/{on}" if len(prompts) > 1 and on in prompts else "induction"
        if metric == "loss_by_copy":
            found |= {f"{place}/loss_copy_{i}": float(x) for i, x in zip(some["index"], some["value"], strict=True)}
        else:
            found[f"{place}/{metric}"] = float(some["value"].max())
    return found


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Measure without autocast, and leave every random generator as it was."""
    device = next(network.parameters()).device
    python, numpy = random.getstate(), np.random.get_state()
    others = [] if device.type == "cpu" else [device]
    with (
        torch.random.fork_rng(others, device_type=device.type if others else "cuda"),
        torch.autocast(device.type, enabled=False),
    ):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


def _measurable(network: nn.Module, tokenizer: Any) -> HookedModel:
    """The network, or the first of its parts, as a model that can be measured.

    Raises:
        ValueError: If there is none, or its weights are spread over processes.
    """
    if any(hasattr(weight, "ds_id") or type(weight).__name__ == "DTensor" for weight in network.parameters()):
        raise ValueError(
            "InductionCallback reads the whole network in one process, and its weights are spread over several (FSDP, "
            "ZeRO-3). Save checkpoints and measure those: follow_training(CheckpointFolder(folder))."
        )
    why: list[str] = []
    for part in (network, *network.children()):
        try:
            return HookedModel(part, tokenizer)
        except ValueError as error:
            why.append(str(error))
    raise ValueError(f"Neither {type(network).__name__} nor one of its parts can be measured: {why[0]}")


def _calling(callback: TrainerCallback) -> Any:
    """The trainer that calls, whose log is wanted: it tells callbacks neither itself nor its loggers."""
    frame: Any = sys._getframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if callback in getattr(getattr(caller, "callback_handler", None), "callbacks", ()):
            return caller
        frame = frame.f_back
    raise ValueError("InductionCallback is given to a Trainer: Trainer(model, args, …, callbacks=[callback]).")
