"""The logit lens: what the model would say if it stopped after each layer.

The residual stream there is read through the model's own final norm and unembedding. That says what could be read off
the stream, not that the model does so. Source: nostalgebraist (2020), "interpreting GPT: the logit lens".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.behaviour.next_tokens import NO_ANSWER, next_tokens, places
from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.internals.batches import batches
from induction_lab.internals.bridge_hooks import bridge_run
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.statistics import over_prompts
from induction_lab.runtime.progress import progress_bar

_LENS_BYTES = 2**30


class LayerReadings(NamedTuple):
    """What could be read of each right next token in the embedding and after each layer; padding means nothing.

    Attributes:
        log_probability: In nats.
        rank: How many tokens are held likelier; 0 is best.
    """

    log_probability: Float[Tensor, "layer prompt pos"]
    rank: Float[Tensor, "layer prompt pos"]


@takes_names
def logit_lens(
    model: HookedModel, prompts: PromptsLike, *, batch_size: int | None = None, progress: bool = False
) -> pd.DataFrame:
    """How well the right next token is known after each layer: the stream there, read by final norm and unembedding.

    Columns: model, layer (-1: the embedding, with learned positions), label, where (`copied`: copying is right;
    `elsewhere`), quantity, value, standard_error. Each quantity is the mean over a prompt's positions, then over
    prompts: `log_probability` in nats, `probability`, and `rank`, the number of tokens held likelier (0 is best). All
    tokens alike would give `-ln d_vocab`, `1 / d_vocab` and about `d_vocab / 2`. Read by
    `transformer_lens.tools.analysis.logit_lens`.

    Args:
        model: Any model that TransformerLens can hook.
        prompts: `Prompts`, tokens `[prompt, pos]`, or text; the right next token is the one that comes.
        batch_size: Prompts at a time; by default as many as make 1,024 tokens, fewer where the vocabulary is large or
            layers are many.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If the model's logits are not its final norm and unembedding of its last layer.
    """
    prompts = as_prompts(model, prompts)
    if model.n_layers == 0:
        raise ValueError(f"{model.name} has no layers: its logits are all there is to read, see model.logits(tokens).")
    answers = next_tokens(prompts)
    log_probability, rank = read_layers(model, prompts, batch_size=batch_size, progress=progress)
    quantities = {"log_probability": log_probability, "probability": log_probability.exp(), "rank": rank}
    layers = range(-1, model.n_layers)
    names = {"model": model.name, "layer": layers, "label": ["embedding", *(f"L{layer}" for layer in layers[1:])]}
    frames = []
    for where, mask in places(prompts, answers != NO_ANSWER).items():
        for quantity, values in quantities.items():
            mean, error = over_prompts(values, mask)
            numbers = {"value": mean.numpy(), "standard_error": error.numpy()}
            frames.append(pd.DataFrame(names | {"where": where, "quantity": quantity} | numbers))
    return pd.concat(frames, ignore_index=True)


def read_layers(
    model: HookedModel, prompts: PromptsLike, *, batch_size: int | None = None, progress: bool = False
) -> LayerReadings:
    """The logit lens at every token: see `logit_lens`, which takes means over these.

    Returns:
        Row 0 is the embedding, row `l + 1` what stands after layer `l`; `next_tokens` says where an answer is.
    """
    prompts = as_prompts(model, prompts)
    answers = next_tokens(prompts)
    if batch_size is None:  # the logits of all layers are there at once
        tokens = _LENS_BYTES // (4 * model.d_vocab * (model.n_layers + 1))
        batch_size = max(1, min(1024, tokens) // prompts.tokens.shape[1])
    found = []
    with progress_bar(len(prompts), "reading layers", shown=progress) as tick:
        for rows in batches(model, prompts, batch_size):
            found.append(_read_layers(model, prompts.tokens[rows], answers[rows].clamp(min=0)))
            tick(len(answers[rows]))
    return LayerReadings(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))


def _read_layers(
    model: HookedModel, tokens: Int[Tensor, "prompt pos"], answers: Int[Tensor, "prompt pos"]
) -> tuple[Float[Tensor, "layer prompt pos"], Float[Tensor, "layer prompt pos"]]:
    """Log-probability and rank of the answers in the embedding and after each layer."""
    from transformer_lens.tools.analysis.logit_lens import logit_lens as read_layers

    hooked, tokens = model.hooked, tokens.to(model.device)
    source: dict[str, Any] = {"input": tokens}
    with bridge_run(model):
        if model.bridge is None:
            names = [name for name in hooked.hook_dict if name.endswith(("hook_resid_pre", "hook_resid_post"))]
            source = {"cache": hooked.run_with_cache(tokens, names_filter=names)[1]}
        read = read_layers(hooked, **source, positions=None, targets=answers, return_type="log_probs")
    assert read.readout.target_ranks is not None
    return read.values[..., 0].cpu().float(), read.readout.target_ranks[..., 0].cpu().float()
