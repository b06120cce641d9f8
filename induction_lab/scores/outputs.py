"""Score heads by what they write: `copying` and `logit_attribution`.

Both read a head's output `z W_O` through the unembedding, the final norm's gain folded in. Sources: Olsson et al.
(2022), https://arxiv.org/abs/2209.11895; direct logit attribution as in Elhage et al. (2021).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.data.occurrences import copyable
from induction_lab.data.prompts import Prompts, distinct_tokens
from induction_lab.internals.reading import Enough, read_attention
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.norms import final_norm, refuse_changed_outputs

COPYING_TOKENS, COPYING_PROMPTS = 25, 10


def copying_prompts(model: HookedModel, *, seed: int = 0) -> Prompts:
    """The 10 prompts of 25 distinct random tokens that `copying` is defined on."""
    return distinct_tokens(model, n_prompts=COPYING_PROMPTS, length=COPYING_TOKENS, seed=seed)


def copying(model: HookedModel, prompts: Prompts) -> Float[Tensor, "prompt layer head"]:
    """Of all that a head raises among the prompt's tokens, how much is the attended token itself.

    With `l[s, v]` the logit that attending to `s` adds to token `v`, less its mean over the vocabulary:
    `c[t, s, v] = ReLU(A[t, s] l[s, v])`, `a` its sum at `v = x_s`, `b` over the prompt's tokens, BOS left out;
    the score is `4 a / (a + b) - 1`. 1: only the attended token rises; -1: it never does (also where nothing rises);
    `4 / (n + 1) - 1` when all n tokens rise alike. The final norm's gain is folded into `W_U`.
    Source: Olsson et al. (2022), reconstructed: the text leaves the ratio open.

    Raises:
        ValueError: If the heads' outputs do not reach the residual stream unchanged.
    """
    refuse_changed_outputs(model, "copying")
    tokens = prompts.tokens[:, 1:].to(model.device)
    group = model.n_heads // model.n_kv_heads
    unembedding = model.unembedding.to(model.wide)
    readers = final_norm(model).fold(unembedding[tokens] - unembedding.mean(0))  # [prompt, token, d_model]
    result = torch.zeros(len(prompts), model.n_layers, model.n_heads)

    def read(attention: AttentionReading) -> None:
        attended = attention.pattern()[..., 1:].to(model.wide).sum(-2)  # A summed over queries: [prompt, head, source]
        v = attention.v[:, :, 1:].to(model.wide).repeat_interleave(group, 1)
        W_O = head_weights(model, attention.layer).W_O.to(model.wide)
        asked = torch.einsum("bvd,nhd->bnvh", readers, W_O)
        raised = torch.einsum("bnsh,bnvh->bnsv", v, asked).relu() * attended[..., None]
        own, all_ = raised.diagonal(dim1=-2, dim2=-1).sum(-1), raised.sum((-2, -1))
        share = own / (own + all_).clamp(min=torch.finfo(own.dtype).tiny)
        result[:, attention.layer] = (4 * share - 1).cpu()
        if attention.layer == model.n_layers - 1:
            raise Enough

    read_attention(model, prompts.tokens, read)
    return result


class LogitAttribution:
    """Logits that each head adds to the right next token, over the queries where copying is right.

    `(o_t / scale_t) . (W_U[x_{t+1}] - mean W_U)`, `o_t` being what the head writes at query `t` and `scale_t` the
    final norm's own. Let `read` see every layer's attention, then ask for the `result`. Not causal: what later layers
    make of a head's output is left out. About 0 where nothing repeats.
    """

    def __init__(self, model: HookedModel, batch: Prompts) -> None:
        """Prepare the directions to read in."""
        self.model = model
        self.shape = batch.tokens.shape
        prompt, query = copyable(batch.tokens, batch.lengths).nonzero(as_tuple=True)
        answer = batch.tokens[prompt, query + 1]
        self.prompt, self.query, answer = (x.to(model.device) for x in (prompt, query, answer))
        self.norm = final_norm(model)
        readers = model.unembedding[answer].to(self.model.wide) - model.unembedding.to(self.model.wide).mean(0)
        self.directions = self.norm.fold(readers)  # [query, d_model]
        self.per_query = torch.zeros(len(prompt), model.n_layers, model.n_heads, device=model.device)
        self.counts = torch.bincount(prompt, minlength=self.shape[0])

    @property
    def defined(self) -> Bool[Tensor, " prompt"]:
        """Whether a prompt has such a query."""
        return self.counts > 0

    def read(self, attention: AttentionReading) -> None:
        """Take one layer's share."""
        W_O = head_weights(self.model, attention.layer).W_O.to(self.model.wide)
        z = attention.z[self.prompt, :, self.query].to(self.model.wide)
        asked = torch.einsum("qd,nhd->qnh", self.directions, W_O)
        self.per_query[:, attention.layer] = (z * asked).sum(-1)

    def result(
        self, final: Float[Tensor, "prompt pos d_model"], normalised: Float[Tensor, "prompt pos d_model"]
    ) -> Float[Tensor, "prompt layer head"]:
        """The mean over each prompt's queries, given the stream before and after the final norm."""
        at = (self.prompt, self.query)
        scale = (
            self.norm.scale(final[at].to(self.model.wide), normalised[at].to(self.model.wide)) / self.model.logit_scale
        )
        scaled = self.per_query / scale[:, None, None]
        total = scaled.new_zeros((self.shape[0], *scaled.shape[1:])).index_add_(0, self.prompt, scaled)
        return (total.cpu() / self.counts.clamp(min=1)[:, None, None]).float()
