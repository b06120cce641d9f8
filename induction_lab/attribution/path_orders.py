"""Term importance: how much of a model's loss needs heads that read heads that read heads.

Attention patterns are held at what they are in a clean run. Pass 1 lets no head write, but notes what each would; pass
n lets each head write what it was seen to in pass n - 1, so that its loss has all paths through at most n - 1 heads in
it and no other. What an order adds is the difference to the order before. Order 2 and more are virtual attention heads
and V-composition; K- and Q-composition are in the patterns, which are held. Source: Elhage et al. (2021), "Measuring
the importance of different terms", https://transformer-circuits.pub/2021/framework.

The scales of the norms before (and after) heads and of the final norm are held at those of the clean run too, which
makes a model without MLPs exactly linear: without that, a stream in which a part is missing would be scaled up. MLPs
and the norms before them are run on the stream as it is in each pass: where there are any, an order counts heads only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from induction_lab.attention.exact import LayerAttention
from induction_lab.attention.scopes import Scope
from induction_lab.behaviour.metrics import MetricLike, name_of
from induction_lab.data.prompts import PromptsLike
from induction_lab.internals.editing import edit_attention
from induction_lab.internals.residual_stream import ResidualStreams, refuse_hooked_patterns
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.models.frozen_norms import frozen_norm
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar


@takes_names
def term_importance(
    model: HookedModel,
    prompts: PromptsLike,
    *,
    metric: MetricLike = "copy_loss",
    orders: int | None = None,
    freeze_norms: bool = True,
    progress: bool = False,
) -> pd.DataFrame:
    """The metric with all paths through at most 0, 1, 2, … heads.

    >>> term_importance(load_model(), repeated_tokens(load_model()))               # doctest: +SKIP

    Args:
        model: Any whose attention goes through transformers' interface, or an `AttentionOnlyTransformer`.
        prompts: What to measure on.
        metric: What is measured, as in `ablation_sweep`.
        orders: Highest order; by default the number of layers, which is the whole model.
        freeze_norms: Hold the scales of the heads' norms and of the final one as well.
        progress: A progress bar on standard error.

    Returns:
        One row an order: `order`; `value` of the metric, mean over prompts; `adds`, the change to the order before;
        `standard_error` of that; `n_prompts`.

    Raises:
        ValueError: If the patterns cannot be held, or `orders` is negative.
    """
    prepared = PreparedPrompts(model, prompts, "pattern_preserving", metric)
    highest = model.n_layers if orders is None else orders
    if highest < 0:
        raise ValueError(f"`orders` must not be negative, got {orders}.")
    values: list[list[Tensor]] = [[] for _ in range(highest + 1)]
    with progress_bar((highest + 1) * len(prepared.prompts), "summing orders", shown=progress) as tick:
        for batch in prepared:
            refuse_hooked_patterns(batch.streams)
            written: dict[int, Tensor] = {}
            with frozen_norms(model, batch.streams) if freeze_norms else nullcontext():
                for order in range(highest + 1):
                    hidden, written = _next_order(batch.streams, written)
                    values[order].append(batch.measure.clean(hidden))
                    tick(len(batch.prompts))
    return _table(model, name_of(prepared.metric), [torch.cat(parts) for parts in values])


@contextmanager
def frozen_norms(model: HookedModel, streams: ResidualStreams) -> Iterator[None]:
    """Hold the norms of heads and the final one at the scale that they have on these prompts."""
    scales: dict[nn.Module, Tensor] = {}
    frozen = {module: frozen_norm(module, model.d_model, like=model.anatomy.like) for module in model.anatomy.norms}

    def note(module: nn.Module, args: Any, output: Tensor) -> None:
        scales[module] = frozen[module].scale(args[0].to(model.wide), output.to(model.wide))[..., None]

    def hold(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        norm = frozen[module]
        return (norm.apply(args[0].to(model.wide)) / scales[module] + norm.bias).to(output.dtype)

    with _hooked(frozen, note):
        streams.run(0)
    with _hooked(frozen, hold):
        yield


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[..., Tensor | None]) -> Iterator[None]:
    """Forward hooks on these modules inside the context."""
    with Scope() as scope:
        for module in modules:
            scope.after(module, hook)
        yield


def _next_order(streams: ResidualStreams, written: dict[int, Tensor]) -> tuple[Tensor, dict[int, Tensor]]:
    """The end of the stream when heads write `written`, and what they would write having read that."""
    noted: dict[int, Tensor] = {}

    def edit(attention: LayerAttention) -> LayerAttention:
        noted[attention.layer] = streams.attention[attention.layer].mix(v=attention.v)
        instead = written.get(attention.layer)
        return replace(attention, z=torch.zeros_like(attention.z) if instead is None else instead)

    with edit_attention(streams.model, edit):
        hidden = streams.model.hidden(streams.tokens)
    return hidden, noted


def _table(model: HookedModel, metric: str, values: list[Tensor]) -> pd.DataFrame:
    rows = []
    for order, value in enumerate(values):
        defined = ~value.isnan()
        added = (value - values[order - 1])[defined] if order else torch.full_like(value[defined], math.nan)
        mean = float(value[defined].mean())
        rows.append((model.name, metric, order, mean, *number_and_error(added), len(added)))
    return pd.DataFrame(rows, columns=["model", "metric", "order", "value", "adds", "standard_error", "n_prompts"])
