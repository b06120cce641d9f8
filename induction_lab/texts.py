"""Real text to train small models on, as tokens of a small byte-pair vocabulary learnt from it on the spot.

The text that every Python installation has: the sources of its standard library.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

BOS = "<bos>"


class Text(NamedTuple):
    """One long row of tokens, and the tokenizer they are of."""

    tokens: Int[Tensor, " pos"]
    tokenizer: Any

    @property
    def d_vocab(self) -> int:
        """Tokens of the vocabulary; token 0 is BOS, which the text does not hold."""
        return len(self.tokenizer)


def standard_library(d_vocab: int = 1024) -> Text:
    """The sources of Python's standard library, tests left out (some 13 MB), in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    files = sorted(path for path in root.rglob("*.py") if not left_out & set(path.relative_to(root).parts))
    return read_texts(files, d_vocab)


def read_texts(files: Sequence[Path], d_vocab: int = 1024) -> Text:
    """Text files as tokens, byte-pair encoded with a vocabulary learnt from them.

    Raises:
        ValueError: If there is no file, or one cannot be read as UTF-8 text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    texts = [_read(path) for path in files]
    if not texts:
        raise ValueError("Text files are wanted, got none.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokens = [token for encoding in tokenizer.encode_batch(texts) for token in encoding.ids]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS)
    return Text(torch.tensor(tokens), fast)


def text_batches(
    text: Text, n_ctx: int, generator: torch.Generator, *, n_prompts: int = 32
) -> Int[Tensor, "prompt pos"]:
    """`[BOS, n_ctx - 1 tokens]` from random places of a text."""
    start = torch.randint(len(text.tokens) - n_ctx + 2, (n_prompts, 1), generator=generator)
    pieces = text.tokens[start + torch.arange(n_ctx - 1)]
    return torch.cat([torch.zeros(n_prompts, 1, dtype=torch.long), pieces], 1)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from error
