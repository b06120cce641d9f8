"""Names of training checkpoints, listed where they are kept and read for their stage, step and tokens; never made up.

    step1000                           EleutherAI/pythia-*
    checkpoint-1000                    stanford-crfm's GPT-2s; folders that transformers.Trainer writes
    step1000-tokens4B                  OLMo
    stage1-step1000-tokens5B           OLMo 2, whose stages count their steps anew
    stage2-ingredient1-step1000-tokens5B

So do `step-1000`, `step_1000` and `global_step1000`, with or without a stage before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

_PATTERN = re.compile(
    r"(?:(?P<stage>.+?)[-_])??(?:global_step|step|checkpoint)[-_]?(?P<step>\d+)"
    r"(?:-tokens(?P<tokens>\d+(?:\.\d+)?)(?P<unit>[KMBT]?))?"
)
_UNITS = {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_FIRST = ("", "stage1")  # what pretraining is called, where later stages go on from it
CONFIGS = ("config.json", "adapter_config.json")
_WEIGHTS = (".safetensors", ".bin")


class CheckpointName(NamedTuple):
    """A checkpoint's name, and what it says: stage of training (`""`: none), step, and tokens seen where it says so."""

    name: str
    stage: str
    step: int
    tokens: float | None


def parse_checkpoint(name: str) -> CheckpointName | None:
    """What a name says of stage, step and tokens; None where it is no checkpoint's.

    >>> parse_checkpoint("stage1-step1000-tokens5B")
    CheckpointName(name='stage1-step1000-tokens5B', stage='stage1', step=1000, tokens=5000000000.0)
    """
    found = _PATTERN.fullmatch(name)
    if found is None:
        return None
    tokens = None if found["tokens"] is None else float(found["tokens"]) * _UNITS[found["unit"]]
    return CheckpointName(name, found["stage"] or "", int(found["step"]), tokens)


def published_checkpoints(repo: str) -> list[CheckpointName]:
    """Checkpoints that a Hugging Face model publishes as branches or tags; without a hub, those in the local cache.

    Raises:
        ValueError: If there are none, or neither hub nor cache knows the model.
    """
    from huggingface_hub import list_repo_refs

    try:
        refs = list_repo_refs(repo)
        names, said = {ref.name for ref in (*refs.branches, *refs.tags)}, "published"
    except Exception as error:  # a hub that cannot be reached makes its client raise anything
        names = _cached_revisions(repo)
        said = f"in the local cache, nor could it be fetched: {' '.join(str(error).split()):.80}"
    found = _parsed(names)
    if not found:
        others = f" but {', '.join(sorted(names)[:8])}" if names else ""
        raise ValueError(f"{repo!r} has no training checkpoints (step1000, checkpoint-1000, …){others} {said}")
    return found


def checkpoint_folders(folder: Path) -> list[CheckpointName]:
    """Checkpoints in a folder: its folders with a checkpoint's name that hold a configuration and weights."""
    return _parsed(path.name for path in folder.iterdir() if _holds_model(path)) if folder.is_dir() else []


def incomplete_checkpoints(folder: Path) -> list[tuple[Path, list[str]]]:
    """Folders in a folder that have a checkpoint's name but hold no model, and what each lacks."""
    named = [path for path in sorted(folder.iterdir()) if path.is_dir() and parse_checkpoint(path.name)]
    return [(path, lacks) for path in named if (lacks := _lacks(path))]


def of_stage(found: Sequence[CheckpointName], stage: str | None, what: str) -> dict[int, CheckpointName]:
    """Checkpoints of one stage by step, sorted; by default pretraining: `stage1`, or those that name no stage.

    Raises:
        ValueError: If there is no such stage, none was given and it is not clear which is meant, or a step occurs
            twice.
    """
    stages = sorted({each.stage for each in found})
    wanted = {stage} if stage is not None else set(_FIRST) & set(stages) or set(stages)
    if not wanted <= set(stages) or (len(wanted) > 1 and not wanted <= set(_FIRST)):
        asked = "say which is meant" if stage is None else f"got {stage!r}"
        raise ValueError(f"{what} has the stages {', '.join(each or '(none)' for each in stages)}; {asked}.")
    chosen: dict[int, CheckpointName] = {}
    for each in sorted((each for each in found if each.stage in wanted), key=lambda each: each.step):
        other = chosen.setdefault(each.step, each)
        if other is not each:
            raise ValueError(f"{what} has two checkpoints of step {each.step}: {other.name} and {each.name}.")
    return chosen


def _parsed(names: Iterable[str]) -> list[CheckpointName]:
    return [each for name in sorted(names) if (each := parse_checkpoint(name)) is not None]


def _cached_revisions(repo: str) -> set[str]:
    """Revisions of a model whose configuration and weights are in the local cache of the hub."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    refs = [path for path in (folder / "refs").rglob("*") if path.is_file()]
    there = [path for path in refs if _holds_model(folder / "snapshots" / path.read_text().strip())]
    return {path.relative_to(folder / "refs").as_posix() for path in there}


def _holds_model(folder: Path) -> bool:
    return folder.is_dir() and not _lacks(folder)


def _lacks(folder: Path) -> list[str]:
    """Of a configuration and weights what a folder does not hold."""
    files = {path.name for path in folder.iterdir()}
    weights = any(name.endswith(_WEIGHTS) for name in files)
    return [CONFIGS[0]] * (not files & set(CONFIGS)) + ["weights"] * (not weights)
