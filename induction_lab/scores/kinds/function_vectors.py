"""Heads that carry a task which examples show: the score `function_vector`.

Sources: Todd et al. (2024), https://arxiv.org/abs/2310.15213; over many tasks Yin and Steinhardt (2025),
https://arxiv.org/abs/2502.14010. Their tasks are 29 to 40 data sets; ours are eight, written for this project
(`data/words/tasks.toml`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from induction_lab.data.marked import MarkedPrompts, marked
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import check_context, front
from induction_lab.data.word_lists import load_words, tokens_behind
from induction_lab.internals.batches import chunks
from induction_lab.internals.one_head_changed import probability_of, with_each_head_changed
from induction_lab.internals.reading import attention_layers
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.progress import Ticker, progress_bar
from induction_lab.scores.score import CausalScore

SHOTS, N_MEANS, N_PROMPTS = 10, 16, 8
Pairs = Sequence[Sequence[str]]  # a question and its answer each


class _Task(NamedTuple):
    """Prompts of a task, the right answer's first token being their mark: as they are, and with shuffled answers."""

    right: MarkedPrompts
    shuffled: MarkedPrompts


class FunctionVector(CausalScore):
    """How much a head's mean output on examples of a task makes the model do the task where examples are worthless.

    Prompts are ten times `Q: x`, `A: y` and an empty line, and a question. A head's output at the last position,
    averaged over 16 of them, replaces its output there in prompts whose answers are shuffled, so that none is right:
    the score is the rise of the probability of the right answer's first token. Each task has one value, so that the
    standard error is over tasks. Half of a task's pairs make the means, the other half what they are tried on.

    Args:
        tasks: Pairs of a question and its answer, 22 or more a task; by default the package's eight tasks.
        n_prompts: Shuffled prompts a task. Each costs a forward pass of 90 tokens and, for every head, half a pass of
            one token, or of all 90 where a model cannot run that alone (`internals.one_head_changed`):
            `tasks * n_prompts * heads / 2` such passes in all, and 16 whole ones a task for the means.
    """

    name, title, low, high, chance = "function_vector", "Function vector", -1.0, 1.0, 0.0
    source = "Todd et al. (2024), arxiv.org/abs/2310.15213; Yin and Steinhardt (2025), arxiv.org/abs/2502.14010"
    meaning = (
        "Rise of the probability of the right answer after examples with shuffled answers, when the head puts out its "
        "mean over prompts whose examples are right; mean over tasks."
    )
    measured_on = "tasks"

    def __init__(self, *, tasks: Mapping[str, Pairs] | None = None, n_prompts: int = N_PROMPTS) -> None:
        """Say which tasks, and how many prompts."""
        self.tasks, self.n_prompts = tasks, n_prompts

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Why the prompts cannot be made of this model, or its heads not changed one by one."""
        try:
            refuse_on_disk(model, "A function vector", model.n_layers * model.n_heads)
            self.prompts(model, seed=0)
        except ValueError as error:
            return str(error)
        return None

    def prompts(self, model: HookedModel, *, seed: int = 0) -> dict[str, _Task]:
        """Each task's prompts with right answers and with shuffled ones.

        Raises:
            ValueError: If the model has no tokenizer or no room for the prompts, or a task has too few pairs.
        """
        if model.tokenizer is None:
            raise ValueError("tasks are words, and the model has no tokenizer: HookedModel(network, tokenizer)")
        generator, found = Generator().manual_seed(seed), {}
        tasks: Mapping[str, Pairs] = load_words("tasks") if self.tasks is None else self.tasks
        for name, pairs in tasks.items():
            if len(pairs) < 2 * (SHOTS + 1):
                raise ValueError(f"task {name!r} has {len(pairs)} pairs; {2 * (SHOTS + 1)} are needed")
            drawn = _drawn([(x, y) for x, y in pairs], generator)
            right = _prompts(model, drawn[::2], N_MEANS, generator)
            found[name] = _Task(right, _prompts(model, drawn[1::2], self.n_prompts, generator, shuffle=True))
        return found

    def measure(self, model: HookedModel, *, seed: int = 0, progress: bool = False) -> Float[Tensor, "task layer head"]:
        """The rise of the right answer's probability on every task, for every head."""
        tasks = self.prompts(model, seed=seed).values()
        total = len(attention_layers(model)) * model.n_heads * self.n_prompts * len(tasks)
        with progress_bar(total, "putting heads' means into prompts", shown=progress) as tick:
            return torch.stack([_rise(model, task, tick) for task in tasks])


def _prompts(
    model: HookedModel, pairs: list[tuple[str, str]], n_prompts: int, generator: Generator, *, shuffle: bool = False
) -> MarkedPrompts:
    begin, rows, answers = front(model, "model"), [], []
    for _ in range(n_prompts):
        (question, answer), *shots = _drawn(pairs, generator)[: SHOTS + 1]
        labels = [label for _, label in shots]
        labels = _shuffled(labels, generator) if shuffle else labels
        text = "".join(f"Q: {x}\nA: {y}\n\n" for (x, _), y in zip(shots, labels, strict=True)) + f"Q: {question}\nA:"
        token = tokens_behind(model.tokenizer, text, f" {answer}")[:1]
        if not token:
            raise ValueError(f"this tokenizer writes `A:` and the answer {answer!r} behind it as one token")
        rows.append([*begin, *tokens_behind(model.tokenizer, "", text)])
        answers.append(token)
    check_context(model, max(map(len, rows)), f"{SHOTS} examples of a task", False)
    return marked(rows, answers, kind="examples")


def _drawn(some: Sequence[Any], generator: Generator) -> list[Any]:
    """The same in random order."""
    return [some[i] for i in torch.randperm(len(some), generator=generator).tolist()]


def _shuffled(labels: list[str], generator: Generator) -> list[str]:
    """The labels in another order, in which none stands where it stood if a few attempts find one."""
    found = labels
    for _ in range(200):
        found = _drawn(labels, generator)
        if all(new != old for new, old in zip(found, labels, strict=True)):
            break
    return found


def _rise(model: HookedModel, task: _Task, tick: Ticker) -> Float[Tensor, "layer head"]:
    sums: dict[int, Tensor] = {}
    for some in chunks(*task.right.tokens.shape, most=1024):
        part = task.right[some]
        last = (torch.arange(len(part)), slice(None), part.real_lengths - 1)
        for layer, seen in residual_streams(model, part.tokens).attention.items():
            sums[layer] = sums.get(layer, 0) + seen.z[last].to(model.wide).sum(0)
    found = []
    for some in chunks(*task.shuffled.tokens.shape):
        part = task.shuffled[some]
        means = {layer: (total / len(task.right)).expand(len(part), -1, -1) for layer, total in sums.items()}
        streams, at = residual_streams(model, part.tokens), part.real_lengths - 1
        read = probability_of(model, part.marks[:, 0])
        found.append(with_each_head_changed(streams, means, at, read, tick=tick))
    return torch.cat(found).mean(0)
