"""`self_repair`: how much of what an ablation takes away directly is made up for by what comes after.

Sources: McGrath et al. (2023), https://arxiv.org/abs/2307.15771; Rushing and Nanda (2024),
https://arxiv.org/abs/2402.15390.
"""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.prompts import PromptsLike
from induction_lab.internals.reading import heads_of
from induction_lab.interventions.ablation_methods import OUTPUT_METHODS, listed
from induction_lab.interventions.each_head import parse_groups, swept_values
from induction_lab.interventions.prepared import PreparedBatch, PreparedPrompts
from induction_lab.interventions.senders import Sender, changes_of_stream
from induction_lab.models.frozen_norms import final_norm
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.heads import Head, Heads
from induction_lab.results.statistics import number_and_error
from induction_lab.runtime.progress import progress_bar

EFFECTS = ("direct_effect", "total_effect", "self_repair")


@takes_names
def self_repair(
    model: HookedModel,
    prompts: PromptsLike,
    heads: Heads = None,
    *,
    method: str = "mean",
    reference: PromptsLike | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Direct effect of each ablated head on the copied token's logit, minus its total effect.

    >>> self_repair(load_model(), repeated_tokens(load_model()), ["L1H3"])          # doctest: +SKIP

    Both are in logits of the right token minus the mean over the vocabulary, where copying is right (`copy_logit` of
    `ablation_sweep`), of the clean run minus the changed one. The direct effect changes only what the head itself adds
    to the end of the residual stream, every norm on the way held at its scale; with zero ablation it is the head's
    `logit_attribution`. The total effect is that of `ablation_sweep`. So `self_repair` counts whatever else changes:
    later heads and MLPs, and the scale of the last norm. Above 0: the ablation is made up for; below: made worse. The
    sources ablate with another prompt's outputs (`resample`) and read the next token of text.

    Args:
        model: Any supported model without gates on its heads' outputs.
        prompts: In which something is copied: `Prompts`, tokens `[prompt, pos]` or text.
        heads: Each by itself; every head by default.
        method: `mean`, `zero` or `resample`, as in `ablate`.
        reference: As in `ablation_sweep`.
        seed: Of the choice that `resample` makes.
        progress: A progress bar on standard error.

    Returns:
        One row a head: `model`, `label`, `layer`, `head`, `intervention`; `direct_effect`, `total_effect` and
        `self_repair`, means over prompts, each followed by its standard error (`direct_effect_error`, …); `n_prompts`.

    Raises:
        ValueError: If a head is not there or given twice, the method is none of these, nothing is copied, or a gate
            multiplies what heads put out.
    """
    if method not in OUTPUT_METHODS:
        raise ValueError(f"Self-repair is measured with {listed(OUTPUT_METHODS)} ablation, got {method!r}.")
    chosen = [group[0] for group in parse_groups(model, None if heads is None else heads_of(model, heads)).values()]
    prepared = PreparedPrompts(model, prompts, method, "copy_logit", reference=reference, seed=seed)
    parts = [_without_directly(model, batch, chosen) for batch in prepared]
    directly = {head: torch.cat([part[head] for part in parts]) for head in chosen}
    with progress_bar(len(chosen) * len(prepared.prompts), "ablating heads", shown=progress) as tick:
        clean, ablated = swept_values(prepared, {str(head): (head,) for head in chosen}, tick)
    there, rows = ~clean.isnan(), []
    for head in chosen:
        direct, total = ((clean - changed)[there].double() for changed in (directly[head], ablated[str(head)]))
        row = {"model": model.name, "label": str(head), "layer": head.layer, "head": head.head}
        row |= {"intervention": f"{method} ablation"}
        for name, values in zip(EFFECTS, (direct, total, direct - total), strict=True):
            row[name], row[f"{name}_error"] = number_and_error(values)
        rows.append(row | {"n_prompts": int(there.sum())})
    return pd.DataFrame(rows)


def _without_directly(
    model: HookedModel, batch: PreparedBatch, heads: list[Head]
) -> dict[Head, Float[Tensor, " prompt"]]:
    """The metric of each prompt where one head's part of the end of the stream is replaced, and nothing else."""
    streams, norm = batch.streams, final_norm(model)
    normalised, every = streams.normalised, torch.arange(len(batch.prompts))
    with torch.inference_mode():
        scale = norm.scale(streams.before[-1].to(model.wide), normalised.to(model.wide))[..., None]
    found = {}
    for sender, change in changes_of_stream(model, batch, [Sender(*head) for head in sorted(heads)]):
        with torch.inference_mode():
            changed = normalised + norm.apply(change.to(model.wide)) / scale
            found[Head(*sender)] = batch.measure(changed.to(normalised.dtype), every)
    return found
