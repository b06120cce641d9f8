"""What comes next in a text, likeliest first: behind one token or each, with and without some heads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any

import pandas as pd
import torch

from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.reading import heads_of
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.outputs import random_reference
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import HeadLike
from induction_lab.results.token_labels import token_labels


@takes_names
def compare_predictions(
    model: HookedModel,
    text: PromptsLike,
    heads: HeadLike | Iterable[HeadLike],
    *,
    method: str = "mean",
    position: int = -1,
    k: int = 5,
) -> pd.DataFrame:
    """What comes next at one position, with and without some heads.

    >>> compare_predictions(load_model("smollm2-135m"), "one two three one two", "L18H6", k=2)      # doctest: +SKIP

    Args:
        model: Any supported model.
        text: One text, or one prompt.
        heads: Those to ablate.
        method: As in `ablate`; means are those over 16 prompts of random tokens of the same length.
        position: After which token, the first being 0; -1: the last. At several, or at all: `predict`.
        k: How many of the likeliest tokens, of each of the two.

    Returns:
        One row a token, the likeliest of the whole model first: `token`, `token_id`, `probability`, `without`, `nats`
        (the logarithm of their ratio: what the heads add to it).

    Raises:
        ValueError: If there is more than one prompt, no such position, or `k` is no number of tokens.
    """
    prompt = single_text(model, text)
    places = _places("position", position, prompt.tokens.shape[1])
    found: Any = _likeliest(model, prompt, k, heads, method, places)
    names = {"next_token": "token", "next_id": "token_id"}
    return found[[*names, "probability", "without", "nats"]].rename(columns=names)


@takes_names
def predict(
    model: HookedModel,
    text: PromptsLike,
    k: int = 5,
    *,
    without: HeadLike | Iterable[HeadLike] | None = None,
    method: str = "mean",
    positions: int | Iterable[int] | None = None,
) -> pd.DataFrame:
    """The likeliest next tokens behind each token of a text, with and without some heads.

    >>> load_model("smollm2-135m").predict("one two three one two", k=2, without=["L18H6"])        # doctest: +SKIP

    Args:
        model: Any supported model.
        text: One text, or one prompt.
        k: How many next tokens at each position; with `without` as many of each of the two.
        without: Heads to ablate.
        method: As in `ablate`; means are those over 16 prompts of random tokens of the same length.
        positions: Behind which tokens; -1: the last; by default each.

    Returns:
        One row a position and next token, the likeliest first: `position`, `token`, `next_token`, `next_id`,
        `probability`; with heads to ablate also `without`, the probability then, and `nats`, the logarithm of their
        ratio: what the heads add.

    Raises:
        ValueError: If there is more than one prompt, no such head or position, or `k` is no number of tokens.
    """
    prompt = single_text(model, text)
    n_pos = prompt.tokens.shape[1]
    asked = range(n_pos) if positions is None else _places("positions", positions, n_pos)
    return _likeliest(model, prompt, k, without, method, asked)


def _places(name: str, given: int | Iterable[int], n_pos: int) -> list[int]:
    """Positions of the text in order, each once, counted from the beginning."""
    asked: list[Any] = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = [each for each in asked if not isinstance(each, Integral) or not -n_pos <= int(each) < n_pos]
    if wrong or not asked:
        got = f"got {wrong[0]!r}" if wrong else "got none"
        raise ValueError(f"`{name}` must be in [{-n_pos}, {n_pos}), {got}: the text has {n_pos} tokens.")
    return sorted({int(each) % n_pos for each in asked})


def _likeliest(
    model: HookedModel,
    prompt: Prompts,
    k: int,
    heads: HeadLike | Iterable[HeadLike] | None,
    method: str,
    positions: Sequence[int],
) -> pd.DataFrame:
    """The table of `predict` for some positions."""
    if not 1 <= k <= model.d_vocab:
        raise ValueError(f"`k` must be a number of tokens from 1 to {model.d_vocab}, got {k}.")
    runs = [model.logits(prompt.tokens)[0].cpu()]
    if heads is not None:
        with ablate(model, heads_of(model, heads), method=method, reference=random_reference(model, prompt)):
            runs.append(model.logits(prompt.tokens)[0].cpu())
    frames, ids, labels = [], prompt.tokens[0].tolist(), model.token_labels(prompt)
    for position in positions:
        chances = [logits[position].double().log_softmax(-1) for logits in runs]
        best = torch.cat([each.topk(k).indices for each in chances]).unique()
        best = best[chances[0][best].argsort(descending=True)]
        behind = ids[: position + 1]
        words = [token_labels(model.tokenizer, [int(token)], behind=behind)[0] for token in best]
        rows = {"position": position, "token": labels[position], "next_token": words, "next_id": best.numpy()}
        rows |= {"probability": chances[0][best].exp().numpy()}
        if heads is not None:
            rows |= {"without": chances[1][best].exp().numpy(), "nats": (chances[0] - chances[1])[best].numpy()}
        frames.append(pd.DataFrame(rows))
    return pd.concat(frames, ignore_index=True)


def single_text(model: HookedModel, text: PromptsLike) -> Prompts:
    """A text as a prompt without padding; a ValueError where there are several."""
    prompt = as_prompts(model, text)
    if len(prompt) != 1:
        raise ValueError(
            f"One text is wanted, got {len(prompt)} prompts: give texts one by one, and of a text that is longer than "
            f"{prompt.tokens.shape[1]} tokens its beginning, text_prompts(model, text, n_prompts=1)."
        )
    return replace(prompt, tokens=prompt.tokens[:, : int(prompt.real_lengths[0])], lengths=None)
