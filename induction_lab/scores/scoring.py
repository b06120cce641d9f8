"""Score every head: where it looks, what it writes, and what chance would give.

In three steps: `plan_scores` asks every score whether it can be had and what it reads of each batch of prompts; one run
a batch lets all of them read; and their values are summarised over prompts. Attention scores
(`induction_lab.scores.attention_scores`) are mean probabilities in [0, 1]. Beside them:

    copying            of what a head raises among 25 distinct tokens, how much is the attended one; in [-1, 1]
                       (on prompts of its own)
    logit_attribution  logits it adds to the right next token where copying is right, final norm frozen
    ov_copying         how far tokens on the whole raise themselves through the head's weights; in [-1, 1]

None of them says that a head *causes* anything. Sources: Olsson et al. (2022), https://arxiv.org/abs/2209.11895; Elhage
et al. (2021), https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attention.hooks import Enough
from induction_lab.behaviour.losses import copy_masks, token_losses
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts, distinct_tokens, repeated_tokens
from induction_lab.internals.reading import StreamEnd, attention_layers, read_attention
from induction_lab.internals.side_by_side import side_by_side
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.models.provenance import provenance
from induction_lab.results.statistics import mean_and_error
from induction_lab.runtime.progress import Ticker, progress_bar
from induction_lab.scores.attention_scores import Targets
from induction_lab.scores.chance import EvenAttention, above_chance, check_testable, of_one_prompt, out_of_reach
from induction_lab.scores.planning import Reading, ScorePlan, plan_scores
from induction_lab.scores.registry import ALL, EVERY
from induction_lab.scores.results import HeadScores
from induction_lab.scores.score import (
    AttentionScore,
    BatchReader,
    LayerScore,
    Score,
    StreamBatchReader,
    WeightScore,
    checked_values,
)
from induction_lab.scores.weighed import ValueSizes, check_weighing, said_of

_Found = tuple[StreamEnd, dict[str, Tensor], EvenAttention | None]  # of a run: its end, values by score, chance


@takes_names
def score_heads(
    model: HookedModel,
    prompts: PromptsLike | None = None,
    *,
    scores: str | Score | Iterable[str | Score] | None = None,
    batch_size: int | None = None,
    weigh: str | None = None,
    chance_test: bool = False,
    loss: bool = True,
    progress: bool = False,
) -> HeadScores:
    """Score every head of a model; attention scores in one forward pass per batch, without attention matrices.

    >>> scores = score_heads(load_model())                           # doctest: +SKIP
    >>> scores.top("prefix_matching", 2)                             # doctest: +SKIP
    [(L1H3, 0.989), (L1H2, 0.985)]

    Args:
        model: Any causal model.
        prompts: `Prompts`, tokens, text or chat messages, see `as_prompts`; `repeated_tokens(model)` by default.
        scores: Names from `SCORES` and `KINDS`, and scores of your own (`Score`, or `module:name` where one stands); by
            default, or with `all`, all of `SCORES` that the model and the prompts allow. `provenance["left_out"]` says
            which are not and why; `provenance["own_prompts"]`, of which prompts scores are that have their own.
        batch_size: Prompts at a time; by default as many as make 4,096 tokens.
        weigh: `values`: attention counts by what it moves, `A[t, s] ‖v_s W_O‖` as a share of its sum over keys, so that
            attention to a sink that writes nothing disappears (`scores.weighed`). Of attention scores alone; chance
            is then that of values of equal size.
        chance_test: Also run as many prompts of the same length that repeat nothing, and test the scores that look for
            repeats (`REPEAT_SCORES`) against them. Doubles the time. Takes 2 prompts or more; with fewer than
            `fewest_prompts` (8 for 270 heads) a lone head cannot pass. Of text, too, the null is random tokens.
        loss: Also the loss per position, and on each copy of a repeated block. Without it the unembedding is not run,
            unless a score needs it.
        progress: A progress bar on standard error.

    Returns:
        For each score a `[layer, head]` tensor, its standard error over prompts and its chance level.

    Raises:
        ValueError: If a score is unknown, cannot be had of this model, or reads nothing on these prompts; if chance is
            to be tested on one prompt; if the model gives numbers that are not finite, as some do in float16; or if a
            score of your own gives what is no score, or changes the model.
    """
    prompts = repeated_tokens(model, distinct=chance_test) if prompts is None else as_prompts(model, prompts)
    check_weighing(weigh)
    if model.dtype == torch.float16:
        model.hidden(prompts.tokens[:1])  # says what overflows before anything trips over NaN
    if not model.is_finite:
        raise ValueError(model.why_not_finite(prompts.tokens[:1]))
    asked = [scores] if isinstance(scores, str | Score) else None if scores is None else list(scores)
    plan = plan_scores(model, prompts, asked, strict=asked is not None and ALL not in asked, batch_size=batch_size)
    found = run_plan(model, plan, weigh=weigh, chance_test=chance_test, loss=loss, progress=progress)
    _check_finite(model, plan.main, found)
    return found


def run_plan(
    model: HookedModel,
    plan: ScorePlan,
    *,
    weigh: str | None = None,
    chance_test: bool = False,
    loss: bool = True,
    progress: bool = False,
) -> HeadScores:
    """Score every head as planned; see `score_heads`."""
    main = plan.main
    readings = [main, *plan.samples] if main.scores or loss else plan.samples
    null = _null(model, main) if chance_test else None
    every = [*readings, *([null] if null is not None else [])]
    total = sum(len(reading.prompts) for reading in every)
    summary: dict[str, tuple[Tensor, Tensor, float]] = {}
    by_layer, hidden, n_values = {}, {}, {}
    p_values, q_values, losses, of_main = {}, {}, [], {}
    weighed = {
        name
        for name, score in plan.scores.items()
        if isinstance(score, AttentionScore) and (score.weighed or weigh is not None)
    }
    sizes = ValueSizes(model) if weighed else None
    jobs: list[Callable[[], Any]] = [
        job for each in every for job in _jobs(model, each, each is main and loss, sizes, weighed)
    ]
    jobs += [partial(_from_weights, model, score) for score in plan.weights]
    done: Iterator[Any] = side_by_side(model, jobs, read=True)
    with progress_bar(total, "scoring prompts", shown=progress) as tick:
        for reading in every:
            values, found, even = _read(model, reading, done, loss=loss and reading is main, tick=tick)
            if reading is null:
                p_values, q_values = _test_against(values, of_main, main)
                continue
            losses += found
            of_main = values if reading is main else of_main
            for name, per_prompt in values.items():
                summary[name] = (*mean_and_error(per_prompt, reading.defined(name)), reading.uniform(name))
                n_values[name] = int(reading.defined(name).sum())
            by_layer |= {name: uniform for name, (uniform, _) in even.items()}
            hidden |= {name: said for name, (_, reach) in even.items() if (said := out_of_reach(reach))}
    for score in plan.weights:
        values = next(done)
        summary[score.name] = (values, torch.zeros_like(values), score.chance_for(model))  # no prompts to differ
    for score in plan.causal:
        found = score.measure(model, seed=main.prompts.seed or 0, progress=progress)
        shape = (len(found), model.n_layers, model.n_heads)
        values = checked_values(score, found, shape, "prompt, layer, head", layers=attention_layers(model))
        summary[score.name], n_values[score.name] = (*mean_and_error(values), score.chance), len(values)
    loss_by_position, loss_by_copy = _summarise_losses(losses, main.prompts)
    return HeadScores(
        model=model.name,
        values={name: summary[name][0] for name in plan.scores},
        standard_errors={name: summary[name][1] for name in plan.scores},
        uniform={n: float(by_layer[n].double().mean()) if n in by_layer else summary[n][2] for n in plan.scores},
        uniform_by_layer=by_layer,
        p_values=p_values,
        q_values=q_values,
        loss_by_copy=loss_by_copy,
        loss=loss_by_position,
        words={name: said_of(score, weighed=name in weighed) for name, score in plan.scores.items()},
        provenance=provenance(model, main.prompts, left_out=plan.left_out | of_one_prompt(n_values))
        | {"out_of_reach": hidden, "n_values": n_values, "own_prompts": plan.own_prompts}
        | ({} if weigh is None else {"weigh": weigh}),
    )


def _check_finite(model: HookedModel, main: Reading, found: HeadScores) -> None:
    """Refuse tables of NaN: what went wrong in the model is said instead."""
    layers = attention_layers(model) if main.scores else []
    values = [found.values[name][layers] for name in main.scores]
    if found.loss:
        values.append(torch.tensor(found.loss)[main.prompts.real[:, 1:].any(0)])
    if not all(bool(each.isfinite().all()) for each in values):
        raise ValueError(model.why_not_finite(main.prompts.tokens[:1]))


def _read(
    model: HookedModel, reading: Reading, done: Iterator[_Found], *, loss: bool, tick: Ticker
) -> tuple[dict[str, Float[Tensor, "prompt layer head"]], list[Tensor], dict[str, tuple[Tensor, Tensor]]]:
    """Gather what runs of the prompts gave: values by score, losses of each batch, chance under windows."""
    found: dict[str, list[Tensor]] = {name: [] for name in reading.scores}
    losses, even = [], []
    for batch, (stream, values, seen) in zip(reading.batches, done, strict=False):
        prompts = reading.prompts[batch.rows]
        even += [] if seen is None else [seen]
        for name, value in values.items():
            found[name].append(value)
        if loss:
            assert stream.normalised is not None
            losses.append(token_losses(model, prompts, stream.normalised))
        tick(len(prompts))
    settled = {name: _settled(reading.scores[name], torch.cat(values)) for name, values in found.items()}
    return settled, losses, _under_windows(reading, even)


def _under_windows(reading: Reading, even: list[EvenAttention]) -> dict[str, tuple[Tensor, Tensor]]:
    """Even attention and the share of keys in reach, by layer, of the scores of which some layer hides a key."""
    found = {}
    for name in even[0].uniform if even else ():
        if any(name in each.hidden for each in even):
            keep = reading.defined(name)
            uniform = torch.cat([each.uniform[name] for each in even])[keep]
            reach = torch.cat([each.in_reach[name] for each in even])[keep]
            found[name] = (uniform.mean(0), reach.mean(0))
    return found


def _settled(score: Score, values: Tensor) -> Tensor:
    return score.settled(values) if isinstance(score, LayerScore) else values


def _jobs(
    model: HookedModel, reading: Reading, loss: bool, sizes: ValueSizes | None, weighed: set[str]
) -> list[Callable[[], _Found]]:
    """A run of each batch of prompts."""
    prompts = [(reading.prompts[batch.rows], batch.targets) for batch in reading.batches]
    here = weighed & set(reading.scores)
    how = {"loss": loss, "sizes": sizes if here else None, "weighed": here}
    return [partial(_read_batch, model, some, targets, reading.scores, **how) for some, targets in prompts]


def _read_batch(
    model: HookedModel,
    prompts: Prompts,
    targets: Targets | None,
    scores: dict[str, Score],
    *,
    loss: bool,
    sizes: ValueSizes | None,
    weighed: set[str],
) -> _Found:
    """Run some prompts, every score reading each layer."""
    layered = {name: score for name, score in scores.items() if isinstance(score, LayerScore)}
    readers: dict[str, BatchReader] = {name: score.reader(model, prompts) for name, score in layered.items()}
    shape = (len(prompts), model.n_layers, model.n_heads)
    none = torch.full(shape, torch.nan, dtype=torch.float32, device=model.device)  # in layers that do not attend
    attended = {name: none.clone() for name in scores if name not in layered}
    there = None if targets is None else targets.to(model.device)
    even = None if there is None else EvenAttention(there, model.n_layers)
    needs_end = any(score.needs_end for score in layered.values())
    bare = tuple(name for name in attended if name not in weighed)
    follow = [readers[name] for name, score in layered.items() if score.needs_stream]

    def enter(layer: int, stream: Tensor) -> None:
        for reader in follow:
            assert isinstance(reader, StreamBatchReader)
            reader.enter(layer, stream)

    def read(attention: AttentionReading) -> None:
        if even is not None and there is not None and attended:
            even.see(attention)
            pairs = (there.prompt, there.query, there.key)
            plain = attention.probabilities(*pairs).float()
            moved = plain if sizes is None else sizes.shares(attention, plain, pairs)
            for names, read_off in ((bare, plain), (tuple(weighed), moved)):
                for name, values in zip(names, there.scores(names, read_off) if names else (), strict=True):
                    attended[name][:, attention.layer] = values
        for reader in readers.values():
            reader.read(attention)
        if attention.layer == model.n_layers - 1 and not loss and not needs_end:
            raise Enough  # the last layer's MLP is for the loss

    tokens = prompts.tokens.to(model.device)
    beside = None if sizes is None else sizes.columns
    stream = read_attention(model, tokens, read, final=needs_end, enter=enter if follow else None, columns=beside)
    found = {name: values.cpu() for name, values in attended.items()}  # once: a GPU waits at every transfer
    return stream, found | {name: reader.values(stream) for name, reader in readers.items()}, even


def _from_weights(model: HookedModel, score: WeightScore) -> Float[Tensor, "layer head"]:
    """The values of a score that runs nothing."""
    with torch.no_grad():
        found = score.measure(model)
    shape = (model.n_layers, model.n_heads)
    ours = type(EVERY.get(score.name)) is type(score)  # which may give NaN, as users' scores may not
    return found.cpu() if ours else checked_values(score, found, shape, "layer, head")


def _null(model: HookedModel, main: Reading) -> Reading | None:
    """Prompts that repeat nothing, to be read where those of `main` repeat; None where no score looks for repeats."""
    tested = {
        name: score for name, score in main.scores.items() if isinstance(score, AttentionScore) and score.finds_repeats
    }
    if not tested:
        return None
    check_testable(len(main.prompts))
    length, seed = main.prompts.tokens.shape[1] - main.prompts.first, (main.prompts.seed or 0) + 1
    try:
        how = {"bos": main.prompts.bos, "beyond_context": main.prompts.beyond_context}
        control = distinct_tokens(model, n_prompts=len(main.prompts), length=length, seed=seed, **how)
    except ValueError as error:
        raise ValueError(
            f"The chance test needs prompts of the same length that repeat nothing: {error} "
            "Use shorter prompts, or do without (chance_test=False, --no-chance)."
        ) from error
    return Reading(control, dict(tested), main.batches)


def _test_against(
    null: dict[str, Tensor], values: dict[str, Tensor], main: Reading
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """p-values and q-values of the scores that were read on prompts without repeats as well, over all heads."""
    p_values, q_values = {}, {}
    for name, without in null.items():
        keep = main.defined(name)
        p_values[name], q_values[name] = above_chance(values[name][keep], without[keep])
    return p_values, q_values


def _summarise_losses(losses: list[Tensor], prompts: Prompts) -> tuple[list[float], list[float]]:
    if not losses:
        return [], []
    by_position = torch.cat(losses).nanmean(0)
    if prompts.period is None or prompts.n_repeats is None or prompts.period < 2:
        return by_position.tolist(), []
    masks = copy_masks(prompts.period, prompts.n_repeats, gap=prompts.gap, has_bos=prompts.has_bos)
    return by_position.tolist(), [float(by_position[mask].mean()) for mask in masks]
