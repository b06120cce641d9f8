"""Heads that copy a needle out of a haystack: the score `retrieval`.

Source: Wu et al. (2024), https://arxiv.org/abs/2404.15574. Prose and needles are written for this project
(`data/words/haystack.toml`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.marked import MarkedPrompts, marked
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import check_context, front
from induction_lab.data.word_lists import load_words, tokens_behind
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import LayerScore

LENGTHS, DEPTHS = (256, 512, 1024), (0.1, 0.3, 0.5, 0.7, 0.9)
RETRIEVES = 0.1  # what Wu et al. call a retrieval head scores more


class Retrieval(LayerScore):
    """Share of a needle that a head copies: tokens of the answer at which the head looks most at just that token of it.

    Prose, in it a needle that ends in an answer, and at the end a question and that answer. A token of the answer is a
    hit of a head whose largest probability, where that token is predicted, lies on the same token within the needle's
    answer, if the model's first choice is that token; the score is hits per tokens of the answer. In the paper the
    model writes the answer itself; here it reads the right one (teacher forcing), so that all heads are seen in one
    forward pass a prompt, and one mistake does not spoil the rest. A model that finds no needle scores 0 throughout.

    Args:
        lengths: Of prompts, in tokens; those that the context has no room for are left out.
        needles: Each with `statement`, `answer` and `question`; by default the package's three. One prompt for each
            length, needle and depth (0.1, 0.3, 0.5, 0.7, 0.9 of the prose), so 45 of 600 tokens on average.
    """

    name, low, high, needs_end = "retrieval", 0.0, 1.0, True
    source = "Wu et al. (2024), arxiv.org/abs/2404.15574"
    meaning = (
        "Share of the tokens of an answer hidden in prose that the head looks at most when the model rightly predicts "
        f"them. Above {RETRIEVES} people speak of a retrieval head."
    )
    measured_on, threshold = "needles", RETRIEVES

    def __init__(self, *, lengths: Sequence[int] = LENGTHS, needles: Sequence[Mapping[str, str]] | None = None) -> None:
        """Say how long, and what is hidden."""
        self.lengths, self.needles = tuple(sorted(lengths)), needles

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse a model whose first choice cannot be read off the end of its stream."""
        if not model.unembeds_by_parts:
            return f"{model.name} does more to its logits than unembed the stream"
        return None

    def own_prompts(self, model: HookedModel, *, seed: int = 0) -> MarkedPrompts:
        """Prompts whose marks are the answer's first token in the needle and at the end, and its number of tokens."""
        if model.tokenizer is None:
            raise ValueError("the needle is text, and the model has no tokenizer: HookedModel(network, tokenizer)")
        check_context(model, self.lengths[0], f"A haystack of {self.lengths[0]} tokens", False)
        lengths = [length for length in self.lengths if model.n_ctx is None or length <= model.n_ctx]
        words = load_words("haystack")
        sentences = [_tokens(model, f" {each}") for each in re.split(r"(?<=[.:!?])\s+", words["prose"].strip())]
        made = [
            _prompt(model, sentences, needle, length, depth)
            for length in lengths
            for needle in (words["needles"] if self.needles is None else self.needles)
            for depth in DEPTHS
        ]
        rows, marks = zip(*made, strict=True)
        return marked(rows, marks, kind="haystack", seed=seed)

    def reader(self, model: HookedModel, prompts: Prompts) -> _Hits:
        """Prepare the queries."""
        assert isinstance(prompts, MarkedPrompts)  # made above
        return _Hits(model, prompts)


def _tokens(model: HookedModel, text: str) -> list[int]:
    """Of a text in the midst of another."""
    return tokens_behind(model.tokenizer, "a", text)


def _prompt(
    model: HookedModel, sentences: Sequence[list[int]], needle: Mapping[str, str], length: int, depth: float
) -> tuple[list[int], list[int]]:
    """One prompt of this many tokens and its marks, the needle behind the sentence that ends next to its depth."""
    statement, answer, stop = (
        _tokens(model, text) for text in (f" {needle['statement']}", f" {needle['answer']}", ".")
    )
    end, begin = _tokens(model, f"\n\nQuestion: {needle['question']}\nAnswer:"), front(model, "model")
    room = length - len(begin) - len(statement) - 2 * len(answer) - len(stop) - len(end)
    ends = torch.tensor([0, *map(len, sentences)]).cumsum(0)
    if not 0 < room <= ends[-1]:
        raise ValueError(
            f"prompts of {length} tokens cannot be made: needle and question have {length - room} tokens here, the "
            f"prose {int(ends[-1])}"
        )
    prose = [token for sentence in sentences for token in sentence][:room]
    place = int(ends[ends <= room][(ends[ends <= room] - depth * room).abs().argmin()])
    before = [*begin, *prose[:place], *statement]
    row = [*before, *answer, *stop, *prose[place:], *end, *answer]
    return row, [len(before), len(row) - len(answer), len(answer)]


class _Hits:
    """Which tokens of the answer each head looks at most where they are predicted."""

    def __init__(self, model: HookedModel, batch: MarkedPrompts) -> None:
        self.model = model
        tokens = batch.tokens.to(model.device)
        needle, answer, self.n_tokens = (mark[:, None] for mark in batch.marks.to(model.device).unbind(1))
        step = torch.arange(int(self.n_tokens.max()), device=model.device)
        self.asked = step < self.n_tokens  # [prompt, step]; answers differ in length
        self.prompt = torch.arange(len(batch), device=model.device)[:, None]
        self.query = torch.where(self.asked, answer + step - 1, answer)
        self.right = tokens[self.prompt, self.query + self.asked.long()]
        self.needle, self.tokens = needle, tokens
        self.found = torch.zeros(len(batch), model.n_layers, model.n_heads, len(step), dtype=torch.bool)
        self.attends = torch.zeros(model.n_layers, dtype=torch.bool)

    def read(self, attention: AttentionReading) -> None:
        queries, place = self.query.unique(return_inverse=True)
        top = attention.pattern(queries=queries).argmax(-1).transpose(1, 2)[self.prompt, place]  # [prompt, step, head]
        here = (top >= self.needle[..., None]) & (top < (self.needle + self.n_tokens)[..., None])
        same = self.tokens[self.prompt[..., None], top] == self.right[..., None]
        self.found[:, attention.layer] = (here & same & self.asked[..., None]).transpose(1, 2).cpu()
        self.attends[attention.layer] = True

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        assert stream.normalised is not None
        with torch.inference_mode():
            chosen = self.model.unembed(stream.normalised[self.prompt, self.query]).argmax(-1)
        hits = self.found & (chosen == self.right).cpu()[:, None, None]
        share = hits.sum(-1) / self.n_tokens.cpu()[..., None].float()
        return share.masked_fill(~self.attends[:, None], torch.nan)
