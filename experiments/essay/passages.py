"""Passages with marked words, and what scripts on such passages share.

A mark is written `<name|words>`; the words stay, and the tokens that they take up are known by the name. Passages of
several lengths are filled up on the right with BOS, which nothing before it can see in a causal model.
"""

from __future__ import annotations

import argparse
import random
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.harness import common_arguments
from induction_lab import Head, HookedModel, Prompts, load_model

MODELS = ("smollm2-135m", "gemma3-270m")
_MARK = re.compile(r"<(\w+)\|([^>]*)>")


class Passages(NamedTuple):
    """Passages as tokens.

    Attributes:
        tokens: BOS, the passage, and BOS again up to the longest one's end.
        last: Where each passage ends.
        marks: By name, the first and the last token of the marked words in each passage.
    """

    tokens: Int[Tensor, "prompt pos"]
    last: Int[Tensor, " prompt"]
    marks: dict[str, Int[Tensor, "prompt 2"]]

    @property
    def prompts(self) -> Prompts:
        """All positions as real ones, so that passages can be paired position by position."""
        return Prompts(self.tokens, kind="passages")

    def at_end(self, values: Float[Tensor, "prompt pos ..."]) -> Float[Tensor, "prompt ..."]:
        """What stands at each passage's end."""
        return values[torch.arange(len(self.last)), self.last]


def read_passages(model: HookedModel, texts: Sequence[str], *, length: int = 0) -> Passages:
    """Tokens of marked texts, all with the same marks; filled up to `length` at least.

    Raises:
        ValueError: If texts have different marks, or one does not fit the model's context.
    """
    rows, marks = zip(*(_tokens(model, text) for text in texts), strict=True)
    names = {tuple(sorted(each)) for each in marks}
    if len(names) > 1:
        raise ValueError(f"All passages need the same marks, got {' and '.join(map(str, sorted(names)))}.")
    longest = max(length, *map(len, rows))
    if model.n_ctx is not None and longest > model.n_ctx:
        raise ValueError(f"A passage has {longest} tokens, the context of {model.name} holds {model.n_ctx}.")
    tokens = torch.full((len(rows), longest), model.bos_token_id)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids)
    last = torch.tensor([len(ids) - 1 for ids in rows])
    return Passages(tokens, last, {name: torch.tensor([each[name] for each in marks]) for name in marks[0]})


def first_token(model: HookedModel, word: str) -> int:
    """The token that a word in a sentence begins with."""
    return model.tokenizer(" " + word, add_special_tokens=False)["input_ids"][0]


def n_tokens(model: HookedModel, word: str) -> int:
    """How many tokens a word in a sentence takes."""
    return len(model.tokenizer(" " + word, add_special_tokens=False)["input_ids"])


class Sized(Protocol):
    """What has layers of heads: a model, or a table of numbers about its heads."""

    @property
    def n_layers(self) -> int:
        """How many layers."""
        ...

    @property
    def n_heads(self) -> int:
        """How many heads each has."""
        ...


def same_layers(
    heads: Sequence[Head], model: Sized, n_sets: int, *, seed: int, spared: Sequence[Head] = ()
) -> list[list[Head]]:
    """Random sets of as many other heads in the same layers, none of them `spared`; elsewhere where a layer is full."""
    generator, sets = random.Random(seed), []
    for _ in range(n_sets):
        chosen: list[Head] = []
        for head in heads:
            free = [
                other
                for layer in range(model.n_layers)
                for other in (Head(layer, index) for index in range(model.n_heads))
                if other not in {*heads, *spared, *chosen}
            ]
            beside = [other for other in free if other.layer == head.layer]
            chosen += generator.sample(beside or free, 1) if free else []
        sets.append(chosen)
    return [each for each in sets if each]


def group_size(model: HookedModel, most: int) -> int:
    """How many heads to take together: `most`, or half of a small model's, so that others are left to compare with."""
    return min(most, model.n_layers * model.n_heads // 2)


def read_data(path: Path) -> dict[str, Any]:
    """What a TOML file beside an experiment holds."""
    return tomllib.loads(path.read_text())


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What scripts on passages can be told."""
    parser = common_arguments(description)
    parser.add_argument("--model", default="smollm2-135m", help="name, Hugging Face id or folder, with a tokenizer")
    parser.add_argument("--seed", type=int, default=0, help="of the random sets of heads")
    return parser


def arguments_for_models(description: str | None) -> argparse.ArgumentParser:
    """The same of scripts that read several models."""
    parser = common_arguments(description)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names, Hugging Face ids or folders")
    parser.add_argument("--seed", type=int, default=0, help="of the random sets of heads")
    return parser


def reading_model(parser: argparse.ArgumentParser, name: str) -> HookedModel:
    """A model that reads text; the script ends with a message where there is none."""
    try:
        model = load_model(name)
    except ValueError as error:
        parser.error(str(error))
    if model.tokenizer is None:
        parser.error(f"{model.name} has no tokenizer and cannot read sentences: give another.")
    if not model.tokenizer.is_fast:
        parser.error(f"The tokenizer of {model.name} does not say which letters a token covers: give another.")
    return model


def _tokens(model: HookedModel, text: str) -> tuple[list[int], dict[str, tuple[int, int]]]:
    """BOS and a text's tokens, and the first and last token of each mark."""
    plain, spans, end = "", {}, 0
    for mark in _MARK.finditer(text):
        plain += text[end : mark.start()]
        spans[mark[1]] = (len(plain), len(plain) + len(mark[2]))
        plain, end = plain + mark[2], mark.end()
    plain += text[end:]
    read = model.tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    marks = {}
    for name, (start, stop) in spans.items():
        inside = [i for i, (a, b) in enumerate(read["offset_mapping"]) if a < stop and b > start]
        marks[name] = (1 + inside[0], 1 + inside[-1])
    return [model.bos_token_id, *read["input_ids"]], marks
