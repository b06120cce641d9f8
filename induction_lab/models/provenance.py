"""What another lab needs to trust and repeat a measurement: model, prompts, definitions, versions."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from induction_lab.data.prompts import Prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.on_disk.offloading import let_go

DEFINITIONS_VERSION = 1  # goes up when a score's definition changes


def provenance(model: HookedModel, prompts: Prompts, *, left_out: dict[str, str] | None = None) -> dict[str, Any]:
    """What another lab needs to trust and repeat the numbers."""
    return {
        "definitions": DEFINITIONS_VERSION,
        "model": model.name,
        "revision": model.revision,
        "weights_sha256": weights_sha256(model),
        "tokenizer_sha256": model.tokenizer_sha256,
        "prompts": about_prompts(prompts),
        "bos_token_id": model.bos_token_id,
        "in_front": in_front(model, prompts),
        "note": prompts.note,
        "n_kv_heads": model.n_kv_heads,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention_path": "engine" if model.anatomy.goes_through_interface else "hooks",
        "versions": versions(),
        "left_out": left_out or {},
    }


@cache
def _package_version(name: str) -> str:
    return version(name)


def versions() -> dict[str, str]:
    """Of this package, Python and the libraries that numbers depend on."""
    own = {"induction-lab": _package_version("induction-lab"), "python": platform.python_version()}
    return own | {name: _package_version(name) for name in ("torch", "transformers", "transformer-lens")}


def about_prompts(prompts: Prompts) -> dict[str, Any]:
    """Their structure, and fingerprints of tokens and lengths."""
    tokens = prompts.tokens.cpu().contiguous().numpy().tobytes()
    facts = {**prompts.describe(), "tokens_sha256": hashlib.sha256(tokens).hexdigest()}
    if prompts.lengths is not None:
        facts["lengths_sha256"] = hashlib.sha256(str(prompts.lengths.tolist()).encode()).hexdigest()
    return facts


def in_front(model: HookedModel, prompts: Prompts) -> str:
    """What stands at the beginning of every prompt, in words."""
    first = ", ".join(map(str, sorted(set(prompts.tokens[:, 0].tolist()))[:4]))
    if not prompts.has_bos:
        return "nothing; position 0 holds a token like the others"
    if first != str(model.bos_token_id):
        return f"token {first}"
    if not model.bos_is:
        return f"token {first}, as the model knows neither BOS nor end-of-text (bos=None, --no-bos: nothing)"
    return f"{model.bos_is} (token {first})"


def check_same_model(what: str, name: str, facts: dict[str, Any], model: HookedModel) -> None:
    """Refuse a result of another model, of another dtype or of other weights; what it does not say is not compared.

    Args:
        what: The result with its verb, for the message: `` `scores` are``.
        name: The name of the model that it is of.
        facts: Its provenance.
        model: The model that it must be of.

    Raises:
        ValueError: If it is of another.
    """
    if name != model.name:
        raise ValueError(f"{what} of {name}, not of {model.name}.")
    now = str(model.dtype).removeprefix("torch.")
    if (dtype := facts.get("dtype", now)) != now:
        raise ValueError(f"{what} of {model.name} in {dtype}, not in {now}: measure it again, or load the model so.")
    mine = weights_sha256(model)
    if (other := facts.get("weights_sha256", mine)) != mine:
        raise ValueError(
            f"{what} of other weights of {model.name} ({other:.8}) than those given ({mine:.8}): measure it again."
        )


def fingerprint(model: HookedModel, prompts: Prompts) -> str:
    """Eight letters that differ where model, weights, prompts or number type do."""
    facts = provenance(model, prompts)
    same = {name: facts[name] for name in ("model", "revision", "weights_sha256", "prompts", "dtype")}
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:8]


def weights_sha256(model: HookedModel) -> str:
    """A fingerprint: names, shapes and a few entries of every parameter."""
    names, entries = [], []
    for name, parameter in sorted(model.network.named_parameters()):
        whole = parameter.detach()
        flat = (whole if type(whole) is Tensor else whole.dequantize()).flatten()  # torchao keeps fewer bits
        some = flat[:: max(1, flat.numel() // 64)].to(model.device, torch.float32, copy=True)  # not a view of all of it
        names.append(f"{name}{tuple(parameter.shape)}")
        entries.append(some)
        let_go(model.network, parameter)
    digest = hashlib.sha256()
    found = torch.cat(entries).cpu()  # at once: a GPU waits at every transfer
    for name, some in zip(names, found.split([len(each) for each in entries]), strict=True):
        digest.update(name.encode() + some.numpy().tobytes())
    return digest.hexdigest()
