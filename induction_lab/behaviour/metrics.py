"""What an intervention is measured by: one number a prompt, from the end of the residual stream or from logits.

    copy_loss   loss in nats on the tokens that copying predicts (`copyable`), those that followed the current
                token before: of a block written twice the second copy without its first token
    loss        loss in nats, mean over all tokens
    icl_score   loss late in the prompt minus loss early in it (Olsson et al. 2022: at index 500 and at index 50)
    copy_logit  the right token's logit minus the mean over the vocabulary, where copying is right: needs no logits

Only the positions that a metric reads are unembedded. Any function of one prompt's logits and tokens serves as well.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.behaviour.losses import LOGIT_BYTES, losses_on
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import as_model
from induction_lab.runtime.nearest import did_you_mean

Weights = Callable[[Prompts], Float[Tensor, "prompt query"]]
Function = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Metric:
    """A weighted sum over a prompt's next-token losses, or over its right tokens' logits.

    Attributes:
        name: How tables call it.
        weights: What the token after each query counts for, 0 where it is not read; a prompt of nothing but zeros has
            no value.
        reads: `loss` in nats, or `logit`, minus its mean over the vocabulary.
    """

    name: str
    weights: Weights
    reads: Literal["loss", "logit"] = "loss"


MetricLike = str | Metric | Function


def before_and_after(before: HookedModel | str | Path, after: HookedModel | str | Path, prompts: PromptsLike) -> Metric:
    """Before-and-after attribution: how far an ablation pushes losses along the way they went between two snapshots.

    With `L` the losses of all tokens of all prompts as one vector, the metric is its product with
    `(L_after - L_before) / |L_after - L_before|`, in nats. Sweep `after` with it: a head whose ablation undoes what
    training did between the snapshots has a negative effect. Source: Olsson et al. (2022), "before-and-after ablation
    attribution".

    Args:
        before: The earlier snapshot.
        after: The later one, which is to be ablated.
        prompts: What both read, and what the sweep is to be run on.

    Raises:
        ValueError: If the two lose the same everywhere.
    """
    before, after = as_model(before), as_model(after)
    prompts = as_prompts(after, prompts)
    losses = [losses_on(model, prompts).nan_to_num(0.0) for model in (before, after)]
    change = losses[1] - losses[0]
    if not change.any():
        raise ValueError("The two snapshots lose the same on every token: there is no way between them.")
    # Effects are means over prompts, the product is a sum over them.
    weights = torch.nn.functional.pad(change / change.norm() * len(prompts), (0, 1))
    by_prompt = {tuple(tokens): row for tokens, row in zip(prompts.tokens.tolist(), weights, strict=True)}

    def weights_of(some: Prompts) -> Tensor:
        rows = [by_prompt.get(tuple(tokens)) for tokens in some.tokens.tolist()]
        if len(rows) != len(prompts) or any(row is None for row in rows):
            raise ValueError("`before_and_after` is for the prompts that it was made with: sweep on all of them.")
        return torch.stack([row for row in rows if row is not None])

    return Metric("before_and_after", weights_of)


def icl_score(early: int = 50, late: int = 500, *, window: int = 0) -> Metric:
    """In-context-learning score: loss on token `late` minus loss on token `early`; negative where context helps.

    Args:
        early: Index of the early token; BOS is 0.
        late: Index of the late token.
        window: Take the mean over so many tokens on either side, which steadies it.

    Raises:
        ValueError: If the indices are out of order.
    """
    if not 1 <= early - window <= early + window < late - window:
        raise ValueError(
            f"The early tokens must lie in 1 … and before the late ones, got {early=}, {late=}, {window=}."
        )
    name = f"icl_score_{early}_{late}" + (f"_window_{window}" if window else "")
    return Metric(name, partial(_late_minus_early, early, late, window))


def as_metric(metric: MetricLike) -> Metric | Function:
    """A metric by name, or what was given.

    Raises:
        ValueError: If there is no metric of that name.
    """
    named = {
        "copy_loss": Metric("copy_loss", _where_copying),
        "loss": Metric("loss", _everywhere),
        "icl_score": icl_score(),
        "copy_logit": Metric("copy_logit", _where_copying, reads="logit"),
    }
    if isinstance(metric, str):
        if metric not in named:
            raise ValueError(
                f"`metric` must be one of {', '.join(named)} or a function, got {metric!r}."
                f"{did_you_mean(metric, named)}"
            )
        return named[metric]
    return metric


def name_of(metric: Metric | Function) -> str:
    """What to call it in a table."""
    return metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", type(metric).__name__)


class Measure:
    """A metric made ready for some prompts: `measure(hidden, rows)` gives a value for each row.

    Attributes:
        defined: Which prompts have a value at all.

    Raises:
        ValueError: If none of them does, or the model's logits cannot be had from its normalised stream.
    """

    def __init__(self, model: HookedModel, metric: MetricLike, prompts: Prompts) -> None:
        """Find the positions to read."""
        self.model, self.metric = model, as_metric(metric)
        self.tokens, self.lengths = prompts.tokens.to(model.device), prompts.real_lengths
        if not model.unembeds_by_parts:
            raise ValueError(f"{model.name} does more to its logits than unembed the stream: no metric can be read.")
        self.defined = torch.ones(len(prompts), dtype=torch.bool)
        if isinstance(self.metric, Metric):
            weights = self.metric.weights(prompts)
            self.defined = (weights != 0).any(1)
            if not self.defined.any():
                raise ValueError(
                    f"{self.metric.name} reads nothing on these prompts: no pair of tokens recurs in them. "
                    "Use repeated_tokens(model), longer text, or another metric."
                )
            self.weights = weights.to(model.device)

    def of(self, some: slice) -> Measure:
        """This metric made ready for some of the prompts, of which none need have a value."""
        part = copy.copy(self)
        part.tokens, part.defined = self.tokens[some], self.defined[some]
        part.lengths = self.lengths[some]
        if isinstance(self.metric, Metric):
            part.weights = self.weights[some]
        return part

    def __call__(self, hidden: Float[Tensor, "row pos d_model"], prompts: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        """The metric of each row, `prompts` saying which prompt it is; in float32 on the CPU.

        Raises:
            ValueError: If a function returns anything but one finite number.
        """
        with torch.inference_mode():
            if isinstance(self.metric, Metric):
                return self.parts(hidden, prompts, 1)[:, 0].cpu()
            called = [self._called(self.model.unembed(row), int(p)) for row, p in zip(hidden, prompts, strict=True)]
            return torch.stack(called).float().cpu()

    def parts(
        self, hidden: Float[Tensor, "row pos d_model"], prompts: Int[Tensor, " row"], n_parts: int
    ) -> Float[Tensor, "row part"]:
        """What consecutive parts of the tokens that are read add to each row's metric; differentiable.

        Raises:
            ValueError: If the metric is a function, which has no parts.
        """
        if not isinstance(self.metric, Metric):
            raise ValueError(f"A function such as {name_of(self.metric)} cannot be read token by token.")
        prompts = prompts.to(self.model.device)
        weights = self.weights[prompts]
        row, query = weights.nonzero(as_tuple=True)
        answer = self.tokens[prompts[row], query + 1]
        asked = hidden[row, query]
        logit = self.metric.reads == "logit"
        read = self._logits_of if logit and self.model.anatomy.logit_cap is None else self._by_logits
        step = max(1, LOGIT_BYTES // (4 * self.model.d_vocab))
        values = [read(x, a, self.metric.reads) for x, a in zip(asked.split(step), answer.split(step), strict=True)]
        counted = torch.cat(values) * weights[row, query]
        number = ((weights != 0).cumsum(1) - 1)[row, query]  # of those that are read, in their prompt
        part = number * n_parts // (weights != 0).sum(1)[row]
        found = counted.new_zeros(len(hidden) * n_parts).index_add(0, row * n_parts + part, counted)
        return found.unflatten(0, (len(hidden), n_parts))

    def clean(self, hidden: Float[Tensor, "prompt pos d_model"]) -> Float[Tensor, " prompt"]:
        """The metric of each prompt; NaN where it has none."""
        values = self(hidden, torch.arange(len(hidden)))
        return values.masked_fill(~self.defined, torch.nan)

    def from_logits(self, logits: Float[Tensor, "row pos d_vocab"], rows: slice) -> Float[Tensor, " row"]:
        """The metric of some prompts from their logits, differentiable; NaN where it has no value."""
        if not isinstance(self.metric, Metric):
            prompts = range(len(self.tokens))[rows]
            return torch.stack([self._called(each, prompt) for each, prompt in zip(logits, prompts, strict=True)])
        answers = self.tokens[rows, 1:]
        right = logits[:, :-1].gather(2, answers[..., None])[..., 0]
        rest = logits[:, :-1].logsumexp(-1) if self.metric.reads == "loss" else logits[:, :-1].mean(-1)
        sign = 1 if self.metric.reads == "logit" else -1
        values = (sign * (right - rest) * self.weights[rows, :-1]).sum(1)
        return values.masked_fill(~self.defined[rows].to(values.device), torch.nan)

    def _by_logits(self, x: Tensor, answer: Tensor, reads: str) -> Tensor:
        logits = self.model.unembed(x).float()
        right = logits.gather(1, answer[:, None])[:, 0]
        return logits.logsumexp(1) - right if reads == "loss" else right - logits.mean(1)

    def _logits_of(self, x: Tensor, answer: Tensor, reads: str) -> Tensor:
        """One row of the unembedding a token, and its mean."""
        rows = self.model.unembedding
        scaled = (x * (rows[answer] - rows.mean(0))).sum(-1) * self.model.logit_scale
        bias = self.model.anatomy.unembedding_bias
        return (scaled if bias is None else scaled + bias[answer] - bias.mean()).float()

    def _called(self, logits: Tensor, prompt: int) -> Tensor:
        n_tokens = int(self.lengths[prompt])
        value = self.metric(logits[:n_tokens], self.tokens[prompt, :n_tokens])  # type: ignore[operator]
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if not isinstance(number, int | float) or not math.isfinite(number):
            got = (
                f"a tensor of shape {tuple(value.shape)}"
                if isinstance(value, Tensor) and value.numel() != 1
                else number
            )
            raise ValueError(
                f"A metric must return one number for a prompt's logits [pos, d_vocab] and tokens [pos]; "
                f"{name_of(self.metric)} returned {got!r}."
            )
        return value.reshape(()) if isinstance(value, Tensor) else logits.new_tensor(float(number))


def _where_copying(prompts: Prompts) -> Tensor:
    mask = Recurrences(prompts).copyable.float()
    return mask / mask.sum(1, keepdim=True).clamp(min=1)


def _everywhere(prompts: Prompts) -> Tensor:
    mask = (torch.arange(prompts.tokens.shape[1]) < prompts.real_lengths[:, None] - 1).float()
    return mask / mask.sum(1, keepdim=True).clamp(min=1)


def _late_minus_early(early: int, late: int, window: int, prompts: Prompts) -> Tensor:
    lengths = prompts.real_lengths
    long = lengths > late + window
    if not long.any():
        raise ValueError(
            f"The in-context-learning score reads tokens up to {late + window}, the longest prompt here has only "
            f"{int(lengths.max())}. Use longer prompts, or lower indices{_such_as(int(lengths.max()))}."
        )
    weights = torch.zeros(prompts.tokens.shape, dtype=torch.float32)
    for index, sign in ((early, -1.0), (late, 1.0)):
        weights[long, index - 1 - window : index + window] = sign / (2 * window + 1)
    return weights


def _such_as(n_tokens: int) -> str:
    """Indices that prompts of so many tokens have."""
    early, late = max(1, n_tokens // 8), n_tokens - 1 - n_tokens // 8
    return f": metric=icl_score(early={early}, late={late})" if early < late else ""
