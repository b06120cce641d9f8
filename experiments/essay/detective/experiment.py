"""At which layer does a clue count, at which a motive, and at which is the culprit found?

    python -m experiments detective

The essay's detective looks for fingerprints in the first layer, works out the motive in the middle and asks in the last
who looks most like the culprit. Short stories that differ in one word, so that the one or the other did it. Layer by
layer the stream at the clue, or at the end, is put in from the story with the other word: while the clue counts where
it stands, the answer turns; once it was passed on, it no longer does; and at the end it turns from the layer on in
which the answer is there. Writes to figures/: detective.csv, detective.json (verdicts), detective.png. About 6 minutes
on one CPU core.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.detective.conclusions import culprit, fingerprint, motive
from experiments.essay.detective.figures import draw
from experiments.essay.of_models import Least, on_models
from experiments.essay.passages import (
    Passages,
    first_token,
    n_tokens,
    read_data,
    read_passages,
)
from induction_lab import HookedModel
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams

DATA = Path(__file__).with_name("stories.toml")
KINDS = ("fingerprint", "motive")
STEPS = 12  # layers at which streams are exchanged


class Stories(NamedTuple):
    """Each story twice: all with the word that points at the first name, then all with the other.

    Attributes:
        passages: Marked at `clue`.
        names: The two names' tokens, the first that of whom the first word points at.
        story: Which story of the file it is; the names and their order vary.
    """

    passages: Passages
    names: Int[Tensor, "pair 2"]
    story: Int[Tensor, " pair"]

    def lead(self, model: HookedModel, hidden: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, " pair"]:
        """By how many logits the right name leads, mean of a story's two."""
        with torch.inference_mode():
            logits = model.unembed(self.passages.at_end(hidden)).float().cpu()
        first, second = logits.gather(1, self.names.repeat(2, 1)).T
        one, two = (first - second).chunk(2)
        return (one - two) / 2


def main(argv: list[str] | None = None) -> None:
    on_models(
        argv,
        __doc__,
        "detective",
        lambda model, most: [row for kind in KINDS for row in measured(model, kind, most)],
        lambda table: [fingerprint(table), motive(table), culprit(table)],
        draw,
        least=Least("stories", 3, "so that an error can be told"),
    )


def read_stories(model: HookedModel, kind: str, most: int | None = None) -> Stories:
    """The stories of a kind whose two words are as long as each other for this model, with every pair of names."""
    data, texts, names, numbers = read_data(DATA), ([], []), [], []
    for number, (story, *clues) in enumerate(data[kind]["stories"][:most]):
        if n_tokens(model, clues[0]) != n_tokens(model, clues[1]):
            continue
        for pair in data["names"]:
            for a, b in (pair, pair[::-1]):
                for text, clue in zip(texts, clues, strict=True):
                    text.append(story.format(a=a, b=b, clue=f"<clue|{clue}>"))
                names.append([first_token(model, name) for name in (a, b)])
                numbers.append(number)
    return Stories(read_passages(model, texts[0] + texts[1]), torch.tensor(names), torch.tensor(numbers))


def measured(model: HookedModel, kind: str, most: int | None = None) -> list[dict[str, Any]]:
    """By story, the lead with the stream at a place put in from the other story, before some layers and at the end."""
    own = read_stories(model, kind, most)
    streams = residual_streams(model, own.passages.tokens)
    clean = own.lead(model, streams.normalised)
    layers = sorted({round(i * model.n_layers / STEPS) for i in range(STEPS + 1)})
    clue = own.passages.marks["clue"]
    places = {
        "clue": [clue[:, 0] + i for i in range(int((clue[:, 1] - clue[:, 0]).max()) + 1)],
        "end": [own.passages.last],
        "before the clue": [clue[:, 0] - 1],
    }
    rows = []
    for place, positions in places.items():
        for layer in layers if place != "before the clue" else layers[:1]:
            left = own.lead(model, exchanged(streams, layer, positions))
            for number in own.story.unique():
                at = own.story == number
                rows.append(
                    {"model": model.name, "kind": kind, "place": place, "layer": layer, "story": int(number)}
                    | {"depth": layer / model.n_layers, "lead": float(clean[at].mean()), "left": float(left[at].mean())}
                )
    return rows


def exchanged(
    streams: ResidualStreams, layer: int, positions: list[Int[Tensor, " prompt"]]
) -> Float[Tensor, "prompt pos d_model"]:
    """The end of the stream when it is, at these positions before a layer, that of the pair's other story."""
    before = streams.before[layer].clone()
    rows = torch.arange(len(before))
    other = rows.roll(len(rows) // 2)
    for at in positions:
        before[rows, at] = streams.before[layer][other, at]
    return streams.run(layer, stream=before)


if __name__ == "__main__":
    main(sys.argv[1:])
