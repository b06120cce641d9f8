"""The score `copying`: whether a head raises the token that it attends to.

Source: Olsson et al. (2022), https://arxiv.org/abs/2209.11895, reconstructed: the text leaves the ratio open.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attention.grouped import to_query_heads
from induction_lab.data.prompts import Prompts, distinct_tokens
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.frozen_norms import final_norm, output_norm, output_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_outputs, why_no_readers
from induction_lab.scores.score import OLSSON, LayerScore

COPYING_TOKENS, COPYING_PROMPTS = 25, 10


class Copying(LayerScore):
    """Of all that a head raises among the prompt's tokens, how much is the attended token itself.

    With `l[s, v]` the logit that attending to `s` adds to token `v`, less its mean over the vocabulary:
    `c[t, s, v] = ReLU(A[t, s] l[s, v])`, `a` its sum at `v = x_s`, `b` over the prompt's tokens, BOS left out;
    the score is `4 a / (a + b) - 1`. 1: only the attended token rises; -1: it never does (also where nothing rises);
    `4 / (n + 1) - 1` when all n tokens rise alike. The gains of the norms on the way are folded in, of the final one
    and of one of what heads write (Gemma 2 and 3, OLMo-2); their scales, which would only weigh the queries, are not.
    """

    name, source, low, high = "copying", OLSSON, -1.0, 1.0
    meaning = (
        "Of what the head raises among 25 distinct tokens, the share that belongs to the token attended to, scaled to "
        "run from −1 to 1. Known to fail in deep models."
    )
    chance = 4 / (COPYING_TOKENS + 1) - 1  # every token of the prompt rises alike
    measured_on = f"distinct {COPYING_TOKENS}"

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_readers` and `why_no_outputs` refuse."""
        return why_no_outputs(model) or why_no_readers(model)

    def own_prompts(self, model: HookedModel, *, seed: int = 0) -> Prompts:
        """The 10 prompts of 25 distinct random tokens that it is defined on."""
        return distinct_tokens(model, n_prompts=COPYING_PROMPTS, length=COPYING_TOKENS, seed=seed)

    def reader(self, model: HookedModel, prompts: Prompts) -> _Raised:
        """Prepare the directions to read in."""
        return _Raised(model, prompts)


class _Raised:
    """What each head raises among its prompt's own tokens."""

    def __init__(self, model: HookedModel, batch: Prompts) -> None:
        tokens, unembedding = batch.tokens[:, 1:].to(model.device), model.unembedding.to(model.wide)
        self.model = model
        mean = unembedding[: n_real_tokens(model)].mean(0)
        self.readers = final_norm(model).fold(unembedding[tokens] - mean)  # [prompt, token, d_model]
        self.result = torch.full((len(batch), model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)

    def read(self, attention: AttentionReading) -> None:
        wide, layer = self.model.wide, attention.layer
        attended = attention.pattern()[..., 1:].to(wide).sum(-2)  # A summed over queries: [prompt, head, source]
        v = to_query_heads(attention.v[:, :, 1:].to(wide), self.model.n_heads, dim=1)
        norm, W_O = output_norm(self.model, layer), output_weights(self.model, layer)
        asked = torch.einsum("bvd,nhd->bnvh", self.readers if norm is None else norm.fold(self.readers), W_O)
        raised = torch.einsum("bnsh,bnvh->bnsv", v, asked).relu() * attended[..., None]
        own, all_ = raised.diagonal(dim1=-2, dim2=-1).sum(-1), raised.sum((-2, -1))
        share = own / (own + all_).clamp(min=torch.finfo(own.dtype).tiny)
        self.result[:, layer] = (4 * share - 1).cpu()

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        return self.result
