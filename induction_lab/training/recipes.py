"""Recipes: the shape of a model, what it is trained on and how, in one TOML file.

    [model]                    # AttentionOnlyConfig, all but d_vocab, which the data say
    n_layers = 2
    [data]
    kind = "tiled"             # a name from `KINDS`, and that stream's own settings
    longest = 31
    [training]                 # TrainingPlan
    steps = 800
    [clamps]                   # heads held to an ideal pattern (see `clamping`)
    L0H0 = "previous_token"

Ready ones go by name: `minute`, `text-2l`, `gpu`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from induction_lab.data.corpora import TextFiles
from induction_lab.data.occurrences import IDEAL_PATTERNS
from induction_lab.data.training_streams import STREAMS, TokenStream
from induction_lab.models.attention_only.clamping import check_clamps
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.runtime.settings import built
from induction_lab.training.ready_recipes import READY, recipe_file
from induction_lab.training.trainer import TrainingPlan

KINDS: dict[str, Any] = {
    **STREAMS,
    "text": TextFiles,
}
SECTIONS = ("model", "data", "training", "clamps")


@dataclass(frozen=True)
class Recipe:
    """What to train.

    Attributes:
        model: The network's shape; its vocabulary is the data's.
        data: A stream of tokens, or text that becomes one.
        training: How long, how fast, how much at a time.
        clamps: Heads held to an ideal pattern, by name: `{"L0H0": "previous_token"}`.
        seed: Of the initial weights and of the tokens.
    """

    model: AttentionOnlyConfig
    data: Any
    training: TrainingPlan = field(default_factory=TrainingPlan)
    clamps: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse parts that do not fit each other."""
        if not isinstance(self.data, tuple(KINDS.values())):
            raise ValueError(f"The data are one of {', '.join(KINDS)}, got {type(self.data).__name__}.")
        if self.data.d_vocab != self.model.d_vocab:
            raise ValueError(f"The data have {self.data.d_vocab} tokens, the model {self.model.d_vocab}.")
        if self.model.bos_token_id != 0:
            raise ValueError(f"`bos_token_id` must be 0, as in all data, got {self.model.bos_token_id}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"`seed` must be a whole number, 0 or more, got {self.seed!r}.")
        if not self.is_text:
            self.data.draw(torch.Generator(), n_prompts=1, n_ctx=self.model.n_ctx)
        chosen = check_clamps(self.clamps, n_layers=self.model.n_layers, n_heads=self.model.n_heads)
        object.__setattr__(self, "clamps", {str(head): kind for head, kind in sorted(chosen.items())})
        if self.clamps and self.training.compile:
            raise ValueError("A compiled network cannot be clamped: leave out `compile` or the clamps.")

    @property
    def kind(self) -> str:
        """The name of its data."""
        return next(name for name, kind in KINDS.items() if isinstance(self.data, kind))

    @property
    def is_text(self) -> bool:
        """Whether the data are text, which has to be read and tokenized before it is a stream."""
        return isinstance(self.data, TextFiles)

    def network(self) -> AttentionOnlyTransformer:
        """The network that training starts from."""
        return AttentionOnlyTransformer(self.model, seed=self.seed, scale=self.training.initial_scale)

    def stream(self) -> TokenStream:
        """The stream of tokens that the data are, or become where they are text."""
        return self.data.open() if self.is_text else self.data

    def to_toml(self) -> str:
        """The recipe as a file, everything spelt out."""
        model = {name: value for name, value in self.model.to_dict().items() if name != "d_vocab"}
        parts = {"model": model, "data": {"kind": self.kind, **asdict(self.data)}, "training": asdict(self.training)}
        text = f"seed = {self.seed}\n"
        for section, values in {**parts, "clamps": dict(self.clamps)}.items():
            lines = [f"{name} = {_toml(value)}\n" for name, value in values.items() if value is not None]
            text += f"\n[{section}]\n{''.join(lines)}" if lines else ""
        return text

    @property
    def fingerprint(self) -> str:
        """A hash of the whole recipe, 16 letters."""
        return hashlib.sha256(self.to_toml().encode()).hexdigest()[:16]


def load_recipe(source: str | Path, **changes: Any) -> Recipe:
    """Read a recipe.

    Args:
        source: A ready one's name or a TOML file. Relative `files` of text are looked for beside that file; of a
            ready one, in the current folder.
        **changes: Settings of `[training]`, or `seed`, to exchange.

    Raises:
        ValueError: If there is no such recipe, or it has an entry that is not known or not allowed.
    """
    path = recipe_file(source)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path} is no readable recipe: {error}.") from error
    seed = table.pop("seed", 0)
    try:
        _check_sections(table)
        _anchor(table, path.parent if path.parent != READY else Path())
        table["training"] = {**table.get("training", {}), **changes}
        seed = table["training"].pop("seed", seed) if "seed" in changes else seed
        return _recipe(table, seed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_sections(table: dict[str, Any]) -> None:
    unknown = sorted(set(table) - set(SECTIONS))
    if unknown:
        raise ValueError(f"unknown entries {unknown}; a recipe has seed and the sections {', '.join(SECTIONS)}.")
    for name, section in table.items():
        if not isinstance(section, dict):
            raise ValueError(f"`{name}` is a section, [{name}], got {section!r}.")


def _anchor(table: dict[str, Any], folder: Path) -> None:
    """Make paths of text absolute: a run may be gone on with from anywhere."""
    files = table.get("data", {}).get("files")
    if isinstance(files, list) and all(isinstance(name, str) for name in files):
        table["data"]["files"] = [str(folder.absolute() / Path(name).expanduser()) for name in files]


def _recipe(table: dict[str, Any], seed: Any) -> Recipe:
    data = dict(table.get("data", {}))
    kind = data.pop("kind", None)
    if not (isinstance(kind, str) and kind in KINDS):
        raise ValueError(f"[data] needs `kind`, one of {', '.join(KINDS)}, got {kind!r}.")
    stream = built(KINDS[kind], data, "data")
    shape = {**table.get("model", {}), "d_vocab": stream.d_vocab}
    if "d_vocab" in table.get("model", {}):
        raise ValueError("[model] has no `d_vocab`: the data say how many tokens there are.")
    clamps = table.get("clamps", {})
    if not all(isinstance(pattern, str) for pattern in clamps.values()):
        raise ValueError(f"[clamps] holds names of patterns by head, {' or '.join(IDEAL_PATTERNS)}, got {clamps}.")
    if type(seed) is not int:
        raise ValueError(f"`seed` must be a whole number, 0 or more, got {seed!r}.")
    return Recipe(
        model=built(AttentionOnlyConfig, shape, "model"),
        data=stream,
        training=built(TrainingPlan, table.get("training", {}), "training"),
        clamps=clamps,
        seed=seed,
    )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)
