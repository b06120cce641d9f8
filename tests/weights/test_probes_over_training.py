import pytest
import torch
from families import random_network

from induction_lab import HookedModel
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.weights.composition import composition_scores
from induction_lab.weights.ov_qk import qk_circuit
from induction_lab.weights.probes_over_training import PROBES, position_memory, weight_probes
from induction_lab.weights.queries_keys import positional_preference

PREVIOUS = torch.tensor([[1.0, 0.0], [0.0, 0.0]])


def built(**changes):
    config = AttentionOnlyConfig(d_vocab=40, n_ctx=24, **changes)
    return HookedModel(AttentionOnlyTransformer(config, seed=1), name="small")


def test_the_handbuilt_circuit_has_all_three_memories_where_they_belong(circuit):
    probed = weight_probes(circuit, previous_token=PREVIOUS)
    assert probed.values["position_memory"].tolist() == [[1, 0], [0, 0]]
    assert probed.values["key_memory"][1].tolist() == [1, 0]
    assert probed.values["output_memory"].tolist() == [[0, 0], [127 / 128, 0]]  # BOS is not copied
    assert float(probed.values["qk_matching"][1, 0]) == pytest.approx(1.0)
    assert probed.values["composition_K"][1].argmax() == 0 and float(probed.values["composition_K"][1, 0]) > 0.03
    assert list(probed.left_out) == ["preferred_offset"] and "not rotary" in probed.left_out["preferred_offset"]


def test_random_weights_remember_no_more_than_chance():
    model = built(positions="learned")
    probed = weight_probes(model, previous_token=torch.rand(2, 4))
    for name in ("output_memory", "key_memory", "position_memory"):
        assert float(probed.values[name].nan_to_num(0).max()) < 0.4, name


@pytest.mark.parametrize("positions", ["learned", "shortformer"])
def test_position_memory_counts_the_best_keys_one_position_at_a_time(positions):
    model = built(positions=positions)
    for parameter in model.network.parameters():  # no norm at its first value
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5))
    found = position_memory(model)
    for layer in range(2):
        for head in range(4):
            scores = qk_circuit(model, (layer, head), query="positions", key="positions").AB
            right = [int(scores[t, : t + 1].argmax()) == t - 1 for t in range(2, 24)]
            assert float(found[layer, head]) == pytest.approx(sum(right) / 22)


def test_composition_is_that_with_the_strongest_earlier_head(small):
    probed = weight_probes(small, ["composition_Q", "composition_K", "composition_V"])
    for kind in "QKV":
        scores = composition_scores(small, kind)
        found = probed.values[f"composition_{kind}"]
        assert found[0].isnan().all()
        for head in range(4):
            assert float(found[1, head]) == max(float(scores[0, h, 1, head]) for h in range(4))


def test_the_preferred_offset_is_where_rotary_heads_look_for_any_token(small):
    found = weight_probes(small, ["preferred_offset"]).values["preferred_offset"]
    slow = positional_preference(small, range(64))
    assert all(float(slow[int(found[index]), *index]) == slow[:, *index].max() for index in ((0, 0), (0, 3), (1, 2)))
    assert "has no position vectors" in weight_probes(small, ["position_memory"]).left_out["position_memory"]


def test_what_a_model_has_not_is_left_out_with_the_reason():
    one_layer = weight_probes(built(n_layers=1), previous_token=torch.rand(1, 4))
    lacking = {"composition_Q", "composition_K", "composition_V", "qk_matching", "key_memory", "position_memory"}
    assert (
        set(one_layer.left_out) == lacking and one_layer.left_out["key_memory"] == "there is no earlier layer to read"
    )
    smeared = weight_probes(built(positions="learned", smeared_keys=True)).left_out
    assert "Smeared keys mix two positions" in smeared["position_memory"]
    assert "previous_token" in smeared["key_memory"]  # not given


def test_only_sampled_shares_have_an_error():
    many = HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=600)))
    few = weight_probes(built(), previous_token=torch.rand(2, 4))
    assert all(not error.any() for error in few.errors.values())
    many.network.unembed.W_U.data = many.network.W_E.data.T.clone()
    share = weight_probes(many, ["output_memory"])
    p = share.values["output_memory"]
    torch.testing.assert_close(share.errors["output_memory"], (p * (1 - p) / 256).sqrt())


def test_grouped_query_models_are_probed_too(llama):
    probed = weight_probes(llama, previous_token=torch.rand(llama.n_layers, llama.n_heads), offset=3)
    assert set(probed.left_out) == {"position_memory"} and set(probed.values) == set(PROBES) - {"position_memory"}
    gpt2 = HookedModel(random_network("gpt2"))
    assert position_memory(gpt2).shape == (gpt2.n_layers, gpt2.n_heads)


def test_unknown_probes_are_refused(small):
    with pytest.raises(ValueError, match=r"Unknown probes \['x'\]; there are composition_Q"):
        weight_probes(small, ["x"])
