"""What heads are ablated on in `kinds_of_heads`: prompts of each behaviour, and what is measured on one of them.

    copying      the second copy of random tokens
    tasks        the right answer's first token after ten examples
    words        lists of ten English words, written twice: verbatim copying of text
    translation  lists of ten words and their translations, English with French or Spanish, either way round: concept
                 copying, after the vocabulary lists of Feucht et al. (2025), https://arxiv.org/abs/2504.03022
    opposites    lists of ten words and their opposites, for models that know one language

Of lists it is the loss at the first token of each word from the third of the second list on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from induction_lab import HookedModel, repeated_tokens
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import front
from induction_lab.data.word_lists import load_words, tokens_behind
from induction_lab.scores.kinds.function_vectors import FunctionVector

N_WORDS, SHOWN_FIRST = 10, 2  # words of a list; those that only show what the second list is
LISTS = ("words", "translation", "opposites")
HEADINGS = {  # of a task's questions and answers
    "english_french": ("English", "French"),
    "english_spanish": ("English", "Spanish"),
    "antonyms": ("Words", "Opposites"),
}


class Behaviour(NamedTuple):
    """Prompts, and what `ablation_sweep` measures on each."""

    prompts: Prompts
    metric: Any


def behaviours(model: HookedModel, n_prompts: int) -> dict[str, Behaviour]:
    """All that can be had of a model: words need a tokenizer."""
    found = {"copying": Behaviour(repeated_tokens(model, n_prompts=n_prompts, distinct=True), "copy_loss")}
    if model.tokenizer is not None:
        found["tasks"] = task_prompts(model, n_prompts)
        found |= {kind: word_lists(model, kind, n_prompts) for kind in LISTS}
    return found


def task_prompts(model: HookedModel, n_prompts: int) -> Behaviour:
    """Ten-shot prompts of every task, and the loss at the right answer's first token."""
    tasks = FunctionVector(n_prompts=1).prompts(model, seed=1).values()
    each = max(1, n_prompts // len(tasks))
    known = [(task.right[i : i + 1], int(task.right.marks[i, 0])) for task in tasks for i in range(each)]
    rows = [prompt.tokens[0, : int(prompt.real_lengths[0])].tolist() for prompt, _ in known]
    return _behaviour(rows, [{len(row): answer} for row, (_, answer) in zip(rows, known, strict=True)])


def word_lists(model: HookedModel, kind: str, n_prompts: int, *, related: bool = True) -> Behaviour:
    """Two lists of words, the second the first again, its translation or its opposites, and the loss on the second.

    Args:
        model: With a tokenizer.
        kind: One of `LISTS`.
        n_prompts: How many.
        related: Otherwise the first list has other words than the second: what is then lost is what it tells.
    """
    generator, words = random.Random(0), load_words("tasks")
    rows, targets = [], []
    for i in range(n_prompts):
        task = "antonyms" if kind == "opposites" else ("english_french", "english_spanish")[i % 2]
        drawn = generator.sample(words[task], 2 * N_WORDS)
        pairs, others = drawn[:N_WORDS], drawn[N_WORDS:]
        first, second = (0, 0) if kind == "words" else (1, 0) if kind == "translation" and i % 4 > 1 else (0, 1)
        names = HEADINGS[task]
        source = ", ".join(pair[first] for pair in (pairs if related else others))
        row, places = _list(model, f"{names[first]}: {source}\n{names[second]}:", [pair[second] for pair in pairs])
        rows.append(row)
        targets.append({place: row[place] for place in places[SHOWN_FIRST:]})
    return _behaviour(rows, targets)


def _list(model: HookedModel, text: str, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """The tokens of a text and a list behind it, and where each word begins."""
    row, places = [*front(model, "model"), *tokens_behind(model.tokenizer, "", text)], []
    for i, word in enumerate(words):
        for piece, begins in ((",", False), (f" {word}", True)) if i else ((f" {word}", True),):
            tokens = tokens_behind(model.tokenizer, text, piece)
            if not tokens:
                raise ValueError(f"this tokenizer writes {piece!r} and what stands before it as one token")
            places += [len(row)] if begins else []
            row, text = [*row, *tokens], text + piece
    return row, places


def _behaviour(rows: list[list[int]], targets: list[dict[int, int]]) -> Behaviour:
    """Prompts, and the mean loss where a token is known to come at a position."""
    known = {tuple(row): target for row, target in zip(rows, targets, strict=True)}

    def loss(logits: Tensor, tokens: Tensor) -> float:
        target = known[tuple(tokens.tolist())]
        places, right = torch.tensor(list(target)) - 1, torch.tensor(list(target.values()))
        return -float(logits[places].log_softmax(-1).gather(1, right[:, None].to(logits.device)).mean())

    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    return Behaviour(Prompts(padded, lengths, kind="examples"), loss)
