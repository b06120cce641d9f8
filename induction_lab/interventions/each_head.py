"""`ablation_sweep`: what is lost without each head, for all heads in one call; and a quick estimate from gradients.

Every head or group is ablated in a run of its own that starts where its first head stands: the residual stream before
every layer is stored once, so that half the layers are skipped on average; heads of a layer run together in one batch;
only positions that the metric reads are unembedded. The numbers are those of one full run a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import LayerAttention
from induction_lab.behaviour.metrics import MetricLike, name_of
from induction_lab.data.prompts import Prompts, PromptsLike
from induction_lab.internals.reading import attention_layers, heads_of
from induction_lab.interventions.effects import Effects, effect_row, effects_table, estimated_row
from induction_lab.interventions.prepared import TOKENS_A_RUN, PreparedBatch, PreparedPrompts
from induction_lab.interventions.racing.first_order import ablations_predicted
from induction_lab.interventions.racing.race import race, staged
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, parse_heads
from induction_lab.results.tables import check_suffix
from induction_lab.runtime.progress import Ticker, progress_bar

Group = tuple[Head, ...]


@takes_names
def ablation_sweep(
    model: HookedModel,
    prompts: PromptsLike,
    *,
    heads: Iterable[Any] | Mapping[str, Any] | None = None,
    method: str = "mean",
    metric: MetricLike = "copy_loss",
    reference: PromptsLike | None = None,
    seed: int = 0,
    screen: float | None = None,
    path: str | Path | None = None,
    progress: bool | Ticker = False,
) -> Effects:
    """Ablate each head (or group of heads) by itself and measure what is lost.

    >>> ablation_sweep(load_model(), repeated_tokens(load_model(), n_prompts=4))          # doctest: +SKIP
    Effects('induction-2l', 8 rows of mean ablation, copy_loss: L0H3 +4.72)

    Args:
        model: Any supported model.
        prompts: What to measure on: `Prompts`, tokens `[prompt, pos]` or text.
        heads: What to ablate, each by itself: heads, lists of heads (ablated together), or a mapping from names to
            either. Every head by default.
        method: As in `ablate`.
        metric: `copy_loss`, `loss`, `icl_score`, `copy_logit`, `metrics.icl_score(early=…, late=…)`, or a function of
            one prompt's logits `[pos, d_vocab]` and tokens `[pos]` that returns a number.
        reference: For `mean` and `resample`, prompts at least as long; by default the other prompts among `prompts`, or
            random tokens where these cannot serve (one text, or one that is longer than all others). Of a few prompts
            the mean is none yet, it says what they say: give some dozens where effects matter.
        seed: Of the choice that `resample` makes.
        screen: Leave a head as soon as its mean effect is certainly smaller than this, up or down, in units of the
            metric: see `interventions.racing.race`. Its row holds the estimate of then, with its error, and says in
            `n_prompts` after how many; the other rows are those of a whole sweep. By default none is left.
        path: A file (`.csv`, `.json`, `.parquet`) that the sweep is kept in as it goes on; one that is there already is
            gone on with.
        progress: A progress bar on standard error; or a function that is told how many prompts each run had.

    Raises:
        ValueError: If a head is not there or given twice in a group, a group is given twice, the metric returns no
            number, the reference does not fit, `screen` is not above 0 or cannot be had of this metric, or `path`
            holds another sweep or has a suffix that no table has.
    """
    if path is not None:
        check_suffix(Path(path))
    groups = parse_groups(model, heads)
    prepared = PreparedPrompts(model, prompts, method, metric, reference=reference, seed=seed)
    return sweep_prepared(prepared, groups, screen=screen, path=path, progress=progress)


def sweep_prepared(
    prepared: PreparedPrompts,
    groups: Mapping[str, Group],
    *,
    screen: float | None = None,
    path: str | Path | None = None,
    progress: bool | Ticker = False,
) -> Effects:
    """`ablation_sweep` on prompts that are prepared already.

    Raises:
        ValueError: As there.
    """
    prepared = prepared if screen is None else staged(prepared, screen)
    facts = prepared.provenance() | {"screen": screen}
    facts["heads"] = {name: " ".join(map(str, group)) for name, group in groups.items()}
    if path is not None:  # two functions may share a name, two models a fingerprint: not what they come to
        first = next(iter(prepared))
        clean = first.clean.tolist()
        facts["clean"] = [None if math.isnan(value) else value for value in clean]
    done = _done(path, facts, int(prepared.measure.defined.sum()))
    left = {name: group for name, group in groups.items() if name not in done}
    with progress_bar(len(left) * len(prepared.prompts), "ablating heads", shown=progress is True) as bar:
        tick = bar if isinstance(progress, bool) else progress
        for names in _rounds(left, len(prepared)):
            done |= _swept(prepared, {name: left[name] for name in names}, screen, len(groups), tick)
            if path is not None:
                kept = {name: done[name] for name in (*groups, *done) if name in done}  # other heads' rows too
                Effects(effects_table(kept, list(kept)), facts).save(path)
    return Effects(effects_table(done, list(groups)), facts)


def _swept(
    prepared: PreparedPrompts, groups: Mapping[str, Group], screen: float | None, n_groups: int, tick: Ticker
) -> dict[str, dict[str, Any]]:
    """One row of the table for each group."""
    name_of_model, what = prepared.model.name, (f"{prepared.method} ablation", name_of(prepared.metric))
    if screen is None:
        clean, values = swept_values(prepared, groups, tick)
        return {name: effect_row(name_of_model, name, groups[name], *what, clean, x) for name, x in values.items()}

    def run(batch: PreparedBatch, names: Sequence[str], n_parts: int) -> Iterator[tuple[str, Tensor]]:
        return _ablated(batch, {name: groups[name] for name in names}, n_parts)

    predict = ablations_predicted(prepared, list(groups.values()))
    clean, raced = race(prepared, list(groups), run, within=screen, n_all=n_groups, predict=predict, tick=tick)
    return {
        name: estimated_row(name_of_model, name, groups[name], *what, clean, *found) for name, found in raced.items()
    }


def swept_values(
    prepared: PreparedPrompts, groups: Mapping[str, Group], tick: Ticker
) -> tuple[Float[Tensor, " prompt"], dict[str, Float[Tensor, " prompt"]]]:
    """The metric of each prompt, and where each group is ablated; prompts without a value are NaN in the first."""
    per_group: dict[str, list[Tensor]] = {name: [] for name in groups}
    clean: list[Tensor] = []
    for batch in prepared:
        clean.append(batch.clean)
        for name, values in _ablated(batch, groups, None):
            per_group[name].append(values)
            tick(len(values))
    return torch.cat(clean), {name: torch.cat(values) for name, values in per_group.items()}


def _ablated(batch: PreparedBatch, groups: Mapping[str, Group], n_parts: int | None) -> Iterator[tuple[str, Tensor]]:
    """The metric of each prompt, or the parts that it is made of, where each group is ablated."""
    every = torch.arange(len(batch.prompts))
    for together in _side_by_side(groups, batch.prompts):
        members = [groups[name] for name in together]
        rows = every.repeat(len(members))

        def edit(attention: LayerAttention, members: list[Group] = members) -> LayerAttention:
            return batch.substitute.edit(attention, members)

        with torch.inference_mode():
            hidden = batch.streams.run(_start(members[0]), edit, prompts=rows)
            values = batch.measure(hidden, rows) if n_parts is None else batch.measure.parts(hidden, rows, n_parts)
        yield from zip(together, values.chunk(len(members)), strict=True)


def parse_groups(model: HookedModel, heads: Iterable[Any] | Mapping[str, Any] | None) -> dict[str, Group]:
    """Heads that are ablated together, by name, from what `ablation_sweep` takes as `heads`.

    Raises:
        ValueError: If a head is not there or given twice in a group, a group is given twice, or there is none.
    """
    if heads is None:
        every = itertools.product(attention_layers(model), range(model.n_heads))
        return {str(Head(*pair)): (Head(*pair),) for pair in every}
    if isinstance(heads, Mapping):
        found = {str(name): tuple(heads_of(model, group)) for name, group in heads.items()}
    else:
        single = isinstance(heads, str) or (isinstance(heads, tuple) and all(isinstance(x, int) for x in heads))
        items = parse_heads(heads) if single else list(heads)
        parsed = [tuple(heads_of(model, item)) for item in items]
        names = [" ".join(map(str, group)) for group in parsed]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Each head or group may be given once, got {', '.join(twice)} more than once.")
        found = dict(zip(names, parsed, strict=True))
    if not found or not all(found.values()):
        raise ValueError("Heads are wanted, got none. Leave `heads` out to sweep over all of them.")
    return found


def _start(group: Group) -> int:
    return min(head.layer for head in group)


def _rounds(groups: Mapping[str, Group], n_batches: int) -> list[list[str]]:
    """Groups that are swept together, one round after the other; with several batches of prompts a round runs each."""
    ordered = sorted(groups, key=lambda name: -_start(groups[name]))
    if n_batches > 1:
        return [ordered[start : start + 64] for start in range(0, len(ordered), 64)]
    return [list(names) for _, names in itertools.groupby(ordered, key=lambda name: _start(groups[name]))]


def _side_by_side(groups: Mapping[str, Group], prompts: Prompts) -> list[list[str]]:
    """Groups that start in one layer and fit into one run."""
    most = max(1, TOKENS_A_RUN // prompts.tokens.numel())
    ordered = sorted(groups, key=lambda name: _start(groups[name]))
    batches = []
    for _, same in itertools.groupby(ordered, key=lambda name: _start(groups[name])):
        names = list(same)
        batches += [names[start : start + most] for start in range(0, len(names), most)]
    return batches


def _done(path: str | Path | None, facts: dict[str, Any], n_prompts: int) -> dict[str, dict[str, Any]]:
    """Rows that a sweep over so many prompts which was cut off has left behind.

    Raises:
        ValueError: If they are of another sweep.
    """
    if path is None or not Path(path).exists():
        return {}
    found = Effects.load(path)
    same = ("weights_sha256", "prompts", "reference", "method", "metric", "seed", "dtype")
    other = [key for key in same if found.provenance.get(key) != facts[key]]
    before, now = (
        torch.tensor([math.nan if value is None else value for value in kept.get("clean", [])], dtype=torch.float32)
        for kept in (found.provenance, facts)
    )
    both = min(len(before), len(now))  # of the first batch, which in stages is one prompt
    if not other and not (both and torch.allclose(before[:both], now[:both], atol=1e-3, rtol=1e-3, equal_nan=True)):
        other.append("metric of the model before anything is ablated")
    members = found.provenance.get("heads", {})
    other += [f"heads called {name}" for name, heads in facts["heads"].items() if members.get(name, heads) != heads]
    facts["heads"] = {**members, **facts["heads"]}
    if other:
        raise ValueError(
            f"{path} holds another sweep (its {', '.join(other)} differ): give another path, or delete it."
        )
    rows: Any = found.table
    if found.provenance.get("screen") != facts["screen"]:  # what was left early is asked anew
        rows = rows.loc[rows["n_prompts"] == n_prompts]
    return {str(row["label"]): {str(key): x for key, x in row.items()} for row in rows.to_dict("records")}
