"""Prose with marked words, and what kind of token is to be predicted where.

Read from a TOML file such as data/texts.toml, whose first lines explain the marks.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from induction_lab import HookedModel, Prompts
from induction_lab.data.occurrences import copyable

TEXTS = Path(__file__).with_name("texts.toml")
INSIDE, FUNCTION, PHRASE, REPEAT, OTHER, FACT, INFERENCE = KINDS = (
    "inside a word", "function word or mark", "fixed phrase", "repeat", "other word", "fact", "inference",
)  # fmt: skip
NONE = -1
_MARKS = {"[": ("]", PHRASE), "{": ("}", FACT), "<": (">", INFERENCE)}
_FUNCTION_WORDS = set(
    """a an and any are as at be been before but by can could did do does for from had has have he her here him his how
    i if in is it its itself made may me might more most must my no nobody not of off on one or our out over own she so
    some than that the their them then there these they this those to too up upon us was we were what when where which
    while who whole why will with would you your""".split()
)


class Passage(NamedTuple):
    """A text without its marks, and the kinds of the words that were marked, by where they begin."""

    title: str
    text: str
    marked: dict[int, str]


def read_prose(path: Path = TEXTS) -> list[Passage]:
    """The passages of a file.

    Raises:
        SystemExit: If there is none, or a mark is not closed.
    """
    try:
        entries = tomllib.loads(path.read_text())["text"]
        return [_passage(str(entry["title"]), str(entry["body"])) for entry in entries]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SystemExit(
            f"{path} holds no passages: {error}. It needs [[text]] tables with `title` and `body`."
        ) from None


def _passage(title: str, body: str) -> Passage:
    text, marked, closing = "", {}, ""
    kind, began = "", 0
    for char in re.sub(r"\s+", " ", body.strip()):
        if not closing and char in _MARKS:
            (closing, kind), began = _MARKS[char], len(text)
        elif char == closing:
            starts = [began + match.start() for match in re.finditer(r"\S+", text[began:])]
            marked |= dict.fromkeys(starts[1:] if kind == PHRASE else starts[:1], kind)
            closing = ""
        elif char in _MARKS or char in "]}>":
            raise ValueError(f"{title!r} has a {char!r} that opens inside a mark or closes none")
        else:
            text += char
    if closing:
        raise ValueError(f"{title!r} has a mark that is not closed by {closing!r}")
    return Passage(title, text, marked)


def as_tokens(model: HookedModel, passages: list[Passage], *, length: int = 512) -> tuple[Prompts, np.ndarray]:
    """One prompt a passage, cut to `length`, and the kind of the token to be predicted at each position.

    Returns:
        The prompts, padded on the right, and `[prompt, pos]` indices into `KINDS`, `NONE` where nothing is predicted.

    Raises:
        SystemExit: If the model has no tokenizer that says where in the text its tokens stand.
    """
    if not getattr(model.tokenizer, "is_fast", False):
        raise SystemExit(
            f"{model.name} has no tokenizer that gives offsets (a fast one): choose a model that reads text."
        )
    length = min(length, model.n_ctx or length)
    rows, spans = [], []
    for passage in passages:
        read = model.tokenizer(passage.text, add_special_tokens=False, return_offsets_mapping=True)
        rows.append([model.bos_token_id, *read["input_ids"]][:length])
        spans.append(read["offset_mapping"][: length - 1])
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [model.bos_token_id] * (longest - len(row)) for row in rows])
    prompts = Prompts(tokens, lengths=torch.tensor([len(row) for row in rows]), kind="text")
    copied = copyable(prompts.tokens, prompts.lengths)
    kinds = np.full(tokens.shape, NONE)
    for row, (passage, where) in enumerate(zip(passages, spans, strict=True)):
        for query, (start, end) in enumerate(where):  # the token at position query + 1
            kinds[row, query] = KINDS.index(_kind(passage, start, end, bool(copied[row, query])))
    return prompts, kinds


def _kind(passage: Passage, start: int, end: int, copied: bool) -> str:
    """Of what can be copied from the context nothing else is said, nor of function words that they end a phrase.

    Function words are known low wherever they stand: counted with their phrases ("as a matter of fact") they would
    make phrases look shallow.
    """
    text = passage.text
    start += len(text[start:end]) - len(text[start:end].lstrip())
    mark = passage.marked.get(start, "")
    if copied:
        return REPEAT
    if mark in (FACT, INFERENCE):
        return mark
    if start and text[start : start + 1].isalpha() and text[start - 1].isalpha():
        return INSIDE
    word = re.match(r"\w*", text[start:])
    if word is None or not word.group() or word.group().lower() in _FUNCTION_WORDS:
        return FUNCTION
    return mark or OTHER
