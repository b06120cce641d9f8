"""Training runs on disk: a folder with the recipe, checkpoints, the log, and all that is needed to go on.

    recipe.toml                       what is trained
    checkpoints/step-00000050/        config.json, model.safetensors; at 0, 1, 2, 4, … and every `every` steps
    log.parquet                       step, tokens, loss, gradient_norm, rate, seconds; one row an update
    resume.safetensors                weights, optimizer and random state of one step
    tokenizer/                        where the data are text, with its hash

Files are written under another name and renamed when whole. A run that is cut off anywhere goes on from the last
`resume.safetensors` and, on a CPU, ends with the same bits as one that was never cut off.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from induction_lab.attention_only import CONFIG_FILE, WEIGHTS_FILE, AttentionOnlyTransformer
from induction_lab.clamping import clamp_for_good, clamp_heads
from induction_lab.models import HookedModel, find_device
from induction_lab.progress import progress_bar
from induction_lab.recipes import Recipe, load_recipe
from induction_lab.streams import Stream
from induction_lab.tables import load_table, save_table, writing
from induction_lab.training import Trainer, Update, using_threads

RECIPE, LOG, RESUME = "recipe.toml", "log.parquet", "resume.safetensors"
PLOT, TOKENIZER, DIGEST = "loss.png", "tokenizer", "text.sha256"
_RESUME_SECONDS = 60.0  # work that a cut costs at most, where checkpoints are rarer
_LOOK_EVERY = 10  # updates whose losses are read off the device, and looked at, together


class Run:
    """A training run, finished or not.

    Args:
        folder: That `train_run` made.

    Raises:
        ValueError: If there is no run.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read its recipe."""
        self.folder = Path(folder)
        if not (self.folder / RECIPE).is_file():
            raise ValueError(f"{folder} is no training run: it has no {RECIPE}. Make one: induction-lab train minute.")
        self.recipe = load_recipe(self.folder / RECIPE)
        self.name = self.folder.name

    def __repr__(self) -> str:
        """Name and how far it is."""
        return f"Run({self.name!r}, {len(self.steps)} checkpoints, step {max(self.steps, default=0)})"

    @property
    def steps(self) -> list[int]:
        """Steps whose weights are there."""
        found = (self.folder / "checkpoints").glob("step-*")
        whole = [path for path in found if (path / CONFIG_FILE).exists() and (path / WEIGHTS_FILE).exists()]
        return sorted(int(number) for path in whole if (number := path.name.removeprefix("step-")).isdecimal())

    @property
    def finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.recipe.training.steps in self.steps

    @property
    def log(self) -> pd.DataFrame:
        """One row an update: step, tokens, loss (nats), gradient_norm, rate, seconds."""
        return load_table(self.folder / LOG, {"step", "loss"}, what="training log")[0]

    def model(self, step: int | None = None) -> HookedModel:
        """The model after so many steps, the last there is by default. Heads that the recipe clamps stay clamped.

        Raises:
            ValueError: If that step was not kept.
        """
        steps = self.steps
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            raise ValueError(f"{self.folder} has no step {step}; it has {', '.join(map(str, steps)) or 'none yet'}.")
        network = AttentionOnlyTransformer.load(checkpoint_folder(self.folder, step))
        clamp_for_good(network, self.recipe.clamps)
        return HookedModel(network, self._tokenizer(), name=self.name, revision=f"step{step}")

    def _tokenizer(self) -> Any:
        if not (self.folder / TOKENIZER).is_dir():
            return None
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.folder / TOKENIZER)


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
        network = new_network(recipe).to(chosen)
        trainer = Trainer(network, open_stream(recipe, run), recipe.training, seed=recipe.seed)
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
        """Write what this step calls for: the weights at checkpoints, and at times the means to go on."""
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
            first, last = self.rows[-len(self.waiting)], self.rows[-1]
            passed = last["seconds"] - first["seconds"]
            speed = (last["tokens"] - first["tokens"]) / passed if passed else 0.0
            self.summary = f"loss {last['loss']:.3f} · {speed:,.0f} tokens/s"
        self.waiting.clear()


def open_stream(recipe: Recipe, run: Run | None = None) -> Stream:
    """The stream that a recipe's data become; for a run's text its tokenizer is kept with it."""
    if not hasattr(recipe.data, "open"):
        return recipe.data
    text = recipe.data.open()
    if run is not None:
        _keep_tokenizer(run.folder, text)
    return text


def _keep_tokenizer(folder: Path, text: Any) -> None:
    """With the text's hash: another text has another vocabulary, whose tokens say nothing to these weights."""
    kept, digest = folder / TOKENIZER, text.facts["sha256"]
    if not kept.is_dir():
        with writes(folder, 0), tempfile.TemporaryDirectory(dir=folder, prefix=f".{TOKENIZER}-") as part:
            text.tokenizer.save_pretrained(Path(part) / TOKENIZER)
            (Path(part) / TOKENIZER / DIGEST).write_text(digest)
            (Path(part) / TOKENIZER).rename(kept)
    elif (kept / DIGEST).is_file() and (kept / DIGEST).read_text() != digest:
        raise ValueError(f"The text that {folder} was trained on has changed. Bring it back, or give another folder.")


def new_network(recipe: Recipe) -> AttentionOnlyTransformer:
    """The network that a recipe starts from."""
    return AttentionOnlyTransformer(recipe.model, seed=recipe.seed, scale=recipe.training.initial_scale)


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where a step's weights are."""
    return folder / "checkpoints" / f"step-{step:08}"


def save_weights(run: Run, step: int, weights: dict[str, Tensor]) -> None:
    """Write a checkpoint from the weights alone."""
    network = AttentionOnlyTransformer(run.recipe.model)
    network.load_state_dict(weights)
    network.save(checkpoint_folder(run.folder, step))


@contextmanager
def writes(folder: Path, step: int) -> Iterator[None]:
    """Anything that goes wrong in writing is one error that says where the run can go on from."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise ValueError(
            f"{folder} cannot be written at step {step}: {reason}. What is there is whole: make room or mend the "
            "folder's rights, then give the same command again, and the run goes on."
        ) from error


def begin(recipe: Recipe, folder: Path) -> Run:
    """The run in this folder, new or of the same recipe."""
    path = folder / RECIPE
    _sweep(folder)
    if path.exists():
        run = Run(folder)
        if run.recipe != recipe:
            raise ValueError(
                f"{folder} holds a run of another recipe ({_difference(run.recipe, recipe)}). Give another folder."
            )
        return run
    with writes(folder, 0), writing(path) as part:
        part.write_text(recipe.to_toml(), encoding="utf-8")
    return Run(folder)


def _sweep(folder: Path) -> None:
    """Remove what a killed process was writing, and nothing else: the folder may hold more than the run."""
    for name in (RECIPE, LOG, RESUME, PLOT):
        _remove(folder.glob(_part_of(name)))
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        _remove(folder.glob(f"checkpoints/step-*/{_part_of(name)}"))
    for place in (".", "checkpoints/step-*"):
        _remove(folder.glob(f"{place}/.tmp??????"))  # safetensors' own
    for path in folder.glob(f".{TOKENIZER}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _part_of(name: str) -> str:
    """Files under the names that `writing` gives them until they are whole."""
    return f".{Path(name).stem}-*{Path(name).suffix}"


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_file():
            path.unlink(missing_ok=True)


def _difference(one: Recipe, other: Recipe) -> str:
    there, here = one.to_toml().splitlines(), other.to_toml().splitlines()
    changed = [f"{line} there" for line in there if line not in here]
    return "; ".join(changed + [f"{line} here" for line in here if line not in there]) or "entries in other places"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody else trains into this folder meanwhile; the lock dies with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"{folder} is in use: another process trains there. Wait, or give another folder.") from error
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror or error}.") from error


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
