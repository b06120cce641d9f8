"""One text, token by token: which heads copy there, from where, and how much of each prediction is theirs.

A prediction is from context as far as it is lost when the heads are replaced by their means over random tokens, which
hold nothing to copy; what stays comes from the weights, that is from memory, or from other heads.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attribution.logits_by_component import attribute_logits
from induction_lab.behaviour.losses import losses_on
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.reading import heads_of, read_attention
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.outputs import random_reference
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import provenance
from induction_lab.results.heads import LOOKS, Head, HeadLike
from induction_lab.results.saved import Saved
from induction_lab.results.token_labels import token_labels
from induction_lab.scores.scoring import score_heads

FROM_CONTEXT = math.log(2)  # nats lost without the heads: the right token's probability is halved
DARKEST = 3.0  # nats from which on a token is shaded no darker


@dataclass(frozen=True, repr=False)
class TextActivity(Saved):
    """What heads do on one text.

    Attributes:
        model: The model's name.
        tokens: One row a token: `position`, `token`, `next_token`; `log_p`, the next token's log-probability in nats,
            `log_p_without` with the heads replaced by their means, `from_context` the difference; `awake`, the heads
            that attend `LOOKS` or more to what followed earlier occurrences. The last token has no next one: NaN.
        heads: One row a token and head: `position`, `label`; `attention` to the tokens that followed earlier
            occurrences, `looks_at` the position of the one attended to most (-1: the token is new), `logit` what the
            head adds to the next token's logit (NaN where that cannot be had).
        provenance: Model, text, versions.
    """

    model: str
    tokens: pd.DataFrame
    heads: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """How many tokens come from context."""
        known: Any = self.tokens["from_context"].dropna()
        n = int((known >= FROM_CONTEXT).sum())
        return f"TextActivity({self.model!r}: {n} of {len(known)} next tokens from context)"

    @property
    def predicted(self) -> pd.DataFrame:
        """Every token beside how it was predicted, with `log_p` and the rest of the token before it."""
        how: Any = self.tokens[["log_p", "log_p_without", "from_context", "awake"]].shift(1)
        return pd.concat([self.tokens[["position", "token"]], how], axis=1)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a token and head, with all that is known of the token."""
        return self.heads.merge(self.tokens, on="position")

    def _repr_html_(self) -> str:
        """The text, each token shaded by how much of its prediction the heads carry."""
        spans, rows = [], self.predicted.fillna({"from_context": 0.0, "awake": ""}).to_dict("records")
        for row in rows:
            said = f"{row['from_context']:+.2f} nats from context; awake: {row['awake'] or 'none'}"
            colour = f"rgba(213, 94, 0, {min(1.0, max(0.0, row['from_context']) / DARKEST):.2f})"
            spans.append(f'<span title="{said}" style="background:{colour}">{html.escape(row["token"])}</span>')
        own = any(token.startswith(" ") for token in self.tokens["token"])  # numbers and words by themselves have none
        return (
            '<div style="font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.8">'
            f"{('' if own else ' ').join(spans)}</div>"
        )


@takes_names
def induction_activity(
    model: HookedModel, text: PromptsLike, heads: HeadLike | Iterable[HeadLike] | None = None
) -> TextActivity:
    """For each token of a text: which induction heads are awake, where they look, and what they carry.

    >>> induction_activity(load_model("smollm2-135m"), "Mr Dursley met Mrs Dursley and Mr Dursley")  # doctest: +SKIP
    TextActivity('smollm2-135m': 2 of 12 next tokens from context)

    Args:
        model: Any supported model.
        text: One text, or one prompt.
        heads: Which; by default all that score above `LOOKS` in prefix matching on random repeated tokens.

    Raises:
        ValueError: If there is more than one prompt, or no such head.
    """
    prompt = single_text(model, text)
    chosen = _chosen(model, heads)
    attention, looks_at = _where(model, prompt, chosen)
    with torch.no_grad():
        log_p = -losses_on(model, prompt)[0].double()
        with _replaced(model, prompt, chosen, "mean"):
            log_p_without = -losses_on(model, prompt)[0].double()
    added = _added(model, prompt, chosen)
    n_pos = prompt.tokens.shape[1]
    words = model.token_labels(prompt)
    labels = [str(head) for head in chosen]
    awake = [" ".join(labels[i] for i in (attention[t] >= LOOKS).nonzero()[:, 0].tolist()) for t in range(n_pos)]
    known = torch.full((2, n_pos), torch.nan, dtype=torch.float64)
    known[:, :-1] = torch.stack([log_p, log_p_without])
    tokens = pd.DataFrame(
        {"position": range(n_pos), "token": words, "next_token": [*words[1:], ""], "log_p": known[0].numpy()}
        | {"log_p_without": known[1].numpy(), "from_context": (known[0] - known[1]).numpy(), "awake": awake}
    )
    rows = [
        (t, label, float(attention[t, i]), int(looks_at[t, i]), float(added[t, i]))
        for t in range(n_pos)
        for i, label in enumerate(labels)
    ]
    columns = pd.Index(["position", "label", "attention", "looks_at", "logit"])
    return TextActivity(model.name, tokens, pd.DataFrame(rows, columns=columns), provenance(model, prompt))


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
        position: After which token; -1: the last.
        k: How many of the likeliest tokens, of each of the two.

    Returns:
        One row a token, the likeliest of the whole model first: `token`, `token_id`, `probability`, `without`, `nats`
        (the logarithm of their ratio: what the heads add to it).

    Raises:
        ValueError: If there is more than one prompt, no such position, or `k` is no number of tokens.
    """
    prompt = single_text(model, text)
    n_pos = prompt.tokens.shape[1]
    if not -n_pos <= position < n_pos:
        raise ValueError(f"`position` must be in [{-n_pos}, {n_pos}), got {position}.")
    found: Any = _likeliest(model, prompt, k, heads, method, [position % n_pos])
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
) -> pd.DataFrame:
    """The likeliest next tokens behind each token of a text, with and without some heads.

    >>> load_model("smollm2-135m").predict("one two three one two", k=2, without=["L18H6"])        # doctest: +SKIP

    Args:
        model: Any supported model.
        text: One text, or one prompt.
        k: How many next tokens at each position; with `without` as many of each of the two.
        without: Heads to ablate.
        method: As in `ablate`; means are those over 16 prompts of random tokens of the same length.

    Returns:
        One row a position and next token, the likeliest first: `position`, `token`, `next_token`, `next_id`,
        `probability`; with heads to ablate also `without`, the probability then, and `nats`, the logarithm of their
        ratio: what the heads add.

    Raises:
        ValueError: If there is more than one prompt, no such head, or `k` is no number of tokens.
    """
    prompt = single_text(model, text)
    return _likeliest(model, prompt, k, without, method, range(prompt.tokens.shape[1]))


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
        with _replaced(model, prompt, heads_of(model, heads), method):
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


def _chosen(model: HookedModel, heads: HeadLike | Iterable[HeadLike] | None) -> list[Head]:
    if heads is not None:
        return heads_of(model, heads)
    found = score_heads(model, scores="prefix_matching", loss=False).above("prefix_matching", LOOKS)
    if not found:
        raise ValueError(f"{model.name} has no induction head (prefix matching above {LOOKS}); say which `heads`.")
    return found


def _replaced(model: HookedModel, prompt: Prompts, heads: list[Head], method: str) -> Any:
    """A context in which the heads put out something else."""
    return ablate(model, heads, method=method, reference=random_reference(model, prompt))


def _where(model: HookedModel, prompt: Prompts, heads: list[Head]) -> tuple[Tensor, Tensor]:
    """`[pos, head]`: attention to what followed earlier occurrences, and the position attended to most among those."""
    rows, query, earlier = (each.to(model.device) for each in Recurrences(prompt).matches)
    n_pos = prompt.tokens.shape[1]
    total = torch.zeros(n_pos, len(heads), dtype=torch.float64)
    best = torch.full((n_pos, len(heads)), -1)
    at, key = query.cpu(), earlier.cpu() + 1

    def look(attention: AttentionReading) -> None:
        here = [i for i, head in enumerate(heads) if head.layer == attention.layer]
        if not here or not len(at):
            return
        read = attention.probabilities(rows, query, earlier + 1)[:, [heads[i].head for i in here]].double().cpu()
        total[:, here] = total[:, here].index_add(0, at, read)
        where = at[:, None].expand_as(read)
        most = torch.zeros(n_pos, len(here), dtype=torch.float64).scatter_reduce(0, where, read, "amax")
        keys = key[:, None].expand_as(read).masked_fill(read < most[at], -1)
        best[:, here] = best[:, here].scatter_reduce(0, where, keys, "amax")  # the latest of those attended to most

    read_attention(model, prompt.tokens.to(model.device), look)
    return total, best


def _added(model: HookedModel, prompt: Prompts, heads: list[Head]) -> Float[Tensor, "pos head"]:
    """What each head adds to the next token's logit; NaN where that cannot be had of this model."""
    try:
        found = attribute_logits(model, prompt)
    except ValueError:
        return torch.full((prompt.tokens.shape[1], len(heads)), torch.nan)
    rows = [found.labels.index(str(head)) for head in heads]
    return found.values[rows, 0].T.cpu()
