"""Score every head: where it looks, what it writes, and what chance would give.

Attention scores (`induction_lab.targets`) are mean probabilities in [0, 1]. Beside them:

    copying            of what a head raises among 25 distinct tokens, how much is the attended one; in [-1, 1]
                       (on prompts of its own)
    logit_attribution  logits it adds to the right next token where copying is right, final norm frozen
    ov_copying         how far tokens on the whole raise themselves through the head's weights; in [-1, 1]

None of them says that a head *causes* anything. Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895; Elhage
et al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.behaviour.losses import copy_masks, token_losses
from induction_lab.data.occurrences import copyable
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts, distinct_tokens, repeated_tokens
from induction_lab.internals.reading import Enough, read_attention
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.norms import final_norm, refuse_changed_outputs
from induction_lab.models.provenance import provenance
from induction_lab.results.statistics import mean_and_error
from induction_lab.runtime.progress import Ticker, progress_bar
from induction_lab.scores.chance import above_chance
from induction_lab.scores.outputs import COPYING_TOKENS, LogitAttribution, copying, copying_prompts
from induction_lab.scores.results import HeadScores
from induction_lab.scores.targets import ATTENTION_SCORES, Targets, attention_targets
from induction_lab.weights.summaries import ov_copying

SCORES = (*ATTENTION_SCORES, "copying", "logit_attribution", "ov_copying")
REPEAT_SCORES = ("prefix_matching", "induction_stripe", "duplicate_token", "anti_induction")
TOKENS_A_BATCH = 4096
LOGIT_BYTES = 2**26


def score_heads(
    model: HookedModel,
    prompts: PromptsLike | None = None,
    *,
    scores: Sequence[str] | None = None,
    batch_size: int | None = None,
    chance_test: bool = False,
    loss: bool = True,
    progress: bool = False,
) -> HeadScores:
    """Score every head of a model; attention scores in one forward pass per batch, without attention matrices.

    >>> scores = score_heads(load_model())                           # doctest: +SKIP
    >>> scores.top("prefix_matching", 2)                             # doctest: +SKIP
    [(Head(layer=1, head=3), 0.989), (Head(layer=1, head=2), 0.985)]

    Args:
        model: Any causal model.
        prompts: `Prompts`, tokens `[prompt, pos]` with BOS first, or text; `repeated_tokens(model)` by default.
        scores: Names from `SCORES`; by default all that the model and the prompts allow, the others being named with
            the reason in `provenance["left_out"]`.
        batch_size: Prompts at a time; by default as many as make 4,096 tokens.
        chance_test: Also run as many prompts of the same length that repeat nothing, and test the scores that look for
            repeats (`REPEAT_SCORES`) against them. Doubles the time. With fewer prompts than
            `significance.fewest_prompts` (8 for 270 heads) a lone head cannot pass. On text the null is random tokens
            all the same, so it also holds what is not random about text.
        loss: Also the loss per position, and on each copy of a repeated block. Without it the unembedding is not run,
            unless a score needs it.
        progress: A progress bar on standard error.

    Returns:
        For each score a `[layer, head]` tensor, its standard error over prompts and its chance level.

    Raises:
        ValueError: If a score is unknown, cannot be had of this model, or reads nothing on these prompts.
    """
    asked = _known(SCORES if scores is None else scores)
    prompts = repeated_tokens(model) if prompts is None else as_prompts(model, prompts)
    left_out = unavailable_scores(model, prompts, asked, strict=scores is not None)
    asked = [name for name in asked if name not in left_out]
    batch_size = _batch_size(model, prompts, batch_size)
    control = _control_prompts(model, prompts) if chance_test else None
    sample = copying_prompts(model, seed=prompts.seed or 0) if "copying" in asked else None

    total = len(prompts) + len(control or ()) + len(sample or ())
    with progress_bar(total, "scoring prompts", shown=progress) as tick:
        run = _Run(model, prompts, asked, loss=loss, batch_size=batch_size, tick=tick)
        measured = run.measured()
        p_values, q_values = {}, {}
        if control is not None:
            p_values, q_values = _test_against(control, run, batch_size=batch_size, tick=tick)
        if sample is not None:
            measured["copying"] = _copying(model, sample)
            tick(len(sample))
    if "ov_copying" in asked:
        measured["ov_copying"] = _ov_copying(model)
    return HeadScores(
        model=model.name,
        values={name: measured[name].mean for name in asked},
        standard_errors={name: measured[name].error for name in asked},
        uniform={name: measured[name].uniform for name in asked},
        p_values=p_values,
        q_values=q_values,
        loss_by_copy=run.loss_by_copy,
        loss=run.loss,
        provenance=provenance(model, prompts, left_out=left_out),
    )


class _Measured(NamedTuple):
    """One score: mean over prompts, its standard error, and what uniform attention scores."""

    mean: Float[Tensor, "layer head"]
    error: Float[Tensor, "layer head"]
    uniform: float


class _Run:
    """Scores per prompt of one set of prompts, gathered batch by batch."""

    def __init__(
        self,
        model: HookedModel,
        prompts: Prompts,
        asked: Sequence[str],
        *,
        loss: bool,
        batch_size: int,
        tick: Ticker,
        like: Prompts | None = None,
    ) -> None:
        self.model, self.prompts = model, prompts
        self.attention = [name for name in asked if name in ATTENTION_SCORES]
        self.attribution = "logit_attribution" in asked
        shape = (len(prompts), model.n_layers, model.n_heads)
        names = self.attention + ["logit_attribution"] * self.attribution
        self.per_prompt = {name: torch.zeros(shape) for name in names}
        self.defined = {name: torch.zeros(len(prompts), dtype=torch.bool) for name in names}
        chance: dict[str, list[Tensor]] = {name: [] for name in self.attention}
        losses: list[Tensor] = []
        runs = names or loss
        for start in range(0, len(prompts) if runs else 0, batch_size):
            rows = slice(start, start + batch_size)
            pattern = prompts[rows] if like is None else like[rows]  # whose repeats say where to look
            losses += self._batch(prompts[rows], pattern, rows, chance, loss)
            tick(len(prompts[rows]))
        if like is None:
            self._check_defined()
        self.uniform = {name: float(torch.cat(per)[self.defined[name]].mean()) for name, per in chance.items()}
        self.loss, self.loss_by_copy = _summarise_losses(losses, prompts)

    def measured(self) -> dict[str, _Measured]:
        """Each score summarised over the prompts that have it; uniform attention attributes no logits."""
        return {
            name: _summarise(per_prompt[self.defined[name]], uniform=self.uniform.get(name, 0.0))
            for name, per_prompt in self.per_prompt.items()
        }

    def _batch(
        self, batch: Prompts, pattern: Prompts, rows: slice, chance: dict[str, list[Tensor]], loss: bool
    ) -> list[Tensor]:
        model, tokens = self.model, batch.tokens.to(self.model.device)
        readers: list[Callable[[AttentionReading], None]] = []
        if self.attention:
            targets = attention_targets(pattern.tokens, self.attention, lengths=pattern.lengths)
            for name, reads in targets.reads.items():
                self.defined[name][rows] = reads.defined
                chance[name].append(reads.uniform)
            readers.append(self._attention_reader(targets.to(model.device), rows))
        attribution = LogitAttribution(model, batch) if self.attribution else None
        if attribution is not None:
            readers.append(attribution.read)

        def read(attention: AttentionReading) -> None:
            for reader in readers:
                reader(attention)
            if attention.layer == model.n_layers - 1 and not loss and attribution is None:
                raise Enough  # the last layer's MLP is for the loss

        stream = read_attention(model, tokens, read, final=attribution is not None)
        if attribution is not None:
            assert stream.final is not None and stream.normalised is not None
            self.per_prompt["logit_attribution"][rows] = attribution.result(stream.final, stream.normalised)
            self.defined["logit_attribution"][rows] = attribution.defined
        return [] if stream.normalised is None or not loss else [token_losses(model, batch, stream.normalised)]

    def _attention_reader(self, targets: Targets, rows: slice) -> Callable[[AttentionReading], None]:
        def read(attention: AttentionReading) -> None:
            probabilities = attention.probabilities(targets.prompt, targets.query, targets.key).float()
            for name in targets.reads:
                self.per_prompt[name][rows, attention.layer] = targets.score(name, probabilities).cpu()

        return read

    def _check_defined(self) -> None:
        for name, defined in self.defined.items():
            if not defined.any():
                raise ValueError(
                    f"{name} reads nothing on these prompts: no token occurs a second time"
                    + (" with the same token after it." if name == "logit_attribution" else ".")
                    + " Use repeated_tokens(model), longer text, or leave the score out."
                )


def _control_prompts(model: HookedModel, prompts: Prompts) -> Prompts:
    length = prompts.tokens.shape[1] - 1
    try:
        return distinct_tokens(model, n_prompts=len(prompts), length=length, seed=(prompts.seed or 0) + 1)
    except ValueError as error:
        raise ValueError(
            f"The chance test needs prompts of the same length that repeat nothing: {error} "
            "Use shorter prompts, or do without (chance_test=False, --no-chance)."
        ) from error


def _known(scores: Sequence[str]) -> list[str]:
    names = [scores] if isinstance(scores, str) else list(dict.fromkeys(scores))
    unknown = [name for name in names if name not in SCORES]
    if unknown or not names:
        raise ValueError(f"Unknown scores {unknown}; there are {', '.join(SCORES)}.")
    return names


def unavailable_scores(
    model: HookedModel, prompts: Prompts, asked: Sequence[str] = SCORES, *, strict: bool = False
) -> dict[str, str]:
    """Scores that cannot be had, and why; an error instead where they were asked for by name."""
    reasons: dict[str, str] = {}
    checks: dict[str, Callable[[], object]] = {
        "logit_attribution": lambda: refuse_changed_outputs(model, "logit_attribution"),
        "copying": lambda: (refuse_changed_outputs(model, "copying"), copying_prompts(model)),
        "ov_copying": lambda: final_norm(model),
    }
    for name in (name for name in asked if name in checks):
        try:
            checks[name]()
        except ValueError as error:
            reasons[name] = str(error)
    if not strict:
        targets = attention_targets(prompts.tokens, lengths=prompts.lengths)
        for name, reads in targets.reads.items():
            if not reads.defined.any():
                reasons[name] = "it reads nothing on these prompts"
        if not copyable(prompts.tokens, prompts.lengths).any():
            reasons["logit_attribution"] = "it reads nothing on these prompts"
    elif reasons:
        raise ValueError("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    return {name: reason for name, reason in reasons.items() if name in asked}


def _batch_size(model: HookedModel, prompts: Prompts, batch_size: int | None) -> int:
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        return batch_size
    n_pos = prompts.tokens.shape[1]
    by_tokens = TOKENS_A_BATCH // n_pos
    if not model.anatomy.goes_through_interface:  # one layer's matrices, a few copies of them
        by_tokens = min(by_tokens, LOGIT_BYTES // (model.n_heads * n_pos * n_pos * 4))
    return max(1, by_tokens)


def _summarise(per_prompt: Float[Tensor, "prompt layer head"], *, uniform: float) -> _Measured:
    return _Measured(*mean_and_error(per_prompt), uniform)


def _test_against(
    control: Prompts, run: _Run, *, batch_size: int, tick: Ticker
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """p-values and q-values of the scores that look for repeats, read at the same positions of `control`."""
    tested = [name for name in run.attention if name in REPEAT_SCORES]
    null = _Run(run.model, control, tested, loss=False, batch_size=batch_size, tick=tick, like=run.prompts)
    p_values, q_values = {}, {}
    for name in tested:
        keep = run.defined[name]
        p_values[name], q_values[name] = above_chance(run.per_prompt[name][keep], null.per_prompt[name][keep])
    return p_values, q_values


def _copying(model: HookedModel, sample: Prompts) -> _Measured:
    all_alike = 4 / (COPYING_TOKENS + 1) - 1  # every token of the prompt rises alike
    return _summarise(copying(model, sample), uniform=all_alike)


def _ov_copying(model: HookedModel) -> _Measured:
    values = ov_copying(model).cpu()
    return _Measured(values, torch.zeros_like(values), 0.0)  # from the weights alone: no prompts to differ


def _summarise_losses(losses: list[Tensor], prompts: Prompts) -> tuple[list[float], list[float]]:
    if not losses:
        return [], []
    by_position = torch.cat(losses).nanmean(0)
    if prompts.period is None or prompts.n_repeats is None or prompts.period < 2:
        return by_position.tolist(), []
    masks = copy_masks(prompts.period, prompts.n_repeats, gap=prompts.gap)
    return by_position.tolist(), [float(by_position[mask].mean()) for mask in masks]
