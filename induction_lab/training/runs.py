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

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from induction_lab.data.training_streams import TokenStream
from induction_lab.models.attention_only.clamping import clamp_for_good
from induction_lab.models.attention_only.network import CONFIG_FILE, WEIGHTS_FILE, AttentionOnlyTransformer
from induction_lab.models.hooked_model import HookedModel
from induction_lab.results.tables import load_table, writing
from induction_lab.training.recipes import Recipe, load_recipe

FORMING = "forming"  # the run that comes with the package
RECIPE, LOG, RESUME = "recipe.toml", "log.parquet", "resume.safetensors"
PLOT, TOKENIZER, DIGEST = "loss.png", "tokenizer", "text.sha256"


class Run:
    """A training run, finished or not.

    Args:
        folder: That `train_run` made; or `forming`, which comes with the package: the recipe `minute`, seed 0, at some
            steps before, while and after its induction heads form, weights rounded to float16.

    Raises:
        ValueError: If there is no run.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read its recipe."""
        self.folder = _run_folder(folder)
        if not is_run(self.folder):
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
        """One row an update, with step, tokens, loss (nats), gradient_norm, rate, seconds."""
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

    def stream(self) -> TokenStream:
        """The tokens that it is trained on; the tokenizer of its text is kept in its folder.

        Raises:
            ValueError: If the text cannot be read, or has changed since.
        """
        stream = self.recipe.stream()
        if self.recipe.is_text:
            _keep_tokenizer(self.folder, stream)
        return stream

    def _tokenizer(self) -> Any:
        if not (self.folder / TOKENIZER).is_dir():
            return None
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.folder / TOKENIZER)


def is_run(folder: str | Path) -> bool:
    """Whether a folder is one that `train_run` made."""
    return (_run_folder(folder) / RECIPE).is_file()


def _run_folder(name: str | Path) -> Path:
    folder = Path(name).expanduser()
    return Path(__file__).parent / FORMING if str(name) == FORMING and not folder.exists() else folder


def _keep_tokenizer(folder: Path, text: Any) -> None:
    """Keep it with the text's hash: another text has another vocabulary, whose tokens say nothing to these weights."""
    kept, digest = folder / TOKENIZER, text.facts["sha256"]
    if not kept.is_dir():
        with writes(folder, 0), tempfile.TemporaryDirectory(dir=folder, prefix=f".{TOKENIZER}-") as part:
            text.tokenizer.save_pretrained(Path(part) / TOKENIZER)
            (Path(part) / TOKENIZER / DIGEST).write_text(digest)
            (Path(part) / TOKENIZER).rename(kept)
    elif (kept / DIGEST).is_file() and (kept / DIGEST).read_text() != digest:
        raise ValueError(f"The text that {folder} was trained on has changed. Bring it back, or give another folder.")


def checkpoint_folder(folder: Path, step: int) -> Path:
    """Where a step's weights are."""
    return folder / "checkpoints" / f"step-{step:08}"


@contextmanager
def writes(folder: Path, step: int) -> Iterator[None]:
    """Turn any error in writing a run into one that says at which step, and how to go on."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise ValueError(
            f"{folder} cannot be written at step {step}: {reason}. What is there is whole: make room or mend the "
            "folder's rights, then give the same command again, and the run goes on."
        ) from error


def begin(recipe: Recipe, folder: Path) -> Run:
    """Begin a run in a folder, or open the one of the same recipe that is there."""
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
    """A pattern for the temporary names that `writing` gives a file until it is whole."""
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
    """Keep other processes from training into this folder inside the block; the lock dies with its process."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"{folder} is in use: another process trains there. Wait, or give another folder.") from error
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error.strerror or error}.") from error
