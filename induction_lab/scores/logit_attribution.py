"""The score `logit_attribution`: what each head adds to the right next token, where copying is right.

Direct logit attribution as in Elhage et al. (2021), https://transformer-circuits.pub/2021/framework; position by
position, and for MLPs and embeddings too: `induction_lab.attribution.logits_by_component`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.head_outputs import heads_along, read_by_projection
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.frozen_norms import final_norm, output_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.score import ELHAGE, LayerScore


class AnswerLogits(LayerScore):
    """Logits that each head adds to the right next token, over the queries where copying is right."""

    name, source, unit, chance = "logit_attribution", ELHAGE, "logits", 0.0
    meaning = (
        "Logits that the head adds to the right next token where copying is right, minus what it adds to the mean "
        "logit, the final norm's scale held. Not causal."
    )
    needs_end = True

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_readers` and `why_no_outputs` refuse."""
        return why_no_readers(model) or why_no_outputs(model)

    def defined(self, seen: Recurrences) -> Bool[Tensor, " prompt"]:
        """Prompts in which something is copied."""
        return seen.copyable.any(1)

    def reader(self, model: HookedModel, prompts: Prompts) -> _OnCopies:
        """Prepare the directions to read in."""
        return _OnCopies(model, prompts)


def why_no_readers(model: HookedModel) -> str | None:
    """Why what heads write cannot be read through the unembedding, the norms on the way folded in; None if it can."""
    if model.anatomy.projects_stream:
        return "not defined where the stream is projected, or goes through another layer, before the unembedding"
    try:
        _ = final_norm(model), model.unembedding
    except ValueError as error:
        return str(error)
    return None


def why_no_outputs(model: HookedModel) -> str | None:
    """Why what heads put out cannot be followed into the stream, by their output projection; None if it can."""
    try:
        attending = model.anatomy.attending
        for layer in (layer for layer in model.anatomy.representatives if layer in attending):
            output_weights(model, layer)
    except ValueError as error:
        return str(error)
    return None


class _OnCopies:
    """`(o_t / scale_t) . (W_U[x_{t+1}] - mean W_U)`, `o_t` what a head adds at query `t`, `scale_t` the last norm's."""

    def __init__(self, model: HookedModel, batch: Prompts) -> None:
        self.model, self.n_prompts = model, len(batch)
        prompt, query = Recurrences(batch).copyable.nonzero(as_tuple=True)
        answer = batch.tokens[prompt, query + 1]
        self.prompt, self.query, answer = (x.to(model.device) for x in (prompt, query, answer))
        self.norm = final_norm(model)
        readers = model.unembedding[answer].to(model.wide) - model.unembedding[: n_real_tokens(model)].to(
            model.wide
        ).mean(0)
        self.directions = self.norm.fold(readers)  # [query, d_model]
        shape = (len(prompt), model.n_layers, model.n_heads)
        self.per_query = torch.full(shape, torch.nan, dtype=torch.float32, device=model.device)
        self.counts = torch.bincount(prompt, minlength=self.n_prompts)

    def read(self, attention: AttentionReading) -> None:
        z = read_by_projection(self.model, attention.layer, attention.z[self.prompt, :, self.query])
        self.per_query[:, attention.layer] = heads_along(self.model, attention.layer, z, self.directions)[0]

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        """The mean over each prompt's queries."""
        assert stream.final is not None and stream.normalised is not None
        at, wide = (self.prompt, self.query), self.model.wide
        scale = self.norm.scale(stream.final[at].to(wide), stream.normalised[at].to(wide)) / self.model.logit_scale
        scaled = self.per_query / scale[:, None, None]
        total = scaled.new_zeros((self.n_prompts, *scaled.shape[1:])).index_add_(0, self.prompt, scaled)
        return (total.cpu() / self.counts.clamp(min=1)[:, None, None]).float()
