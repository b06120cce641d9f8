"""Of what a head's queries, keys and values are made: the share of everything that writes into what it reads."""

from __future__ import annotations

import pandas as pd
import torch

from induction_lab.data.prompts import PromptsLike
from induction_lab.interventions.prepared import PreparedPrompts
from induction_lab.interventions.senders import (
    Component,
    changes_of_stream,
    check_patchable,
    find_receivers,
    find_senders,
)
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.norms import attention_scale, folded_weights
from induction_lab.results.heads import HeadLike
from induction_lab.results.statistics import mean_and_error


def input_shares(
    model: HookedModel,
    prompts: PromptsLike,
    receiver: HeadLike,
    component: Component | str = "k",
    *,
    method: str = "mean",
    reference: PromptsLike | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """How much of the change of a receiver's query, key or value each sender brings, when all of them are replaced.

    With the norm's scale held at what it is on the clean run, the change is linear in the senders: a sender's share is
    the inner product of its part with the whole change over the whole change's square, summed over positions. Shares
    add up to 1 and may be negative. Queries and keys are taken before rotation.

    Returns:
        A table of `sender`, `layer`, `head`, `share` (mean over prompts) and `standard_error`, greatest first.

    Raises:
        ValueError: As in `patch_paths`, and for an own model with smeared keys or `shortformer` positions.
    """
    _refuse_mixed_inputs(model)
    (head,), _ = find_receivers(model, receiver, component)
    every = find_senders(model, None, [head])
    check_patchable(model, method)
    weights = getattr(folded_weights(model, head.layer), f"W_{component.upper()}")
    W = weights[head.head // (model.n_heads // len(weights))]
    shares = []
    for batch in PreparedPrompts(model, prompts, method, "loss", reference=reference, seed=seed, whole_streams=True):
        scale = attention_scale(model, head.layer, batch.streams.before[head.layer])
        parts = {sender: change / scale @ W for sender, change in changes_of_stream(model, batch, every)}
        whole = sum(parts.values(), torch.zeros(()))
        size = whole.square().sum((1, 2))
        shares.append(torch.stack([(part * whole).sum((1, 2)) / size for part in parts.values()], 1).cpu())
    share, error = mean_and_error(torch.cat(shares))
    table = pd.DataFrame(
        {"sender": map(str, every), "layer": [s.layer for s in every], "head": [s.head for s in every]}
    )
    table = table.assign(share=share.tolist(), standard_error=error.tolist())
    return table.sort_values("share", ascending=False, ignore_index=True)


def _refuse_mixed_inputs(model: HookedModel) -> None:
    """Keys that are no linear function of the stream where they stand have no shares of its parts."""
    config = model.network.cfg if isinstance(model.network, AttentionOnlyTransformer) else None
    if config is not None and (config.smeared_keys or config.positions == "shortformer"):
        what = "smeared keys" if config.smeared_keys else "positions in queries and keys alone"
        raise ValueError(f"{model.name} has {what}, so what its heads read is not the stream: use patch_paths.")
