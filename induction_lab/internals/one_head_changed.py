"""What comes of putting out something else at one position, for every head by itself.

Nothing before that position changes. Where a model allows it, only it and the few positions behind that are asked for
are run again, with the keys and values of those before as they were; that this gives the same is tried on each batch of
prompts first. Other models (with recurrent layers, or attention outside transformers' interface) run whole prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.attention.exact import Attention, LayerAttention
from induction_lab.attention.hooks import Edit
from induction_lab.attention.kernels import attention_with_lse
from induction_lab.attention.scopes import Scope
from induction_lab.internals.residual_stream import ResidualStreams
from induction_lab.models.hooked_model import HookedModel
from induction_lab.runtime.progress import Ticker

TOKENS_A_RUN = 4096
TOLERANCE = 1e-4  # of the largest number of the stream

Reading = Callable[[Float[Tensor, "row d_model"], Int[Tensor, " row"]], Float[Tensor, " row"]]


def with_each_head_changed(
    streams: ResidualStreams,
    instead: Mapping[int, Float[Tensor, "prompt head d_head"]],
    at: Int[Tensor, " prompt"],
    read: Reading,
    *,
    ahead: int = 0,
    tick: Ticker,
) -> Float[Tensor, "prompt layer head"]:
    """How far a number rises where one head puts out something else at one position, for every head in turn.

    Each run starts at its head's layer, several heads of it side by side.

    Args:
        streams: The prompts as they are.
        instead: By layer, what each head puts out instead.
        at: At which position of each prompt.
        read: A number from the normalised end of each row's stream, and which prompt each row is.
        ahead: How many positions behind it is read.
        tick: Called with the number of rows that have been run, one for each head and prompt.

    Returns:
        NaN in layers that `instead` leaves out.
    """
    model, n_prompts = streams.model, len(streams.tokens)
    every = torch.arange(n_prompts)
    before = read(streams.normalised[every, at + ahead], every).float().cpu()
    found = torch.full((n_prompts, model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)
    most = max(1, TOKENS_A_RUN // streams.tokens.numel())
    ends = _Ends(streams, at, ahead + 1)
    for layer, others in instead.items():
        for heads in torch.arange(model.n_heads).split(most):
            prompt, head = every.repeat(len(heads)), heads.repeat_interleave(n_prompts)
            where = ends.first(prompt)

            def change(
                attention: LayerAttention,
                layer: int = layer,
                where: Tensor = where,
                head: Tensor = head,
                values: Tensor = others[prompt, head],
            ) -> LayerAttention:
                if attention.layer != layer:
                    return attention
                z = attention.z.clone()
                z[torch.arange(len(head)), head, where] = values.to(z)
                return replace(attention, z=z)

            values = read(ends.run(layer, change, prompt), prompt).float().cpu()
            found[:, layer, heads] = values.view(len(heads), n_prompts).T - before[:, None]
            tick(len(prompt))
    return found


def probability_of(model: HookedModel, token: Int[Tensor, " prompt"]) -> Reading:
    """Reads the probability that a model gives to one token as the next.

    Raises:
        ValueError: If the model's logits cannot be had from its normalised stream.
    """
    if not model.unembeds_by_parts:
        raise ValueError(f"{model.name} does more to its logits than unembed the stream: no probability can be read.")

    def read(end: Tensor, prompt: Tensor) -> Tensor:
        with torch.inference_mode():
            logits = model.unembed(end).to(model.wide)
            return logits.softmax(-1).gather(1, token[prompt, None].to(logits.device))[:, 0]

    return read


class _Ends:
    """Runs of prompts that give the normalised stream at the last of some positions, if possible of these alone."""

    def __init__(self, streams: ResidualStreams, at: Int[Tensor, " prompt"], n: int) -> None:
        self.streams, self.model = streams, streams.model
        self.places = at[:, None] + torch.arange(n)
        self.alone = self._can() and self._is_the_same()

    def first(self, prompt: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        """Where each row's first position is in what is run."""
        return torch.zeros_like(prompt) if self.alone else self.places[prompt, 0]

    def run(self, layer: int, edit: Edit, prompt: Int[Tensor, " row"]) -> Float[Tensor, "row d_model"]:
        """The stream's end, from this layer on, each row being one of the prompts."""
        with torch.inference_mode():
            if self.alone:
                return self._run(layer, edit, prompt)[:, -1]
            whole = self.streams.run(layer, edit, prompts=prompt)
            return whole[torch.arange(len(prompt)), self.places[prompt, -1]]

    def _can(self) -> bool:
        anatomy = self.model.anatomy
        return (
            anatomy.goes_through_interface
            and not anatomy.calls_engine
            and all(isinstance(seen, Attention) for seen in self.streams.attention.values())
            and "position_ids" in inspect.signature(anatomy.body.forward).parameters
        )

    def _is_the_same(self) -> bool:
        prompt, known = torch.arange(len(self.places)), self.streams.normalised
        with torch.inference_mode():
            again = self._run(0, lambda attention: attention, prompt)
            known = known[prompt[:, None], self.places]
            room = max(TOLERANCE, 4 * torch.finfo(known.dtype).eps) * float(known.abs().max())
            return bool(torch.allclose(again, known, atol=room, rtol=0))

    def _run(self, layer: int, edit: Edit, prompt: Int[Tensor, " row"]) -> Float[Tensor, "row n d_model"]:
        places, streams = self.places[prompt], self.streams
        position_ids = places.to(streams.tokens.device)

        def at_their_places(module: Any, args: Any, kwargs: Any) -> Any:
            return args, {**kwargs, "position_ids": position_ids}

        def with_all_keys(attention: LayerAttention) -> LayerAttention:
            assert isinstance(attention, Attention)
            return edit(self._with_all_keys(attention, prompt, places))

        with Scope() as scope:
            scope.before(self.model.anatomy.body, at_their_places, with_kwargs=True)
            return streams.run(
                layer,
                with_all_keys,
                tokens=streams.tokens[prompt[:, None], places],
                stream=streams.before[layer][prompt[:, None], places],
            )

    def _with_all_keys(self, attention: Attention, prompt: Tensor, places: Tensor) -> Attention:
        clean = self.streams.attention[attention.layer]
        row, k, v = torch.arange(len(prompt))[:, None], clean.k[prompt], clean.v[prompt]
        k[row, :, places], v[row, :, places] = attention.k.transpose(1, 2), attention.v.transpose(1, 2)
        mask = (torch.arange(k.shape[2]) <= places[..., None])[:, None].to(k.device)
        if clean.mask is not None:
            whole = clean.mask.expand(len(self.places), -1, -1, -1)[prompt[:, None], :, places].transpose(1, 2)
            mask = whole & mask if whole.dtype == torch.bool else whole.masked_fill(~mask, -torch.inf)
        how = {"scale": clean.scale, "softcap": clean.softcap, "sinks": clean.sinks}
        z, lse = attention_with_lse(attention.q, k, v, mask=mask, **how)
        return replace(attention, k=k, v=v, z=z, lse=lse, mask=mask)
