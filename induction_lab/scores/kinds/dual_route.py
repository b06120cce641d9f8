"""Two ways to copy words: heads that look at the next token to copy, and heads that look at the end of a whole word.

Source: Feucht et al. (2025), https://arxiv.org/abs/2504.03022. Their random tokens are those of web text, shuffled;
ours are those of the package's prose, each once, so that nothing recurs but what is meant to, and without a tokenizer
any of the vocabulary. Their entities are the subjects of CounterFact; ours are written for this project
(`data/words/entities.toml`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from induction_lab.data.marked import MarkedPrompts, marked
from induction_lab.data.occurrences import Pairs, Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import check_context, draw, front
from induction_lab.data.word_lists import load_words, tokens_behind
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_outputs
from induction_lab.scores.score import AttentionScore

FEUCHT = "Feucht et al. (2025), arxiv.org/abs/2504.03022"
ENTITY_TOKENS = (2, 3, 4, 5)  # equally many prompts of each
CONTEXT = 30  # tokens of the entity and around it
N_PROMPTS = 64


@dataclass(frozen=True)
class Copied:
    """What one prompt is made of.

    Attributes:
        begin: BOS, or nothing.
        entity: Tokens to be copied.
        others: 60 random tokens, all different and none of them the entity's.
        newline: What stands between the copies.
    """

    begin: list[int]
    entity: list[int]
    others: list[int]
    newline: list[int]


def copied(model: HookedModel, *, n_prompts: int, seed: int, entities: Iterable[str] | None) -> list[Copied]:
    """The parts of prompts in which something of 2, 3, 4, 5, 2, 3, … tokens is to be copied.

    Args:
        model: Whose tokens.
        n_prompts: How many.
        seed: Of all that is random.
        entities: Words of several tokens; None for random tokens in their place.

    Raises:
        ValueError: If the vocabulary is too small, there is no tokenizer to write the entities, or it makes nothing of
            2, 3, 4 or 5 tokens of them.
    """
    begin = front(model, "model")
    check_context(model, 2 * (CONTEXT + len(begin) + 1), "A text and its copy", False)
    most = max(ENTITY_TOKENS)
    rows = _random_rows(model, n_prompts, 2 * CONTEXT + 2 * most + 1, seed, begin)
    newline = [] if model.tokenizer is None else tokens_behind(model.tokenizer, "a", "\n")
    by_length = None if entities is None else _by_length(model, list(entities), seed)
    found = []
    for i, row in enumerate(rows):
        length = ENTITY_TOKENS[i % len(ENTITY_TOKENS)]
        own, row = row[:length], row[length:]
        if by_length is not None:
            own = by_length[length][i // len(ENTITY_TOKENS) % len(by_length[length])]
        others = [token for token in row if token not in own and token not in newline]
        between = newline or others[-1:]
        found.append(Copied(begin, own, others[: 2 * CONTEXT], between))
    return found


def _random_rows(model: HookedModel, n_prompts: int, n_tokens: int, seed: int, begin: list[int]) -> list[list[int]]:
    """Rows of distinct tokens: of prose, if that has so many here, or of the vocabulary."""
    if model.tokenizer is not None:
        prose = set(tokens_behind(model.tokenizer, "", load_words("haystack")["prose"]))
        usual = torch.tensor(sorted(prose.difference(begin, model.tokenizer.all_special_ids)))
        if len(usual) >= n_tokens:
            generator = torch.Generator().manual_seed(seed)
            return [
                usual[torch.randperm(len(usual), generator=generator)[:n_tokens]].tolist() for _ in range(n_prompts)
            ]
    return draw(model, n_prompts, n_tokens, seed, begin).tolist()


def _by_length(model: HookedModel, entities: Sequence[str], seed: int) -> dict[int, list[list[int]]]:
    """The entities as tokens, those of a length in random order."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("whole words are wanted, and the model has no tokenizer: HookedModel(network, tokenizer)")
    found: dict[int, list[list[int]]] = {length: [] for length in ENTITY_TOKENS}
    order = torch.randperm(len(entities), generator=torch.Generator().manual_seed(seed))
    special = set(tokenizer.all_special_ids)
    for which in order.tolist():
        tokens = tokens_behind(tokenizer, "a", f" {entities[which]}")
        if len(tokens) in found and not special.intersection(tokens):
            found[len(tokens)].append(tokens)
    for length, some in found.items():
        if not some:
            raise ValueError(
                f"none of {len(entities)} words has {length} tokens here: give others, "
                f"ConceptMatching(entities=[…]), of {', '.join(map(str, ENTITY_TOKENS))} tokens each"
            )
    return found


class TokenMatching(AttentionScore):
    """Attention, by values, from the end of a second copy to the first token of what followed in the first.

    Prompts are `BOS r1 e r2 newline r1`, e 2 to 5 random tokens, r1 of 15 to 28 and r1, e, r2 together of 30 tokens.

    Args:
        n_prompts: How many, a quarter for each length of e. One forward pass of each, of about 55 tokens.
    """

    name, title, source, weighed = "token_matching", "Next-token matching", FEUCHT, True
    meaning = (
        "Attention, by the size of what it moves, from the end of the second copy of random tokens to the one that "
        "followed the first copy."
    )
    measured_on, threshold = "copied tokens", None

    def __init__(self, *, n_prompts: int = N_PROMPTS) -> None:
        """Say how many prompts."""
        self.n_prompts = n_prompts

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_outputs` refuses."""
        return why_no_outputs(model)

    def entities(self) -> Iterable[str] | None:
        """What is copied; None: random tokens."""
        return None

    def own_prompts(self, model: HookedModel, *, seed: int = 0) -> MarkedPrompts:
        """Prompts whose marks are the first and the last token of e."""
        parts = copied(model, n_prompts=self.n_prompts, seed=seed, entities=self.entities())
        generator = torch.Generator().manual_seed(seed)
        rows, marks = [], []
        for part in parts:
            n = len(part.entity)
            size = int(torch.randint(CONTEXT // 2, CONTEXT - n + 1, (), generator=generator))
            before, behind = part.others[:size], part.others[size : CONTEXT - n]
            rows.append([*part.begin, *before, *part.entity, *behind, *part.newline, *before])
            start = len(part.begin) + size
            marks.append([start, start + n - 1])
        return marked(rows, marks, kind="copied", seed=seed)

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """From the last token of a prompt to the first of e."""
        return _from_the_end(seen.prompts, 0)


class ConceptMatching(TokenMatching):
    """Attention, by values, from the end of a second copy to the last token of the word that followed in the first.

    Prompts are those of `TokenMatching`, with e a word, a name or a title in place of random tokens.

    Args:
        n_prompts: How many, a quarter for each length of e. One forward pass of each, of about 55 tokens.
        entities: Words to be copied, of 2 to 5 tokens; by default the package's own 533.
    """

    name, title = "concept_matching", "Last-token matching"
    meaning = (
        "Attention, by the size of what it moves, from the end of the second copy of random tokens to the last token "
        "of the word that followed the first copy."
    )
    measured_on = "copied words"

    def __init__(self, *, n_prompts: int = N_PROMPTS, entities: Sequence[str] | None = None) -> None:
        """Say how many prompts, and of which words."""
        super().__init__(n_prompts=n_prompts)
        self.own_entities = entities

    def entities(self) -> Iterable[str]:
        """The words."""
        return words_to_copy(self.own_entities)

    def pairs_of(self, seen: Recurrences) -> Pairs:
        """From the last token of a prompt to the last of e."""
        return _from_the_end(seen.prompts, 1)


def words_to_copy(entities: Sequence[str] | None) -> list[str]:
    """The words given, or those of the package."""
    return [word for kind in load_words("entities").values() for word in kind] if entities is None else list(entities)


def _from_the_end(prompts: Prompts, mark: int) -> Pairs:
    assert isinstance(prompts, MarkedPrompts)  # made above
    return torch.arange(len(prompts)), prompts.real_lengths - 1, prompts.marks[:, mark]
