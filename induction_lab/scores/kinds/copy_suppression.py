"""Copy suppression: heads that lower the token they attend to, where the layers below have come to expect it.

Source: McDougall et al. (2023), https://arxiv.org/abs/2310.04625. `copy_suppression` is their measure of weights;
`copy_suppression_share` says how much of what a head does to tokens of the context is that.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from induction_lab.attention.exact import AttentionReading
from induction_lab.attention.grouped import key_head, to_query_heads
from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts
from induction_lab.data.vocabulary import n_real_tokens
from induction_lab.internals.reading import StreamEnd
from induction_lab.models.frozen_norms import final_norm, output_norm, output_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.scores.logit_attribution import why_no_outputs, why_no_readers
from induction_lab.scores.score import LayerScore, WeightScore
from induction_lab.scores.weight_scores import why_no_token_circuits
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import among_first
from induction_lab.weights.stream_sources import token_vectors

MCDOUGALL = "McDougall et al. (2023), arxiv.org/abs/2310.04625"
LOWEST, N_TOKENS = 0.05, 512
EXPECTED = 0.05


class CopySuppression(WeightScore):
    """Share of tokens whose own logit is among the lowest 5 % of all that a head gives where it attends to them.

    Row by row of `E W_V W_O W_U`, `E` the effective embeddings (`weights.stream_sources`; of layer 0, the embeddings),
    norms folded in, so that a row's order is the model's own but for biases. The published score takes all tokens,
    this one 512 drawn from them: its sampling error is at most 0.022. Equal logits do not count as lower.
    """

    name, source, low, high, chance = "copy_suppression", MCDOUGALL, 0.0, 1.0, LOWEST
    threshold = 0.5  # of most tokens
    meaning = (
        "From the weights alone: share of 512 tokens whose own logit is among the lowest 5 % of all logits that the "
        "head would give where it attends to them."
    )

    def missing(self, model: HookedModel, prompts: Prompts) -> str | None:
        """Refuse what `why_no_token_circuits` refuses."""
        return why_no_token_circuits(model)

    def measure(self, model: HookedModel) -> Float[Tensor, "layer head"]:
        """Rank each token's own logit, some of the vocabulary at a time."""
        folded, n_real = FoldedWeights.of(model), n_real_tokens(model)
        drawn = torch.randperm(n_real, generator=torch.Generator().manual_seed(0))[:N_TOKENS]
        tokens, readers = drawn.to(model.device), folded.readers[:n_real]
        first, above = (token_vectors(model, layer, tokens) for layer in (0, 1))
        found = torch.full((model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)
        for layer in model.anatomy.attending:
            _, _, W_V, W_O = folded.layer(layer)
            vectors = above if layer else first
            for head in range(model.n_heads):
                lowered = -vectors @ W_V[key_head(head, model.n_heads, len(W_V))] @ W_O[head]
                found[layer, head] = among_first(lowered, readers, tokens, int(LOWEST * n_real))
        return found


class CopySuppressionShare(LayerScore):
    """Share of what a head does to the logits of tokens it attends to that lowers those expected before it.

    `d[t, s] = A[t, s] v_s W_O (W_U[x_s] - mean W_U)` is the logit that attending from t to an earlier s adds to the
    token there. Expected at t are the 5 % of the earlier positions, at least one, whose tokens have the highest logits
    in the residual stream before the head's layer, read by final norm and unembedding; positions of one token go
    together, and equal logits of other tokens count as higher. The score is the sum of `-d` over expected positions
    with `d < 0`, over the sum of `|d|` over all. This is what the ablation that preserves copy suppression (McDougall
    et al.) keeps, but as a share of direct effects, and without the query's own position, which the stream speaks for
    in any case. Gains of the norms on the way are folded in; their scales, which would only weigh the queries, are not.
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
        counts = torch.arange(n_pos) >= batch.first
        earlier = torch.ones(n_pos, n_pos, dtype=torch.bool).tril(-1) & counts
        self.earlier = (earlier & batch.real[:, :, None]).to(model.device)  # [prompt, query, key]
        self.n_earlier = self.earlier.sum(-1, keepdim=True)
        same = tokens[:, :, None] == tokens[:, None]
        self.first = same.int().argmax(-1)[:, None].expand_as(self.earlier).contiguous()  # of the same token
        self.n_same = (same & counts[:, None].to(model.device)).cumsum(1).roll(1, 1)  # before each query
        self.expected = self.earlier
        self.found = torch.full((len(batch), model.n_layers, model.n_heads), torch.nan, dtype=torch.float32)

    def enter(self, layer: int, stream: Float[Tensor, "prompt pos d_model"]) -> None:
        """Which earlier tokens the stream before a layer speaks for most."""
        lens = (self.model.final_norm(stream) @ self.unembedding.mT * self.model.logit_scale + self.bias).float()
        lens = lens.gather(-1, self.first)  # what is the same token's is the same number
        lower = torch.searchsorted(lens.masked_fill(~self.earlier, torch.inf).sort(-1).values, lens)
        n_others = self.n_earlier - lower - self.n_same  # which the stream speaks for as much, or more
        self.expected = self.earlier & (n_others < (EXPECTED * self.n_earlier).ceil())

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
