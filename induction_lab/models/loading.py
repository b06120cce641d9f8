"""`load_model(name)`: bundled and packaged models, Hugging Face ids, folders, `.gguf` files, each a `HookedModel`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

import torch

from induction_lab.models import store
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.attention_only.old_format import build, read_state_dict
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.named_models import BUNDLED, KNOWN, NAMED, SUFFIXES
from induction_lab.models.on_disk.network import offloaded
from induction_lab.runtime.dtypes import DTYPES
from induction_lab.runtime.machine import find_device
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.runtime.optional import library

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def load_model(
    name: str | Path = BUNDLED,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    offload: bool = False,
) -> HookedModel:
    """Load a model by name.

    >>> load_model().n_layers
    2

    Args:
        name: `induction-2l` (bundled), `smollm2-135m` or `gemma3-270m` (brought once by `induction-lab get`), a Hugging
            Face id such as `gpt2`, a local folder, a `.gguf` file, or weights in TransformerLens' old format: a folder,
            a `.pth`, `.pt` or `.safetensors` file, or a name such as `attn-only-2l` (see `load_hooked_transformer`).
        device: `cpu`, `cuda`, `cuda:1`, …; by default CUDA where there is one, else the CPU; `auto`: spread over all
            GPUs and the CPU by Accelerate, for models of transformers that one GPU cannot hold.
        dtype: float32 by default, on every device, so that scores compare; `auto`: as stored.
        revision: Branch, tag or commit of a Hugging Face model, such as `step1000` of `EleutherAI/pythia-70m`.
        offload: Leave the weights on disk and read each block's when it runs, for models of transformers that memory
            cannot hold. On the CPU. What can be had of such a model: docs/models.md.

    Raises:
        ValueError: If there is no such model, it is not here and cannot be fetched, its files are damaged, or it is no
            causal language model.
    """
    if offload and device not in (None, "cpu"):
        raise ValueError(f"Weights that stay on disk (offload) are read for the CPU, got device {str(device)!r}.")
    target = None if device == "auto" else find_device("cpu" if offload else device)
    wanted = _dtype(dtype)
    if revision is not None and (str(name) in NAMED or Path(name).exists()):
        raise ValueError(f"`revision` is for Hugging Face ids; {name} has one version only.")
    source = store.locate(str(name))
    if isinstance(source, Path) and store.is_attention_only(source):
        if offload:
            raise ValueError(f"{name} is small: load it without offload, which is for models of transformers.")
        network = AttentionOnlyTransformer.load(source).to(
            device=target or find_device(None), dtype=torch.float32 if wanted == "auto" else wanted
        )
        return HookedModel(network, name=_short(name))
    if isinstance(source, str) and store.is_old(source):
        with store.quiet_libraries():
            source = store.fetch_old(source, revision)
    if isinstance(source, Path) and (source.suffix in SUFFIXES or (source.is_dir() and store.old_weights(source))):
        if offload:
            raise ValueError(f"{name} is small: load it without offload, which is for models of transformers.")
        given = dict(device=device, dtype=dtype, name=_short(name), revision=revision)
        return load_hooked_transformer(source, **given)  # type: ignore[arg-type]
    if target is None:
        library("accelerate", extra="offload")
    with store.quiet_libraries():
        spread = {"device_map": "auto"} if target is None else {}
        kept = "auto" if offload else wanted
        network, tokenizer = store.load_transformers(source, dtype=kept, revision=revision, **spread)
        if offload:
            network = offloaded(network, network.dtype if wanted == "auto" else wanted)
    network = network if target is None else network.to(target)
    return HookedModel(network, tokenizer, name=_short(name), revision=revision)


def as_model(model: Any) -> HookedModel:
    """A model as it is, or loaded where its name is given.

    Raises:
        ValueError: If it is neither, or there is no model of that name.
    """
    if isinstance(model, str | Path):
        return load_model(model)
    if not isinstance(model, HookedModel):
        wrapped = " Wrap it: HookedModel(network, tokenizer)." if isinstance(model, torch.nn.Module) else ""
        raise ValueError(f"A model is what load_model gives, or its name; got {type(model).__name__}.{wrapped}")
    return model


def takes_names(
    function: Callable[Concatenate[HookedModel, Arguments], Result],
) -> Callable[Concatenate[HookedModel | str | Path, Arguments], Result]:
    """Let a function that takes a model first take its name as well: `score_heads("gpt2")`.

    Each call loads the model anew; whoever asks twice loads it once, `model = load_model("gpt2")`.
    """

    @wraps(function)
    def by_name(model: Any, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return function(as_model(model), *args, **kwargs)

    return by_name


def load_hooked_transformer(
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    tokenizer: Any | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    name: str | None = None,
    revision: str | None = None,
    **overrides: Any,
) -> HookedModel:
    """Load a state dict in TransformerLens' old format, that of `HookedTransformer`, as an `AttentionOnlyTransformer`.

    `load_model` does the same where a configuration lies beside the weights. Widths are read off the weights; what
    they do not tell is said here.

    >>> load_hooked_transformer("half.pth", positions="shortformer", layer_norm=False)  # doctest: +SKIP

    Args:
        path: A `.pth`, `.pt` or `.safetensors` file, or a folder that holds one and perhaps a `config.json`.
        config: TransformerLens' `cfg` as a dictionary; by default what lies beside the weights.
        tokenizer: By default the one that the configuration names, where it is here or can be fetched.
        device: As for `load_model`.
        dtype: As for `load_model`.
        name: How to call it in tables; the file's name by default.
        revision: Which snapshot it is, for the record.
        **overrides: Entries of `AttentionOnlyConfig`, such as `positions`, `layer_norm`, `activation`, `bos_token_id`.

    Raises:
        ValueError: If there is no such file, it holds a whole object or no weights of such a model, or what it computes
            is not settled by weights, configuration and arguments.
    """
    path = Path(path).expanduser()
    files = store.old_weights(path) if path.is_dir() else [path] if path.is_file() else []
    if len(files) != 1:
        raise ValueError(
            f"One file of weights ({', '.join(SUFFIXES)}) is wanted, got {path} with {len(files) or 'none'}: "
            f"{', '.join(file.name for file in files[:6])}."
        )
    weights, inside = read_state_dict(files[0])
    cfg = config or inside or _config_beside(files[0])
    said = ({} if cfg else KNOWN.get(files[0].stem, {})) | overrides
    if tokenizer is None and cfg.get("tokenizer_name"):
        with store.quiet_libraries():
            tokenizer = store.find_tokenizer(cfg["tokenizer_name"])
    ids = [getattr(tokenizer, which, None) for which in ("bos_token_id", "eos_token_id")]
    bos = next((i for i in ids if isinstance(i, int) and i < len(weights.get("embed.W_E", ()))), 0)
    try:
        network = build(weights, cfg, {"bos_token_id": bos, **said})
    except ValueError as error:
        raise ValueError(f"{files[0]}: {error}") from error
    wanted = _dtype(dtype)
    network = network.to(
        device=find_device(None if device == "auto" else device), dtype=torch.float32 if wanted == "auto" else wanted
    )
    network.tokenizer = tokenizer
    return HookedModel(network, tokenizer, name=name or path.stem, revision=revision)


def _config_beside(weights: Path) -> Mapping[str, Any]:
    """The `config.json` in the folder of a file of weights, or above its `checkpoints`; empty where there is none."""
    for folder in (weights.parent, weights.parent.parent)[: 1 + (weights.parent.name == "checkpoints")]:
        if (folder / "config.json").is_file():
            try:
                return json.loads((folder / "config.json").read_text())
            except ValueError as error:
                raise ValueError(f"{folder / 'config.json'} is damaged: {error}.") from error
    return {}


def _short(name: str | Path) -> str:
    path = Path(name)
    return path.name if path.exists() else str(name)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | Literal["auto"]:
    if dtype is None:
        return torch.float32
    if dtype == "auto":
        return "auto"
    names = {name: getattr(torch, name) for name in DTYPES}
    found = names.get(dtype) if isinstance(dtype, str) else dtype if dtype in names.values() else None
    if found is None:
        raise ValueError(
            f"`dtype` must be one of {', '.join(names)} or auto, got {dtype!r}.{did_you_mean(dtype, (*names, 'auto'))}"
        )
    return found
