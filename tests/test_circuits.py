import pytest
import torch
from families import random_network
from torch import nn

from induction_lab import HookedModel
from induction_lab.circuits import attention_norm, final_norm, frozen_norm, ov_copying, ov_eigenvalues
from induction_lab.handbuilt import INDUCTION, PREVIOUS_TOKEN


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


def test_what_is_no_norm_is_refused():
    with pytest.raises(ValueError, match="neither a LayerNorm nor an RMSNorm"):
        frozen_norm(nn.Linear(8, 8), 8, like=torch.zeros(1))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma", "gpt_neox", "cohere", "small"])
@torch.no_grad()
def test_eigenvalues_are_those_of_the_dense_output_circuit(family, small):
    """Vocabulary by vocabulary, eigenvalue by eigenvalue, norms folded by hand."""
    model = small if family == "small" else HookedModel(random_network(family))
    for name, parameter in model.network.named_parameters():
        if "norm" in name or "ln_" in name or ".ln1." in name:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    hooked = model.hooked
    shares, eigenvalues = ov_copying(model), ov_eigenvalues(model)
    group = model.n_heads // hooked.W_V.shape[1]
    for layer in range(model.n_layers):
        into, out = attention_norm(model, layer), final_norm(model)
        for head in range(model.n_heads):
            W_OV = (hooked.W_V[layer, head // group] @ hooked.W_O[layer, head]).double()
            centre = torch.eye(model.d_model).double() - 1 / model.d_model
            before = (centre if into.centred else torch.eye(model.d_model).double()) @ into.gain.double().diag()
            after = (centre if out.centred else torch.eye(model.d_model).double()) @ out.gain.double().diag()
            dense = hooked.W_E.double() @ before @ W_OV @ after @ model.unembedding.double().T
            full = torch.linalg.eigvals(dense)
            largest = full[full.abs().argsort(descending=True)[: model.d_head]]
            share = largest.real.sum() / largest.abs().sum()
            assert float(shares[layer, head]) == pytest.approx(float(share), abs=1e-4)
            torch.testing.assert_close(
                eigenvalues[layer, head].abs().sort().values, largest.abs().sort().values, rtol=1e-4, atol=1e-5
            )


def test_random_output_circuits_neither_copy_nor_suppress(small):
    assert ov_copying(small).abs().max() < 0.6
    assert abs(float(ov_copying(small).mean())) < 0.25


def test_the_handbuilt_head_copies_and_its_partner_writes_nowhere(circuit):
    scores = ov_copying(circuit)
    assert scores[INDUCTION] == pytest.approx(1.0) and scores[PREVIOUS_TOKEN] == 0
