import pytest
import torch
from families import random_network, shake_norms

from induction_lab import HookedModel
from induction_lab.weights.normalised_rows import NormalisedMeans
from induction_lab.weights.queries_keys import _scales


def of(family):
    model = HookedModel(shake_norms(random_network(family)))
    return model, torch.randn(150, model.d_model, generator=torch.Generator().manual_seed(0))


def told(model, layer, rows):
    """The obvious way."""
    return torch.stack([model.anatomy.norm_before(layer)(part).mean(0) for part in rows.split(40)]).detach()


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "phi", "opt", "cohere"])  # LayerNorm, with bias, RMSNorm
def test_means_are_those_of_the_rows_run_through_each_layer_s_norm(family):
    model, rows = of(family)
    rows[3] = 0.0
    means = NormalisedMeans(model, rows, 40)
    for layer in range(model.n_layers):
        torch.testing.assert_close(means.of(layer), told(model, layer, rows), atol=2e-6, rtol=1e-5)


def test_rows_are_divided_by_their_size_once(monkeypatch):
    model, rows = of("llama")
    means, seen = NormalisedMeans(model, rows, 40), []
    run = means._normalised
    monkeypatch.setattr(means, "_normalised", lambda layer, some: seen.append((layer, len(some))) or run(layer, some))
    for layer in range(model.n_layers):
        means.of(layer)
    assert [layer for layer, n in seen if n != 64] == [0] * 4 and len(seen) == 4 + model.n_layers


def test_a_layer_whose_norm_divides_otherwise_is_run_by_itself():
    model, rows = of("llama")
    model.anatomy.norm_before(1).variance_epsilon = 0.5
    rows[:70] *= 1e-2  # where it shows
    means = NormalisedMeans(model, rows, 40)
    for layer in (0, 1):
        torch.testing.assert_close(means.of(layer), told(model, layer, rows), atol=2e-6, rtol=1e-5)


def test_narrow_numbers_are_rounded_as_the_model_rounds_them():
    model, rows = of("llama")
    model.network.bfloat16()
    narrow, rows = HookedModel(model.network), rows.bfloat16()
    assert torch.equal(NormalisedMeans(narrow, rows, 150).of(1)[0], narrow.anatomy.norm_before(1)(rows).float().mean(0))


def test_the_model_is_run_once_for_the_scales_of_all_its_layers():
    model, _ = of("gemma2")
    alone, runs = [_scales(model, [layer])[layer] for layer in range(model.n_layers)], []
    model.anatomy.embedding.register_forward_hook(lambda *_: runs.append(1))
    assert list(_scales(model, range(model.n_layers)).values()) == pytest.approx(alone) and len(runs) == 1
