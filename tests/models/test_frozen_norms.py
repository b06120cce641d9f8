import pytest
import torch
from families import random_network
from torch import nn

from induction_lab import HookedModel
from induction_lab.models.frozen_norms import folded_weights, frozen_norm, unembedding_readers
from induction_lab.models.head_weights import head_weights


class GemmaStyle(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(d) * 0.3)

    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + self.weight)


def norms(d):
    layer = nn.LayerNorm(d)
    rms = nn.RMSNorm(d)
    for norm in (layer, rms):
        with torch.no_grad():
            for parameter in norm.parameters():
                parameter.copy_(torch.randn(d))
    return {"LayerNorm": layer, "RMSNorm": rms, "1 + weight": GemmaStyle(d), "none": nn.Identity()}


@pytest.mark.parametrize("d", [8, 9])
@pytest.mark.parametrize("kind", norms(2))
@torch.no_grad()
def test_a_frozen_norm_does_what_the_norm_does(kind, d):
    norm = norms(d)[kind]
    frozen = frozen_norm(norm, d, like=torch.zeros(1))
    x = torch.randn(50, d) * 3
    scale = frozen.scale(x, norm(x))
    readers = torch.randn(4, d)
    by_fold = x @ frozen.fold(readers).T / scale[:, None] + frozen.bias @ readers.T
    torch.testing.assert_close(by_fold, norm(x) @ readers.T, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(frozen.apply(x) / scale[:, None] + frozen.bias, norm(x), atol=1e-3, rtol=1e-3)


def test_what_is_no_norm_is_refused():
    with pytest.raises(ValueError, match="neither a LayerNorm nor an RMSNorm"):
        frozen_norm(nn.Linear(8, 8), 8, like=torch.zeros(1))


def shaken(family):
    """A random model whose norms have gains and biases that matter."""
    model = HookedModel(random_network(family))
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.ndim == 1 and ("norm" in name or "ln_" in name):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize(
    "family", ["gpt2", "llama", "gemma2", "gemma3", "qwen3", "olmo2", "gpt_neox", "cohere", "gptj"]
)
@torch.no_grad()
def test_folded_weights_are_the_modules_own_norms_at_frozen_scale(family):
    """A row goes through the real norm module, then the bare weights, then the real norm of queries: up to its scales
    and biases that is the row times the folded weights. Differences of two rows' images lose the biases."""
    model = shaken(family)
    block = model.hooked.blocks[1]
    folded, bare = folded_weights(model, 1), head_weights(model, 1)
    into = getattr(getattr(block, "ln1", None), "original_component", None)
    x = torch.randn(20, model.d_model)
    x = x - x.mean(-1, keepdim=True)
    x = x / x.square().mean(-1, keepdim=True).sqrt()  # of scale 1 for LayerNorm and RMSNorm alike
    read = x if into is None else into(x) - into(torch.zeros_like(x))
    torch.testing.assert_close(read @ bare.W_V, x @ folded.W_V, atol=1e-3, rtol=1e-3)
    q, norm = read @ bare.W_Q, model.anatomy.head_norm(1, "q")
    if norm is not None:
        wide = next(norm.parameters()).numel() != model.d_head
        gained = norm(q.transpose(0, 1).flatten(1)).unflatten(1, q.shape[::2]).transpose(0, 1) if wide else norm(q)
        inner = q.transpose(0, 1).flatten(1) if wide else q
        scale = inner.square().mean(-1, keepdim=True).add(1e-6).sqrt()
        q = gained * scale
    torch.testing.assert_close(q, x @ folded.W_Q, atol=2e-3, rtol=2e-3)
    z = torch.randn(20, model.n_heads, model.d_head)
    out = torch.einsum("rhn,hnd->rd", z, bare.W_O)
    post = getattr(getattr(block, "ln1_post", None), "original_component", None)
    if post is not None:
        out = post(out) * out.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    torch.testing.assert_close(out, torch.einsum("rhn,hnd->rd", z, folded.W_O), atol=2e-3, rtol=2e-3)


@torch.no_grad()
def test_unembedding_readers_rank_tokens_as_the_model_does():
    model = shaken("gpt2")
    x = torch.randn(4, model.d_model)
    x = x - x.mean(-1, keepdim=True)
    x = x / x.square().mean(-1, keepdim=True).sqrt()
    logits = model.final_norm(x) @ model.unembedding.T
    bias = model.final_norm(torch.zeros_like(x)) @ model.unembedding.T
    torch.testing.assert_close(x @ unembedding_readers(model).T, logits - bias, atol=1e-3, rtol=1e-3)


def test_weights_of_a_model_that_diverged_are_told_in_a_sentence():
    norm = nn.LayerNorm(8)
    with torch.no_grad():
        norm.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="LayerNorm has weights that are not finite"):
        frozen_norm(norm, 8, like=torch.zeros(8))
