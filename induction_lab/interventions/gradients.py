"""What each head's removal would change, estimated from one gradient instead of measured head by head.

Attribution patching: the change of a head's output times the gradient of the metric there, all heads at once for the
price of one forward and one backward pass. Source: Nanda (2023), neelnanda.io/attribution-patching.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.behaviour.metrics import MetricLike, name_of
from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.internals.bridge_hooks import bridge_run, by_head
from induction_lab.interventions.ablation_methods import OUTPUT_METHODS, listed
from induction_lab.interventions.each_head import parse_groups
from induction_lab.interventions.effects import Effects, effect_row, effects_table
from induction_lab.interventions.prepared import TOKENS_A_RUN, PreparedBatch, PreparedPrompts
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.runtime.progress import progress_bar


@torch.inference_mode(False)
@takes_names
def attribution_patching(
    model: HookedModel,
    prompts: PromptsLike,
    *,
    heads: Iterable[Any] | Mapping[str, Any] | None = None,
    method: str = "mean",
    metric: MetricLike = "copy_loss",
    reference: PromptsLike | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Effects:
    """Estimate from gradients what `ablation_sweep` measures, in one forward and one backward pass for all heads.

    To first order the effect is (what a head would put out instead, minus what it does) times the metric's gradient. It
    is a quick look: compare with `ablation_sweep` by `Effects.correlation`. Gradients are taken with TransformerLens'
    `cache_activation_and_gradient`. Source: Nanda (2023), "Attribution patching"; Syed et al. (2023),
    https://arxiv.org/abs/2310.10348.

    Args:
        model: Any that TransformerLens can hook.
        prompts: What to measure on: `Prompts`, tokens `[prompt, pos]` or text.
        heads: Heads, lists of heads (their estimates are added), or a mapping from names to either; all by default.
        method: `mean`, `zero` or `resample`.
        metric: `copy_loss`, `loss`, `icl_score`, `copy_logit`, a `Metric`, or a differentiable function of one prompt's
            logits `[pos, d_vocab]` and tokens `[pos]` that returns a number.
        reference: As in `ablation_sweep`.
        seed: Of the choice that `resample` makes.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If a head is not there or given twice in a group, a group is given twice, the metric returns no
            number, the reference does not fit, the method is about patterns, or the model was loaded in inference mode.
    """
    if method not in OUTPUT_METHODS:
        raise ValueError(f"Gradients estimate what {listed(OUTPUT_METHODS)} ablation does, got {method!r}.")
    if any(parameter.is_inference() for parameter in model.network.parameters()):
        raise ValueError(f"{model.name} was loaded inside torch.inference_mode(), so it has no gradients.")
    groups = parse_groups(model, heads)
    given = as_prompts(model, prompts)
    given = replace(given, tokens=given.tokens.clone())  # those made in inference mode have no place in gradients
    prepared = PreparedPrompts(model, given, method, metric, reference=reference, seed=seed)
    per_group: dict[str, list[Tensor]] = {name: [] for name in groups}
    clean: list[Tensor] = []
    with progress_bar(len(prepared.prompts), "taking gradients", shown=progress) as tick:
        for batch in prepared:
            values, change = _first_order(model, batch)
            clean.append(values)
            for name, group in groups.items():
                heads_of = [change[:, head.layer, head.head] for head in group]
                per_group[name].append(torch.stack(heads_of).sum(0))
            tick(len(batch.prompts))
    before = torch.cat(clean)
    what = (f"{method} ablation, estimated", name_of(prepared.metric), before)
    rows = {
        name: effect_row(model.name, name, groups[name], *what, before + torch.cat(changes))
        for name, changes in per_group.items()
    }
    return Effects(effects_table(rows, list(groups)), prepared.provenance())


def _first_order(
    model: HookedModel, batch: PreparedBatch
) -> tuple[Float[Tensor, " prompt"], Float[Tensor, "prompt layer head"]]:
    """The metric of each prompt, and its change to first order when each layer's heads are replaced, one by one."""
    from transformer_lens.tools.analysis.attribution_patching import cache_activation_and_gradient

    change = torch.zeros(len(batch.prompts), model.n_layers, model.n_heads, dtype=torch.float32)
    values: list[Tensor] = []
    wanted = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
    step = max(1, TOKENS_A_RUN // 4 // batch.prompts.tokens.shape[1])  # all layers and logits are kept for the gradient
    for start in range(0, len(batch.prompts), step):
        rows = slice(start, start + step)
        tokens = batch.prompts.tokens[rows].to(model.device)

        def total(logits: Tensor, rows: slice = rows) -> Tensor:
            values.append(batch.measure.from_logits(logits.float(), rows))
            return values[-1].nan_to_num(0.0).sum()

        with torch.enable_grad(), bridge_run(model, gradients=True) as hooked:
            found = cache_activation_and_gradient(hooked, tokens, total, [*wanted, "hook_embed"])
        for layer, name in enumerate(wanted):
            gradient = found.gradients[name]
            assert gradient is not None
            z, gradient = (by_head(x, model.n_heads) for x in (found.activations[name], gradient))
            outputs = batch.outputs.heads.get(layer)
            instead = 0.0 if outputs is None else outputs[rows] if len(outputs) > 1 else outputs
            change[rows, layer] = ((instead - z) * gradient).sum((2, 3)).float().cpu()
    return torch.cat([each.detach().float().cpu() for each in values]), change
