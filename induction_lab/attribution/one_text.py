"""One text, token by token: which heads copy there, from where, and how much of each prediction is theirs.

A prediction is from context as far as it is lost when the heads are replaced by their means over random tokens, which
hold nothing to copy; what stays comes from the weights, that is from memory, or from other heads. What the loss of any
heads would do is said by as many others of the same layers, drawn at random.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attribution.logits_by_component import attribute_logits
from induction_lab.attribution.predictions import single_text
from induction_lab.behaviour.losses import losses_on
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike
from induction_lab.internals.reading import heads_of, read_attention
from induction_lab.interventions.ablating import ablate
from induction_lab.interventions.outputs import mean_outputs, random_reference
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import provenance
from induction_lab.results.heads import LOOKS, Head, HeadLike, HeadList, other_heads, parse_head
from induction_lab.results.saved import Saved
from induction_lab.runtime.progress import progress_bar
from induction_lab.runtime.whole_numbers import check_numbers
from induction_lab.scores.scoring import score_heads

FROM_CONTEXT = math.log(2)  # nats lost without the heads: the right token's probability is halved
PREDICTED = math.log(0.01)  # log-probability from which on a token is predicted at all, and can come from somewhere
DARKEST = 3.0  # nats from which on a token is shaded no darker


@dataclass(frozen=True, repr=False)
class TextActivity(Saved):
    """What heads do on one text.

    Attributes:
        model: The model's name.
        tokens: One row a token: `position`, `token`, `next_token`; `log_p`, the next token's log-probability in nats,
            `log_p_without` with the heads replaced by their means, `from_context` the difference; `others`, the mean
            difference over the random sets of `control`, and `others_most` the largest; `awake`, the heads that attend
            `LOOKS` or more to what followed earlier occurrences. The last token has no next one: NaN.
        heads: One row a token and head: `position`, `label`; `attention` to the tokens that followed earlier
            occurrences, `looks_at` the position of the one attended to most (-1: the token is new), `logit` what the
            head adds to the next token's logit (NaN where that cannot be had).
        provenance: Model, text, versions.
        control: Chance: one row a random set of other heads in the same layers, as many as there are up to the number
            of these: `heads`; `n_from_context`, how many next tokens would come from context by them; `nats`, what a
            token loses without them on average. No row where those layers have no others.
    """

    model: str
    tokens: pd.DataFrame
    heads: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)
    control: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=pd.Index(CONTROL)))

    def __repr__(self) -> str:
        """How many tokens come from context, and how many would by chance."""
        n, chance = int(self.is_from_context.sum()), ""
        if len(self.control):
            chance = f", {spread(self.control['n_from_context'])} by as many random heads"
        return f"TextActivity({self.model!r}: {n} of {len(self.tokens) - 1} next tokens from context{chance})"

    @property
    def is_from_context(self) -> pd.Series:
        """Of every token, whether its next one has 1 % or more with the heads, and at most half of that without."""
        return from_context(self.tokens["log_p"], self.tokens["from_context"])

    @property
    def is_beyond_chance(self) -> pd.Series:
        """Of every token, whether its next one is from context, and loses more than without any of the random sets."""
        return self.is_from_context & (self.tokens["from_context"] > self.tokens["others_most"])

    @property
    def measured_heads(self) -> list[Head]:
        """The heads that were replaced, as `heads=` and `compare_predictions` take them."""
        return HeadList(map(parse_head, dict.fromkeys(self.heads["label"])))

    @property
    def chance(self) -> str:
        """What these heads carry, and what random sets of others in the same layers do."""
        heads = len(set(self.heads["label"]))
        n, nats = int(self.is_from_context.sum()), self.tokens["from_context"].mean()
        own = f"{_heads(heads, '')}: {n} token{'s' * (n != 1)} from context, {nats:+.3f} nats"
        if not len(self.control):
            return f"{own} a token. No others of the same layers were measured beside them."
        sets, n = len(self.control), len(self.control["heads"].iloc[0].split())
        counts, nats = (spread(self.control[name], form) for name, form in (("n_from_context", ""), ("nats", "+.3f")))
        drawn = f"{sets} random set{'s' * (sets > 1)} of {_heads(n, 'other ')} in the same layers"
        n = int(self.is_beyond_chance.sum())
        beyond = f"{n} token{'s lose' if n != 1 else ' loses'} more without these heads than without any such set"
        return f"{own} a token. {drawn}: {counts}, {nats} nats. {beyond}."

    @property
    def predicted(self) -> pd.DataFrame:
        """Every token beside how it was predicted, with `log_p` and the rest of the token before it."""
        how: Any = self.tokens.drop(columns=["position", "token", "next_token"]).shift(1)
        return pd.concat([self.tokens[["position", "token"]], how], axis=1)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a token and head, with all that is known of the token."""
        return self.heads.merge(self.tokens, on="position")

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"control": self.control.to_dict("records")}

    def _repr_html_(self) -> str:
        """The text, each token shaded by how much of its prediction the heads carry."""
        rows = self.predicted.fillna({"from_context": 0.0, "log_p": -math.inf, "awake": ""}).to_dict("records")
        spans = []
        for row in rows:
            said = f"{row['from_context']:+.2f} nats from context; awake: {row['awake'] or 'none'}"
            shade = max(0.0, row["from_context"]) if row["log_p"] >= PREDICTED else 0.0
            colour = f"rgba(213, 94, 0, {min(1.0, shade / DARKEST):.2f})"
            spans.append(f'<span title="{said}" style="background:{colour}">{html.escape(row["token"])}</span>')
        own = any(token.startswith(" ") for token in self.tokens["token"])  # numbers and words by themselves have none
        return (
            '<div style="font-family:monospace;white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.8">'
            f"{('' if own else ' ').join(spans)}</div><p>{html.escape(self.chance)}</p>"
        )


CONTROL = ("heads", "n_from_context", "nats")


def from_context(log_p: Any, nats: Any) -> Any:
    """Whether tokens come from context: predicted, with 1 % or more, and at most half as likely without the heads."""
    return (log_p >= PREDICTED) & (nats >= FROM_CONTEXT)


def _heads(n: int, which: str) -> str:
    return f"{n} {which}head{'s' * (n != 1)}"


def spread(values: Any, form: str = "") -> str:
    """The range of some numbers: `0 to 2`; of equal ones that one."""
    low, high = (format(value, form) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


@takes_names
def induction_activity(
    model: HookedModel,
    text: PromptsLike,
    heads: HeadLike | Iterable[HeadLike] | None = None,
    *,
    n_random: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> TextActivity:
    """For each token of a text: which induction heads are awake, where they look, and what they carry.

    >>> induction_activity(load_model("smollm2-135m"), "Mr Dursley met Mrs Dursley and Mr Dursley")  # doctest: +SKIP
    TextActivity('smollm2-135m': 2 of 12 next tokens from context, 0 by as many random heads)

    Args:
        model: Any supported model.
        text: One text, or one prompt.
        heads: Which; by default all that score above `LOOKS` in prefix matching on random repeated tokens.
        n_random: Random sets of other heads in the same layers that say what chance gives; each costs one run of the
            text. Fewer where there are no more different ones.
        seed: Of their choice.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If there is more than one prompt, no such head, or `n_random` is no whole number from 0 on.
    """
    check_numbers(least=0, n_random=n_random)
    prompt = single_text(model, text)
    chosen = _chosen(model, heads)
    attention, looks_at = _where(model, prompt, chosen)
    sets = other_heads(chosen, model.n_heads, n_random, seed=seed)
    means = mean_outputs(model, random_reference(model, prompt), layers={head.layer for head in chosen})
    without = []
    with torch.no_grad(), progress_bar(1 + len(sets), "sets of heads", shown=progress) as tick:
        log_p = -losses_on(model, prompt)[0].double()
        for gone in (chosen, *sets):
            with ablate(model, gone, reference=means):
                without.append(-losses_on(model, prompt)[0].double())
            tick(1)
    tokens = _tokens(model, prompt, log_p, torch.stack(without))
    labels = [str(head) for head in chosen]
    tokens["awake"] = [" ".join(labels[i] for i in (row >= LOOKS).nonzero()[:, 0].tolist()) for row in attention]
    added = _added(model, prompt, chosen)
    rows = [
        (t, label, float(attention[t, i]), int(looks_at[t, i]), float(added[t, i]))
        for t in range(len(tokens))
        for i, label in enumerate(labels)
    ]
    columns = pd.Index(["position", "label", "attention", "looks_at", "logit"])
    lost = [log_p - each for each in without[1:]]
    control = [
        (" ".join(map(str, some)), int(from_context(log_p, nats).sum()), float(nats.mean()))
        for some, nats in zip(sets, lost, strict=True)
    ]
    return TextActivity(
        model.name,
        tokens,
        pd.DataFrame(rows, columns=columns),
        provenance(model, prompt) | {"seed": seed, "n_random": n_random},
        pd.DataFrame(control, columns=pd.Index(CONTROL)),
    )


def _tokens(
    model: HookedModel, prompt: Prompts, log_p: Float[Tensor, " n"], without: Float[Tensor, "set n"]
) -> pd.DataFrame:
    """One row a token, with what it loses without the heads, the first set, and without the others."""
    words, lost = model.token_labels(prompt), log_p - without
    others = lost[1:] if len(lost) > 1 else torch.full_like(lost, torch.nan)
    columns = {
        "log_p": log_p,
        "log_p_without": without[0],
        "from_context": lost[0],
        "others": others.mean(0),
        "others_most": others.amax(0),
    }
    shown = {"position": range(len(words)), "token": words, "next_token": [*words[1:], ""]}
    return pd.DataFrame(shown | {name: [*values.tolist(), math.nan] for name, values in columns.items()})


def _chosen(model: HookedModel, heads: HeadLike | Iterable[HeadLike] | None) -> list[Head]:
    if heads is not None:
        return heads_of(model, heads)
    found = score_heads(model, scores="prefix_matching", loss=False).above("prefix_matching", LOOKS)
    if not found:
        raise ValueError(f"{model.name} has no induction head (prefix matching above {LOOKS}); say which `heads`.")
    return found


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
