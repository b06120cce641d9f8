"""What comes of putting out something else at one position, for every head by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import LayerAttention
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.progress import Ticker

TOKENS_A_RUN = 4096

Reading = Callable[[Float[Tensor, "row pos d_model"], Int[Tensor, " row"]], Float[Tensor, " row"]]


def with_each_head_changed(
    streams: ResidualStreams,
    instead: Mapping[int, Float[Tensor, "prompt head d_head"]],
    at: Int[Tensor, " prompt"],
    read: Reading,
    *,
    tick: Ticker,
) -> Float[Tensor, "prompt layer head"]:
    """What is read where one head puts out something else at one position of each prompt, for every head in turn.

    Each run starts at its head's layer, several heads of it side by side: heads times half a forward pass in all.

    Args:
        streams: The prompts as they are.
        instead: By layer, what each head puts out instead.
        at: At which position of each prompt.
        read: A number from the normalised end of each row's stream, and which prompt each row is.
        tick: Called with the number of rows that have been run, one for each head and prompt.

    Returns:
        NaN in layers that `instead` leaves out.
    """
    model, n_prompts = streams.model, len(streams.tokens)
    found = torch.full((n_prompts, model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)
    most = max(1, TOKENS_A_RUN // streams.tokens.numel())
    for layer, others in instead.items():
        for heads in torch.arange(model.n_heads).split(most):
            prompt, head = torch.arange(n_prompts).repeat(len(heads)), heads.repeat_interleave(n_prompts)

            def change(
                attention: LayerAttention,
                layer: int = layer,
                others: Tensor = others,
                prompt: Tensor = prompt,
                head: Tensor = head,
            ) -> LayerAttention:
                if attention.layer != layer:
                    return attention
                z = attention.z.clone()
                z[torch.arange(len(prompt)), head, at[prompt]] = others[prompt, head].to(z)
                return replace(attention, z=z)

            with torch.inference_mode():
                values = read(streams.run(layer, change, prompts=prompt), prompt)
            found[:, layer, heads] = values.float().cpu().view(len(heads), n_prompts).T
            tick(len(prompt))
    return found


def probability_of(model: HookedModel, at: Int[Tensor, " prompt"], token: Int[Tensor, " prompt"]) -> Reading:
    """Reads the probability that a model gives to one token as the next, at one position of each prompt.

    Raises:
        ValueError: If the model's logits cannot be had from its normalised stream.
    """
    if not model.unembeds_by_parts:
        raise ValueError(f"{model.name} does more to its logits than unembed the stream: no probability can be read.")

    def read(hidden: Tensor, prompt: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = model.unembed(hidden[torch.arange(len(prompt)), at[prompt]]).to(model.wide)
            return logits.softmax(-1).gather(1, token[prompt, None].to(logits.device))[:, 0]

    return read
