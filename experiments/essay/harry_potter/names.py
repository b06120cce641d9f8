"""Passages in which somebody is named twice (names.toml), and what heads do where the name is due."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.essay.geometry.experiment import head_outputs
from experiments.essay.passages import Passages, first_token, read_passages
from induction_lab import Head, HookedModel, Prompts, attribute_logits, text_prompts
from induction_lab.behaviour.next_tokens import NO_ANSWER
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.interventions.edits import Substitute
from induction_lab.interventions.outputs import Outputs
from induction_lab.models.frozen_norms import unembedding_readers

NAMES = Path(__file__).with_name("names.toml")

GROUPS = ("known", "made_up", "exchanged")
WORDINGS = ("likened", "repeated", "unrelated")  # what stands for the title when it comes again
EACH = 2  # passages a name


class Named(NamedTuple):
    """Passages that end where a name should come, `EACH` in a row for every name.

    Attributes:
        passages: Marks: `second`, the name at its earlier occurrence; `first_again` or `again`, the end.
        answers: The first token of the name that should come.
    """

    passages: Passages
    answers: Int[Tensor, " prompt"]

    def by_name(self, values: Float[Tensor, "prompt ..."]) -> Float[Tensor, "name ..."]:
        """The mean over each name's passages."""
        return values.unflatten(0, (-1, EACH)).mean(1)


def names_of(data: dict[str, Any], group: str, most: int | None = None) -> list[tuple[str, str]]:
    """First and second names; `exchanged` are the known first names with the next one's second name."""
    known = [tuple(name.split()) for name in data["known" if group == "exchanged" else group][:most]]
    if group == "exchanged":
        return [(first, known[(i + 1) % len(known)][1]) for i, (first, _) in enumerate(known)]
    return [(first, second) for first, second in known]


def name_passages(
    model: HookedModel,
    data: dict[str, Any],
    group: str,
    most: int | None = None,
    *,
    stranger: bool = False,
    length: int = 0,
) -> Named:
    """Each name in `EACH` of the passages; with a `stranger` nothing is marked there."""
    texts, answers = [], []
    for number, (first, second) in enumerate(names_of(data, group, most)):
        for turn in range(EACH):
            passage = data["passages"][(number + turn) % len(data["passages"])]
            earlier = data["stranger"] if stranger else f"{first} <second|{second}>"
            texts.append(passage.format(name=earlier, first=f"<first_again|{first}>"))
            answers.append(first_token(model, second))
    return Named(read_passages(model, texts, length=length), torch.tensor(answers))


def fuzzy_passages(model: HookedModel, data: dict[str, Any], kind: str, wording: str, most: int | None = None) -> Named:
    """Each title and name, and then the title in other words, the title itself, or an unrelated one."""
    texts, answers = [], []
    for title, name, likened, unrelated in data["fuzzy"]["kinds"][kind][:most]:
        again = {"likened": likened, "repeated": f"the {title}", "unrelated": unrelated}[wording]
        for passage in data["fuzzy"]["passages"]:
            filled = passage.format(title=title, name=f"<second|{name}>", again=f"<again|{again}>")
            texts.append(filled)
            answers.append(first_token(model, name))
    return Named(read_passages(model, texts), torch.tensor(answers))


def ordinary_passages(model: HookedModel, data: dict[str, Any], *, n_prompts: int, length: int, seed: int) -> Prompts:
    """The same passages about all sorts of people, strangers before, run together and cut to one length."""
    people = [first for group in GROUPS[:2] for first, _ in names_of(data, group)]
    texts = [text.format(name=data["stranger"], first=first) for text in data["passages"] for first in people]
    random.Random(seed).shuffle(texts)
    return text_prompts(model, ". ".join(texts), length=length, n_prompts=n_prompts)


def attention_to(
    passages: Passages, streams: ResidualStreams, query: str, key: str
) -> Float[Tensor, "prompt layer head"]:
    """Each head's attention from the last token of one mark to the first token of another."""
    at = torch.arange(len(passages.tokens)), passages.marks[query][:, 1], passages.marks[key][:, 0]
    return torch.stack([a.probabilities(*at).float().cpu() for _, a in sorted(streams.attention.items())], 1)


def log_probabilities(model: HookedModel, named: Named, hidden: Float[Tensor, "prompt pos d_model"]) -> Tensor:
    """Of the second name's first token at the end, in nats; a name's mean over its passages."""
    with torch.inference_mode():
        logs = model.unembed(named.passages.at_end(hidden)).float().log_softmax(-1).cpu()
    return named.by_name(logs.gather(1, named.answers[:, None])[:, 0])


def run_without(
    streams: ResidualStreams, mean: Substitute, heads: Sequence[Head]
) -> Float[Tensor, "prompt pos d_model"]:
    """The normalised stream with these heads at their mean over ordinary passages."""
    return streams.run(min(head.layer for head in heads), lambda attention: mean.edit(attention, [heads]))


def logits_added(model: HookedModel, named: Named) -> Float[Tensor, "prompt layer head"]:
    """What each head writes for the second name's logit at the end, less for the mean logit (final norm held)."""
    answers = torch.full_like(named.passages.tokens, NO_ANSWER)
    answers[torch.arange(len(answers)), named.passages.last] = named.answers
    found = attribute_logits(model, named.passages.prompts, answers=answers)
    rows = [found.labels.index(str(Head(*divmod(i, model.n_heads)))) for i in range(model.n_layers * model.n_heads)]
    values = named.passages.at_end(found.values[rows].permute(1, 2, 0))
    return values.unflatten(1, (model.n_layers, model.n_heads))


def written_at_end(
    model: HookedModel, named: Named, streams: ResidualStreams
) -> Float[Tensor, "layer head prompt d_model"]:
    """What each head adds to the stream where a passage ends."""
    z = [named.passages.at_end(seen.z.transpose(1, 2)) for _, seen in sorted(streams.attention.items())]
    with torch.inference_mode():
        return head_outputs(model, torch.stack(z).float().cpu()).unflatten(0, (model.n_layers, model.n_heads))


def ranks(
    model: HookedModel, named: Named, written: Float[Tensor, "layer head prompt d_model"], heads: Sequence[Head]
) -> Float[Tensor, " prompt"]:
    """The second name's rank among all tokens by what the heads' summed output adds to their logits; 0 is first."""
    with torch.inference_mode():
        summed = torch.stack([written[head.layer, head.head] for head in heads]).sum(0)
        readers = unembedding_readers(model)
        promoted = (summed.to(readers) @ readers.T).cpu()
    own = promoted.gather(1, named.answers[:, None])
    return (promoted > own).sum(1).float()


def outputs(streams: ResidualStreams) -> Outputs:
    """What every head puts out, by layer."""
    return Outputs({layer: seen.z for layer, seen in streams.attention.items()})
