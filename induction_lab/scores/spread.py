"""How spread attention is: from how many addresses each head reads, and how far away they are.

Where a score asks whether a head looks at *given* places, this asks at how many, whichever they are. Nothing here says
that a head causes anything. Patterns are made a block of queries and a layer at a time, so memory is O(block * n), and
what is found is that of the whole matrix.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.batches import batches
from induction_lab.internals.reading import read_attention
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head
from induction_lab.results.statistics import mean_and_error
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.chance import visible_keys

if TYPE_CHECKING:
    import pandas as pd

QUANTITIES = ("entropy", "addresses", "evenness", "largest", "first", "distance", "distance_past_first")
BLOCK = 128  # queries whose rows are there at a time

PerQuery = dict[str, Float[Tensor, "layer prompt head query"]]


@takes_names
def attention_spread(
    model: HookedModel, prompts: PromptsLike, *, batch_size: int | None = None, progress: bool = False
) -> pd.DataFrame:
    """From how many addresses each head reads, and from how far: one row a head and quantity.

    Columns: model, label, layer, head, quantity, value, standard_error (over prompts), uniform (what even attention to
    all positions so far would give, in layers with a window to those in it). Means over each prompt's queries from
    position 1 on, then over prompts, of

        entropy      `H = -sum p ln p` of the query's row, in nats, 0 … ln(t + 1)
        addresses    `exp H`, as many evenly read positions as have that entropy; 1 is hard addressing
        evenness     `H / ln(t + 1)`, in [0, 1]
        largest      the largest probability of the row; 1 is hard addressing
        first        the probability of position 0 (BOS, as a rule), where heads rest that find nothing
        distance     positions between query and key, weighted by attention, in tokens
        distance_past_first  the same of what does not rest on position 0

    Where a model has attention sinks, rows are divided by what is left to the positions.

    >>> spread = attention_spread(model, repeated_tokens(model))                                  # doctest: +SKIP
    >>> spread[spread["quantity"] == "addresses"].nsmallest(3, "value")                           # doctest: +SKIP

    Args:
        model: Any supported model.
        prompts: `Prompts`, tokens `[prompt, pos]`, or text; padding is left out.
        batch_size: Prompts at a time; by default as many as make 1,024 tokens.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If the prompts are not valid, or the model's attention cannot be read.
    """
    import pandas as pd

    prompts = as_prompts(model, prompts)
    read, windows = _read_rows(model, prompts, batch_size, progress)
    asked = queries_read(prompts)
    everything = _uniform(torch.arange(prompts.tokens.shape[1]).float())
    labels = [str(Head(layer, head)) for layer in range(model.n_layers) for head in range(model.n_heads)]
    index = torch.cartesian_prod(torch.arange(model.n_layers), torch.arange(model.n_heads)).view(-1, 2)
    names = {"model": model.name, "label": labels, "layer": index[:, 0].numpy(), "head": index[:, 1].numpy()}
    frames = []
    for quantity in QUANTITIES:
        weight = asked[:, None].float()  # [prompt, 1, query]
        if quantity == "distance_past_first":
            weight = weight * (1 - read["first"])
        per_prompt = (read[quantity] * weight).sum(-1) / weight.sum(-1)  # [layer, prompt, head]
        uniform = [_even(windows.get(layer, everything), quantity, asked) for layer in range(model.n_layers)]
        value, error = mean_and_error(per_prompt.movedim(1, 0))
        numbers = {"value": value.flatten().numpy(), "standard_error": error.flatten().numpy()}
        frames.append(
            pd.DataFrame(names | {"quantity": quantity} | numbers | {"uniform": np.repeat(uniform, model.n_heads)})
        )
    return pd.concat(frames, ignore_index=True)


def spread_per_query(
    model: HookedModel, prompts: PromptsLike, *, batch_size: int | None = None, progress: bool = False
) -> PerQuery:
    """Every quantity of `attention_spread` at every query, as `[layer, prompt, head, query]`.

    What stands at position 0, which can look at itself alone, and in the padding means nothing: see `queries_read`.

    Raises:
        ValueError: As in `attention_spread`.
    """
    return _read_rows(model, as_prompts(model, prompts), batch_size, progress)[0]


def _read_rows(
    model: HookedModel, prompts: Prompts, batch_size: int | None, progress: bool
) -> tuple[PerQuery, dict[int, dict[str, Float[Tensor, " query"]]]]:
    """`spread_per_query`, and the same of even attention in layers that cannot see everything."""
    n_prompts, n_pos = prompts.tokens.shape
    windows: dict[int, dict[str, Tensor]] = {}
    shape = (model.n_layers, n_prompts, model.n_heads, n_pos)
    found = {name: torch.full(shape, torch.nan, dtype=torch.float32) for name in QUANTITIES}
    with progress_bar(n_prompts, "reading rows", shown=progress) as tick:
        for rows in batches(model, prompts, batch_size):

            def read(attention: AttentionReading, rows: slice = rows) -> None:
                if (visible := visible_keys(attention)) is not None:
                    even = _of_rows(visible.any(0)[None, None].float(), torch.arange(n_pos, device=visible.device))
                    windows[attention.layer] = {name: values[0, 0].cpu() for name, values in even.items()}
                for queries in torch.arange(n_pos, device=attention.z.device).split(BLOCK):
                    for name, values in _of_rows(attention.pattern(queries=queries).float(), queries).items():
                        found[name][attention.layer, rows, :, queries.cpu()] = values.cpu()

            read_attention(model, prompts.tokens[rows].to(model.device), read)
            tick(len(prompts.tokens[rows]))
    return found, windows


def _even(even: dict[str, Float[Tensor, " query"]], quantity: str, asked: Bool[Tensor, "prompt query"]) -> float:
    """A quantity of even attention, as `attention_spread` takes means."""
    flat = asked.float()
    if quantity == "distance_past_first":
        flat = flat * (1 - even["first"])
    return float(((even[quantity] * flat).sum(-1) / flat.sum(-1)).mean())


def queries_read(prompts: Prompts) -> Bool[Tensor, "prompt query"]:
    """Queries with a choice of where to look: from position 1 on, without padding."""
    return prompts.real & (torch.arange(prompts.tokens.shape[1]) >= 1)


def _of_rows(p: Float[Tensor, "batch head query key"], queries: Tensor) -> dict[str, Float[Tensor, "batch head query"]]:
    p = p / p.sum(-1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
    t = queries.to(p)
    back = (t[:, None] - torch.arange(p.shape[-1], device=p.device)).clamp(min=0)
    entropy = -torch.special.xlogy(p, p).sum(-1)
    distance, first = (p * back).sum(-1), p[..., 0]
    past = (distance - first * t) / (1 - first).clamp(min=torch.finfo(p.dtype).eps)
    return {
        "entropy": entropy,
        "addresses": entropy.exp(),
        "evenness": entropy / (t + 1).log().clamp(min=torch.finfo(p.dtype).eps),
        "largest": p.amax(-1),
        "first": first,
        "distance": distance,
        "distance_past_first": past,
    }


def _uniform(t: Float[Tensor, " query"]) -> dict[str, Float[Tensor, " query"]]:
    """The same quantities of even attention."""
    n = t + 1
    even = {"entropy": n.log(), "addresses": n, "evenness": torch.ones_like(n), "largest": 1 / n, "first": 1 / n}
    return even | {"distance": t / 2, "distance_past_first": (t - 1).clamp(min=0) / 2}
