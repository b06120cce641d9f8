"""`load_model(name)`: bundled and packaged models, Hugging Face ids, folders, `.gguf` files, each a `HookedModel`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from induction_lab.models import store
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.names import BUNDLED, NAMED
from induction_lab.models.on_disk.network import offloaded
from induction_lab.runtime.dtypes import DTYPES
from induction_lab.runtime.machine import find_device
from induction_lab.runtime.optional import library


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
            Face id such as `gpt2`, a local folder, or a `.gguf` file.
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
        raise ValueError(f"`dtype` must be one of {', '.join(names)} or auto, got {dtype!r}.")
    return found
