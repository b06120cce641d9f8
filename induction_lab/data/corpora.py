"""Real text to train small models on, as tokens of a small byte-pair vocabulary learnt from it on the spot.

`TextFiles` names the text, `open` makes of it two files of tokens, to train on and held out, and memory stays flat
however many lines it has. Without files it is the text that every Python installation has: the sources of its standard
library.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab.data import text_files
from induction_lab.data.text_files import PIECE
from induction_lab.runtime.machine import cache_folder
from induction_lab.runtime.progress import Ticker, progress_bar

BOS = "<bos>"
FORMAT = 1  # of prepared folders; part of their names
BATCH = 16 * PIECE  # characters that are encoded at a time
FINISHED = "facts.json"
SMALLEST = 257  # tokens: every byte, and BOS


@dataclass(frozen=True)
class TextFiles:
    """Text on this disk, as a stream: its vocabulary and tokens are made once and kept.

    Args:
        files: Paths of files and folders (every .txt, .py, .md and .rst below, hidden ones left out) and globs;
            none: Python's standard library, tests left out.
        d_vocab: Tokens of the vocabulary, BOS included.
        held_out: Share of the documents that is not trained on: every n-th, whole. 0 holds nothing out.
        separator: What separates documents within a file; where it is empty, a file is a document.

    Raises:
        ValueError: If a number is out of range.
    """

    files: tuple[str, ...] = ()
    d_vocab: int = 1024
    held_out: float = 0.05
    separator: str = ""

    def __post_init__(self) -> None:
        """Refuse what no text can give."""
        if isinstance(self.files, str):
            raise ValueError(f"`files` is a tuple of paths, got one string; write ({self.files!r},).")
        if self.d_vocab < SMALLEST:
            raise ValueError(f"`d_vocab` must be {SMALLEST} or more, all bytes and BOS, got {self.d_vocab}.")
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"`held_out` must be a share from 0 to 0.5, got {self.held_out}.")

    def open(self, folder: Path | None = None, *, progress: bool = False) -> TokenFile:
        """The tokens, made now unless they are there; in the user's cache by default. See `prepare`."""
        return self.prepare(cache_folder() / "texts" if folder is None else folder, progress=progress)

    def prepare(self, folder: Path, *, progress: bool = False) -> TokenFile:
        """Learn a vocabulary from the part to train on and write all tokens to `folder`, unless they are there.

        They are there if the same files, by path, size and time of change, were asked for with the same settings:
        reading them all to compare what they say would take longer than training's first steps on a long text.
        Interrupted anywhere nothing is left that looks finished; of several processes one works and the others wait.

        Args:
            folder: Gets a folder of its own for each text and settings.
            progress: A progress bar on the terminal.

        Raises:
            ValueError: If no file matches, one cannot be read as UTF-8, the text has too few documents to hold one
                out or too few words for the vocabulary, or `folder` cannot be written.
        """
        files = self._paths()
        place = folder / self._key(files)
        if not (place / FINISHED).is_file():
            from filelock import FileLock

            try:
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / f".{place.name}.lock"):
                    if not (place / FINISHED).is_file():  # another process may have made it meanwhile
                        self._make(place, files, progress)
            except OSError as error:
                raise ValueError(f"Tokens cannot be written to {folder}: {error.strerror or error}.") from error
        return TokenFile(place)

    def draw(self, generator: torch.Generator, *, n_prompts: int, n_ctx: int) -> Int[Tensor, "prompt pos"]:
        """A batch from the part to train on, in the user's cache; who draws many opens it once."""
        return self.open().draw(generator, n_prompts=n_prompts, n_ctx=n_ctx)

    def _paths(self) -> list[Path]:
        if not self.files:
            return text_files.standard_library()
        return sorted({path for name in self.files for path in text_files.matches(name)})

    def _key(self, files: list[Path]) -> str:
        try:
            facts = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        except OSError as error:
            raise ValueError(f"{error.filename} cannot be read: {error.strerror}.") from error
        settings = [FORMAT, self.d_vocab, self.held_out, self.separator]
        return hashlib.sha256(json.dumps([settings, facts]).encode()).hexdigest()[:16]

    def _make(self, place: Path, files: list[Path], progress: bool) -> None:
        """In a folder beside, which gets its name when all is there."""
        for left in place.parent.glob(f".{place.name}-part-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        n_documents, n_pieces, digest = text_files.survey(files, self.separator)
        every = self._every(n_documents, files)
        part = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}-part-"))
        try:
            with progress_bar(2 * n_pieces, "preparing text", shown=progress) as tick:
                tokenizer = self._learn(files, every, tick)
                lengths = _write(part, text_files.pieces(files, self.separator), tokenizer, every, tick)
            tokenizer.save(str(part / "tokenizer.json"))
            facts = {**asdict(self), "n_files": len(files), "documents": n_documents, "sha256": digest, **lengths}
            (part / FINISHED).write_text(json.dumps(facts, indent=1) + "\n")
            shutil.rmtree(place, ignore_errors=True)
            part.replace(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _every(self, n_documents: int, files: list[Path]) -> int:
        """The last of how many documents is held out; 0: none."""
        if not n_documents:
            raise ValueError(f"Text is wanted, got {len(files)} empty files.")
        if self.held_out == 0:
            return 0
        if n_documents < 2:
            raise ValueError(
                "One document cannot be split into a part to train on and one held out. Give more files, a "
                r"`separator` that cuts it into documents ('\n\n', say), or held_out=0."
            )
        return min(max(2, round(1 / self.held_out)), n_documents)

    def _learn(self, files: list[Path], every: int, tick: Ticker) -> Any:
        def to_train_on() -> Iterator[str]:
            for document, piece in text_files.pieces(files, self.separator):
                if not _is_held_out(document, every):
                    yield piece
                tick(1)

        tokenizer = _learn_vocabulary(to_train_on(), self.d_vocab)
        if tokenizer.get_vocab_size() < self.d_vocab:
            raise ValueError(
                f"The text holds too few different words for {self.d_vocab} tokens. "
                f"Ask for d_vocab={tokenizer.get_vocab_size()} or less, or give more text."
            )
        return tokenizer


class TokenFile:
    """Prepared tokens on disk, as a stream. Each document has BOS, token 0, in front.

    Attributes:
        folder: Where they are.
        facts: What they were made of: settings, number of files, documents and tokens, hash of the text.
        d_vocab: Tokens of the vocabulary, BOS included.
        train: The tokens to train on, mapped from disk.
        held_out: Those of the documents held out.
    """

    def __init__(self, folder: Path) -> None:
        """Map what `TextFiles.prepare` wrote; a ValueError where it did not."""
        if not (folder / FINISHED).is_file():
            raise ValueError(f"{folder} holds no prepared tokens. Make them: TextFiles(...).prepare(folder)")
        self.folder = folder
        self.facts: dict[str, Any] = json.loads((folder / FINISHED).read_text())
        self.d_vocab: int = self.facts["d_vocab"]
        self.train, self.held_out = (self._map(name) for name in ("train", "held_out"))

    @cached_property
    def tokenizer(self) -> Any:
        """A `PreTrainedTokenizerFast`."""
        from tokenizers import Tokenizer

        return _for_transformers(Tokenizer.from_file(str(self.folder / "tokenizer.json")))

    def draw(
        self, generator: torch.Generator, *, n_prompts: int, n_ctx: int, held_out: bool = False
    ) -> Int[Tensor, "prompt pos"]:
        """`[BOS, n_ctx - 1 tokens]` from random places, which may hold the end of one document and the next.

        Raises:
            ValueError: If the text is too short for one, or there is nothing to draw.
        """
        if n_prompts < 1 or n_ctx < 2:
            raise ValueError(f"A batch holds 1 prompt or more of 2 tokens or more, got {n_prompts=} and {n_ctx=}.")
        tokens = self.held_out if held_out else self.train
        places = len(tokens) - n_ctx + 2
        if places < 1:
            part = "held out" if held_out else "to train on"
            raise ValueError(f"The text {part} has {len(tokens)} tokens, too few for {n_ctx=}: give more or take less.")
        starts = torch.randint(places, (n_prompts, 1), generator=generator)
        pieces = tokens[(starts + torch.arange(n_ctx - 1)).numpy()]
        return torch.nn.functional.pad(torch.from_numpy(pieces.astype(np.int64)), (1, 0), value=0)

    def _map(self, name: str) -> np.ndarray:
        kind = _dtype(self.d_vocab)
        if not self.facts[f"{name}_tokens"]:
            return np.empty(0, kind)  # an empty file cannot be mapped
        return np.memmap(self.folder / f"{name}.bin", kind, mode="r")


def _is_held_out(document: int, every: int) -> bool:
    return every > 0 and document % every == every - 1


def _write(folder: Path, pieces: Iterator[tuple[int, str]], tokenizer: Any, every: int, tick: Ticker) -> dict[str, int]:
    """Encode and write a batch of pieces at a time; says how many tokens each file has."""
    kind, last, lengths = _dtype(tokenizer.get_vocab_size()), -1, {"train_tokens": 0, "held_out_tokens": 0}
    with (folder / "train.bin").open("wb") as train, (folder / "held_out.bin").open("wb") as held_out:
        for batch in _batches(pieces):
            for (document, _), encoding in zip(
                batch, tokenizer.encode_batch_fast([piece for _, piece in batch]), strict=True
            ):
                tokens = ([0] if document != last else []) + encoding.ids
                out = _is_held_out(document, every)
                np.array(tokens, kind).tofile(held_out if out else train)
                lengths["held_out_tokens" if out else "train_tokens"] += len(tokens)
                last = document
            tick(len(batch))
    return lengths


def _batches(pieces: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    batch, size = [], 0
    for document, piece in pieces:
        batch.append((document, piece))
        size += len(piece)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _learn_vocabulary(texts: Iterable[str], d_vocab: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab, special_tokens=[BOS], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.encode_special_tokens = True  # a text that says "<bos>" holds these letters, not the token
    return tokenizer


def _for_transformers(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS)


def _dtype(d_vocab: int) -> type[np.unsignedinteger]:
    return np.uint16 if d_vocab <= 1 << 16 else np.uint32
