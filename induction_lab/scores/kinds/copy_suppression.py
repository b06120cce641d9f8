"""Copy suppression: heads that lower the token they attend to, where the layers below have come to expect it.

Source: McDougall et al. (2023), https://arxiv.org/abs/2310.04625. `copy_suppression` is their measure of weights;
`copy_suppression_share` says how much of what a head does to tokens of the context is that.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attention.grouped import to_query_heads
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.frozen_norms import final_norm, folded_weights, output_norm, output_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_outputs, why_no_readers
from induction_lab.scores.score import LayerScore, WeightScore
from induction_lab.scores.weight_scores import why_no_token_circuits
from induction_lab.weights.stream_sources import token_vectors

MCDOUGALL = "McDougall et al. (2023), arxiv.org/abs/2310.04625"
LOWEST, N_TOKENS = 0.05, 512
EXPECTED = 0.05
_BLOCK_BYTES = 2**22  # of logits, which then stay in the processor's cache


class CopySuppression(WeightScore):
    """Share of tokens whose own logit is among the lowest 5 % of all that a head gives where it attends to them.

    Row by row of `E W_V W_O W_U`, `E` the effective embeddings (`weights.stream_sources`; of layer 0, the embeddings),
    norms folded in, so that a row's order is the model's own but for biases. The published score takes all tokens,
    this one 512 drawn from them: its sampling error is at most 0.022. Equal logits do not count as lower.
    """

    name, source, low, high, chance = "copy_suppression", MCDOUGALL, 0.0, 1.0, LOWEST
    meaning = (
        "From the weights alone: share of 512 tokens whose own logit is among the lowest 5 % of all logits that the "
        "head would give where it attends to them."
    )

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_token_circuits` refuses."""
        return why_no_token_circuits(model)

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """Rank each token's own logit, some of the vocabulary at a time."""
        n_real, norm, unembedding = n_real_tokens(model), final_norm(model), model.anatomy.unembedding
        drawn = torch.randperm(n_real, generator=torch.Generator().manual_seed(0))[:N_TOKENS]
        tokens = drawn.to(model.device)
        at_a_time = max(1, _BLOCK_BYTES // (4 * model.n_heads * len(tokens)))

        def readers(some: Tensor | slice) -> Float[Tensor, "token d_model"]:
            return norm.fold(unembedding[some].to(model.dtype).to(model.wide))

        own_readers = readers(tokens)
        found = torch.full((model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)
        for layer in model.anatomy.attending:
            _, _, W_V, W_O = folded_weights(model, layer)
            values = token_vectors(model, layer, tokens) @ to_query_heads(W_V, model.n_heads, dim=0)
            own = torch.einsum("ntd,ndm,tm->nt", values, W_O, own_readers)
            n_lower = torch.zeros_like(own)
            for start in range(0, n_real, at_a_time):
                end = min(start + at_a_time, n_real)
                logits = values @ (W_O @ readers(slice(start, end)).mT)  # [head, token, some]
                here = (tokens >= start) & (tokens < end)
                logits[:, here, tokens[here] - start] = torch.inf
                n_lower += (logits <= own[..., None]).sum(-1)
            share = (n_lower + 1 <= LOWEST * n_real).float().mean(-1)
            found[layer] = share.masked_fill(~own.isfinite().all(-1), torch.nan).cpu()
        return found


class CopySuppressionShare(LayerScore):
    """Share of what a head does to the logits of tokens it attends to that lowers those expected before it.

    `d[t, s] = A[t, s] v_s W_O (W_U[x_s] - mean W_U)` is the logit that attending from t to an earlier s adds to the
    token there. Expected at t are the earlier positions whose token has the highest logits in the residual stream
    before the head's layer, as final norm and unembedding read it: 5 % of them, at least one, and all of an equal
    token. The score is the sum of `-d` over expected positions with `d < 0`, over the sum of `|d|` over all. As
    in the ablation that preserves copy suppression (McDougall et al.), but of direct effects, and without the query's
    own position, which the stream speaks for in any case. Gains of the norms on the way are folded in; their scales,
    which would only weigh the queries, are not.
    """

    name, source, low, high = "copy_suppression_share", MCDOUGALL, 0.0, 1.0
    meaning = (
        "Of all that the head adds to and takes from the logits of earlier tokens that it attends to, the share that "
        "it takes from those which the layers below expect next."
    )
    needs_stream = True

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_readers` and `why_no_outputs` refuse."""
        return why_no_readers(model) or why_no_outputs(model)

    def defined(self, seen: Recurrences) -> Bool[Tensor, " prompt"]:
        """Prompts of two tokens behind BOS, or more."""
        return seen.prompts.real_lengths >= seen.prompts.first + 2

    def reader(self, model: HookedModel, prompts: Prompts) -> _OnExpected:
        """Prepare the directions to read in."""
        return _OnExpected(model, prompts)


class _OnExpected:
    """What each head does to tokens of the context, and how much of it lowers those that are expected."""

    def __init__(self, model: HookedModel, batch: Prompts) -> None:
        tokens, n_pos = batch.tokens.to(model.device), batch.tokens.shape[1]
        self.model, self.unembedding = model, model.unembedding[tokens]
        mean = model.unembedding[: n_real_tokens(model)].mean(0, dtype=model.wide)
        self.readers = final_norm(model).fold(self.unembedding.to(model.wide) - mean)  # [prompt, pos, d_model]
        bias = model.anatomy.unembedding_bias
        self.bias = 0.0 if bias is None else bias[tokens][:, None]
        earlier = torch.ones(n_pos, n_pos, dtype=torch.bool).tril(-1)
        earlier[:, : batch.first] = False
        self.earlier = (earlier & batch.real[:, :, None]).to(model.device)  # [prompt, query, key]
        n_expected = (EXPECTED * self.earlier.sum(-1)).ceil().long()
        self.last = (n_expected - 1).clamp(min=0)[..., None]
        self.expected = self.earlier
        self.found = torch.full((len(batch), model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)

    def enter(self, layer: int, stream: Float[Tensor, "prompt pos d_model"]) -> None:
        """Which earlier tokens the stream before a layer speaks for most."""
        lens = (self.model.final_norm(stream) @ self.unembedding.mT * self.model.logit_scale + self.bias).float()
        lens = lens.masked_fill(~self.earlier, -torch.inf)
        least = lens.sort(-1, descending=True).values.gather(-1, self.last)
        self.expected = self.earlier & (lens >= least)

    def read(self, attention: AttentionReading) -> None:
        wide, layer = self.model.wide, attention.layer
        v = to_query_heads(attention.v.to(wide), self.model.n_heads, dim=1)
        norm, W_O = output_norm(self.model, layer), output_weights(self.model, layer)
        readers = self.readers if norm is None else norm.fold(self.readers)
        for head in range(self.model.n_heads):
            adds = (v[:, head] * (readers @ W_O[head].mT)).sum(-1)  # to its own token, where it is attended to
            index = torch.tensor([head], device=self.model.device)
            effect = attention.pattern(heads=index)[:, 0].to(wide) * adds[:, None]
            effect = effect.masked_fill(~self.earlier, 0.0)
            suppressed = effect.masked_fill(~self.expected, 0.0).clamp(max=0.0).sum((-2, -1)).abs()
            total = effect.abs().sum((-2, -1)).clamp(min=torch.finfo(wide).tiny)
            self.found[:, layer, head] = (suppressed / total).float().cpu()

    def values(self, stream: StreamEnd) -> Float[Tensor, "prompt layer head"]:
        return self.found
