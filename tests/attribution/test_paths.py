import pytest
import torch

from induction_lab import (
    AttentionOnlyConfig,
    AttentionOnlyTransformer,
    HookedModel,
    capture,
    ov_circuit,
    repeated_tokens,
)
from induction_lab.attribution.paths import expand_paths, name_of, virtual_pattern
from induction_lab.results.heads import Head


def random_model(**choices):
    """Norm gains and biases shaken, so that leaving one out would show."""
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**choices), seed=1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif ".W_" in name:
                parameter.mul_(2)
    return HookedModel(network)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("positions", ["learned", "rotary", "shortformer", "none"])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_the_paths_add_up_to_the_models_logits(n_layers, positions, layer_norm):
    model = random_model(n_layers=n_layers, n_heads=3, positions=positions, layer_norm=layer_norm)
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    terms = expand_paths(model, prompts)
    assert len(terms) == 4**n_layers
    torch.testing.assert_close(terms.total(), model.logits(prompts.tokens), atol=1e-4, rtol=1e-4)


def test_half_precision_adds_up_within_its_rounding():
    network = AttentionOnlyTransformer(AttentionOnlyConfig(), seed=1).to(torch.bfloat16)
    prompts = repeated_tokens(HookedModel(network), n_prompts=2, period=10)
    logits = HookedModel(network).logits(prompts.tokens).float()
    error = (expand_paths(HookedModel(network), prompts).total() - logits).abs().max()
    assert error < 0.05 * logits.abs().max()


def test_leaving_a_path_out_is_noticed():
    model = random_model(n_heads=3)
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    terms = expand_paths(model, prompts)
    total, logits = terms.total(), model.logits(prompts.tokens)
    for path in terms:
        assert (total - terms[path] - logits).abs().max() > 1e-3


@torch.no_grad()
def test_every_kind_of_path_is_the_product_of_its_matrices():
    model = random_model(layer_norm=False)
    prompts = repeated_tokens(model, n_prompts=2, period=10)
    acts = capture(model, prompts, ["pattern", "embed"])
    A0, A1 = acts["pattern", 0][:, 1], acts["pattern", 1][:, 2]
    W = model.hooked
    OV0, OV1 = W.W_V[0, 1] @ W.W_O[0, 1], W.W_V[1, 2] @ W.W_O[1, 2]
    x, first, second = acts["embed"], Head(0, 1), Head(1, 2)
    terms = expand_paths(model, prompts)
    close = dict(atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(terms[()], x @ W.W_U, **close)
    torch.testing.assert_close(terms[(first,)], A0 @ x @ OV0 @ W.W_U, **close)
    torch.testing.assert_close(terms[(second,)], A1 @ x @ OV1 @ W.W_U, **close)
    torch.testing.assert_close(terms[first, second], A1 @ A0 @ x @ OV0 @ OV1 @ W.W_U, **close)
    pattern = virtual_pattern(model, prompts, first, second)
    by_circuit = pattern @ ov_circuit(model, second, source=first).AB[prompts.tokens]
    torch.testing.assert_close(terms[first, second], by_circuit, **close)


def test_virtual_heads_look_where_their_two_heads_lead(circuit):
    prompts = repeated_tokens(circuit, n_prompts=2, period=8)
    pattern = virtual_pattern(circuit, prompts, "L0H0", "L1H0")
    torch.testing.assert_close(pattern.sum(-1), torch.ones(pattern.shape[:2]))
    for query in range(9, 17):  # the induction head looks one past the last copy, the previous-token head one back
        assert int(pattern[0, query].argmax()) == query - 8


def test_in_the_handbuilt_circuit_one_path_copies(circuit):
    table = expand_paths(circuit, repeated_tokens(circuit, n_prompts=4, period=10)).attribution()
    assert table["path"][0] == "L1H0" and table["logits"][0] > 5
    assert table["logits"][1:].abs().max() < 1e-3


def test_the_previous_token_head_writes_for_keys_not_for_virtual_heads(bundled):
    table = expand_paths(bundled, repeated_tokens(bundled, n_prompts=4)).attribution().set_index("path")["logits"]
    through = [path for path in table.index if path.startswith("L0H3")]
    assert len(through) == 5 and table[through].abs().sum() < 0.05 * table.sum()
    assert table["direct"] == pytest.approx(0, abs=0.05)


def test_paths_have_names():
    assert [name_of(path) for path in ((), (Head(0, 1),), (Head(0, 1), Head(1, 0)))] == [
        "direct",
        "L0H1",
        "L0H1 > L1H0",
    ]


def test_what_is_not_linear_or_too_large_is_refused(llama, small):
    with pytest.raises(ValueError, match="has MLPs, which are not linear"):
        expand_paths(llama, torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="15625 paths; at most 4096"):
        expand_paths(random_model(n_layers=6), torch.ones(1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="in a later layer than the first"):
        virtual_pattern(small, torch.ones(1, 4, dtype=torch.long), "L1H0", "L1H1")
    with pytest.raises(ValueError, match="Nothing is copied"):
        expand_paths(small, torch.arange(1, 9)[None]).attribution()
