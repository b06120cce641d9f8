"""Names of weights in files: wrappers' prefixes taken off, names that do not fit found.

What a file lacks would otherwise be filled with random numbers, and what the network has no place for left out: a
model of another kind, or half of one, scored without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

_WRAPPER = r"(?:(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
WRAPPERS = {f"^{_WRAPPER}": "", rf"(?<=\.){_WRAPPER}": ""}  # of torch.compile, DataParallel, FSDP: at the front, inside

_BUFFERS = re.compile(  # masks and angles, which old versions kept beside the weights
    r"(^|\.)(inv_freq|position_ids|masked_bias|causal_mask|mask|IGNORE|attn\.bias|attention\.bias|attn\.attention\.bias)$"
)
_OTHER_PARTS = re.compile(  # of models that also see, hear, or guess several tokens: text does not pass through them
    r"^(model\.)?(vision_|visual|audio_|embed_vision|embed_audio|multi_modal_projector|mtp)"
)


def plain_name(name: str) -> str:
    """A weight's name without the prefixes of wrappers."""
    for wrapper, nothing in WRAPPERS.items():
        name = re.sub(wrapper, nothing, name)
    return name


def plain_names(weights: Mapping[str, Value]) -> dict[str, Value]:
    """Weights by their plain names; masks and other buffers that old versions kept are left out."""
    return {name: value for key, value in weights.items() if not _BUFFERS.search(name := plain_name(key))}


def misfits(missing: Iterable[str], foreign: Iterable[str]) -> str:
    """Why files do not hold the weights of a network; empty if they do.

    Args:
        missing: Weights of the network that the files lack.
        foreign: Weights in the files that the network has no place for. Buffers of old versions, and parts through
            which no text passes, are no fault.
    """
    absent = sorted(missing)
    extra = sorted(name for name in foreign if not (_BUFFERS.search(name) or _OTHER_PARTS.search(name)))
    said = [f"{len(absent)} are missing ({_some(absent)})"] if absent else []
    said += [f"{len(extra)} are foreign to it ({_some(extra)})"] if extra else []
    if not said:
        return ""
    return (
        f"its weights do not fit its configuration: {' and '.join(said)}. "
        "Save the whole model under its own names, with the configuration that it was made with"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if names[4:] else "")
