"""Words of two senses, and what a model makes of them, for geometry.py; see data/senses.toml."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab import HookedModel, capture, text_prompts
from induction_lab.runtime.progress import progress_bar

DATA = Path(__file__).with_name("senses.toml")
# The word after BOS alone was the first choice of a neutral word and was given up after a look: the token that follows
# BOS turns by itself in the layers that write large activations, whatever it says.
NEUTRAL = "They spoke about the"


class Word(NamedTuple):
    """A word, the names of its two senses, and sentences that end in it, first sense first."""

    word: str
    senses: list[str]
    sentences: list[str]
    labels: Tensor


class Read(NamedTuple):
    """What was read where the words stand: axes word, sentence; layer 0 is the embedding."""

    stream: Float[Tensor, "layer word sentence d_model"]
    before: Float[Tensor, "layer word sentence d_model"]  # at the token before the word
    z: Float[Tensor, "layer word sentence head d_head"]
    static: Float[Tensor, "word d_model"]
    neutral: Float[Tensor, "layer word d_model"]  # after `NEUTRAL`


def load_words(path: Path) -> list[Word]:
    """Words as the file has them.

    Raises:
        ValueError: If it cannot be read, senses differ in number of sentences, or a sentence does not end in its word.
    """
    try:
        entries = tomllib.loads(path.read_text())["words"]
        sizes = [len(e["first"]) for e in entries]
        words = [
            Word(e["word"], e["senses"], [*e["first"], *e["second"]], torch.arange(2 * n) < n)
            for e, n in zip(entries, sizes, strict=True)
        ]
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of words with senses, first and second: {error!r}") from None
    for entry, word in zip(entries, words, strict=True):
        wrong = [sentence for sentence in word.sentences if not sentence.endswith(f" {word.word}")]
        if wrong:
            raise ValueError(f"A sentence must end in its word, {word.word!r}, got {wrong[0]!r}.")
        if {len(entry["first"]), len(entry["second"])} != {sizes[0]} or sizes[0] < 4 or sizes[0] % 2:
            raise ValueError(f"Every sense needs the same even number of sentences, 4 or more; see {word.word!r}.")
    if len(words) < 3:
        raise ValueError(f"Errors are over words: at least 3 are wanted, got {len(words)}.")
    return words


def read_words(model: HookedModel, words: list[Word]) -> Read:
    """Sentences of one length at a time; the word's last token, and the token before."""
    sentences = [sentence for word in words for sentence in word.sentences]
    prompts = text_prompts(model, [*sentences, *(f"{NEUTRAL} {word.word}" for word in words)])
    lengths = torch.full((len(prompts),), prompts.tokens.shape[1]) if prompts.lengths is None else prompts.lengths
    if len(prompts) != len(sentences) + len(words):
        raise ValueError("A sentence is longer than 512 tokens: give shorter ones.")
    n, d, heads = len(prompts), model.d_model, (model.n_heads, model.d_head)
    stream = torch.zeros(model.n_layers + 1, 2, n, d)
    z, static = torch.zeros(model.n_layers, n, *heads), torch.zeros(n, d)
    names = ["embed", "resid_pre", "resid_post", "z"]
    with progress_bar(n, "reading sentences", shown=sys.stderr.isatty()) as tick:
        for length in sorted(set(lengths.tolist())):
            rows = (lengths == length).nonzero()[:, 0]
            acts = capture(model, prompts.tokens[rows, :length], names, positions=[-2, -1])
            static[rows] = acts["embed"][:, 1].float().cpu()
            for layer in range(model.n_layers):
                z[layer, rows] = acts["z", layer][:, 1].float().cpu()
                stream[layer, :, rows] = acts["resid_pre", layer].transpose(0, 1).float().cpu()
            stream[-1, :, rows] = acts["resid_post", model.n_layers - 1].transpose(0, 1).float().cpu()
            tick(len(rows))
    shape = (len(words), len(words[0].sentences))
    own = slice(0, len(sentences))
    return Read(
        stream[:, 1, own].unflatten(1, shape),
        stream[:, 0, own].unflatten(1, shape),
        z[:, own].unflatten(1, shape),
        static[own].unflatten(0, shape)[:, 0],
        stream[:, 1, len(sentences) :],
    )


def centred(x: Tensor, words: tuple[int, ...]) -> Tensor:
    """Less its mean over the axes of words and sentences."""
    return x - x.mean(words, keepdim=True)
