import pytest
import torch
from families import random_network

from induction_lab import (
    HookedModel,
    composition_scores,
    find_circuit,
    ov_copying,
    qk_matching,
    repeated_tokens,
    score_heads,
    write_report,
)
from induction_lab.development.evaluation import Evaluation
from induction_lab.development.rows import Rows
from induction_lab.models.frozen_norms import folded_weights, unembedding_readers
from induction_lab.results.heads import Head
from induction_lab.weights import folded as module
from induction_lab.weights.composition import pair_composition
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.head_statistics import ov_eigenvalues, qk_eigenvalues
from induction_lab.weights.probes_over_training import weight_probes
from induction_lab.weights.stream_sources import stream_rows


@pytest.fixture
def foldings(monkeypatch):
    """The layers that were folded, in order."""
    seen = []

    def counted(model, layer):
        seen.append(layer)
        return folded_weights(model, layer)

    monkeypatch.setattr(module, "folded_weights", counted)
    return seen


def test_parts_are_those_of_their_own_functions_and_kept(small):
    folded = FoldedWeights(small)
    for kept, fresh in zip(folded.layer(1), folded_weights(small, 1), strict=True):
        assert torch.equal(kept, fresh)
    assert torch.equal(folded.readers, unembedding_readers(small)) and folded.readers is folded.readers
    assert torch.equal(folded.rows(), stream_rows(small)) and folded.layer(1) is folded.layer(1)


def test_a_circuit_folds_every_layer_once(bundled, foldings):
    find_circuit(bundled, repeated_tokens(bundled, n_prompts=2))
    assert sorted(foldings) == list(range(bundled.n_layers))


def test_probes_of_a_checkpoint_fold_every_layer_once(small, foldings):
    weight_probes(small, previous_token=torch.rand(2, 4))
    assert sorted(foldings) == [0, 1]


def test_a_report_and_a_checkpoint_fold_every_layer_once(small, foldings, tmp_path):
    write_report(small, tmp_path / "report.html", n_prompts=2)
    assert sorted(foldings) == [0, 1]
    foldings.clear()
    Evaluation({"repeats": repeated_tokens(small, n_prompts=2)}).measure(small, Rows("run", 0))
    assert sorted(foldings) == [0, 1]


def test_what_is_shared_is_read_by_all_that_are_given_none_with_the_same_numbers(small, bundled, foldings):
    alone = score_heads(small, repeated_tokens(small, n_prompts=2), scores="ov_copying")["ov_copying"]
    with FoldedWeights(small).shared() as folded:
        inside = score_heads(small, repeated_tokens(small, n_prompts=2), scores="ov_copying")["ov_copying"]
        assert ov_eigenvalues(small) is ov_eigenvalues(small, folded=folded)
        foldings.clear()
        ov_copying(bundled)  # another model: its own weights
        assert sorted(foldings) == list(range(bundled.n_layers))
    assert torch.equal(inside, alone)
    assert FoldedWeights.of(small) is not folded
    with pytest.raises(RuntimeError, match="inside"), folded.shared():
        raise RuntimeError("inside")
    assert FoldedWeights.of(small) is not folded  # whatever went wrong


def test_trained_on_weights_are_folded_anew_once_nothing_is_shared(foldings):
    model = HookedModel(random_network("llama"))
    with FoldedWeights(model).shared():
        before = ov_copying(model)
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert not torch.equal(ov_copying(model), before)


def test_what_finds_no_room_is_made_anew_with_the_same_numbers(small, foldings):
    none_kept = FoldedWeights(small, max_bytes=0)
    assert torch.equal(composition_scores(small, "K", folded=none_kept), composition_scores(small, "K"))
    assert none_kept.layer(0) is not none_kept.layer(0)


def test_memory_stays_below_what_may_be_kept(small):
    one_layer = sum(weights.nbytes for weights in folded_weights(small, 0))
    folded = FoldedWeights(small, max_bytes=one_layer)
    assert folded.layer(0) is folded.layer(0) and folded.layer(1) is not folded.layer(1)


def test_weights_of_another_model_are_refused(small, bundled):
    with pytest.raises(ValueError, match="`folded` holds the weights of induction-2l, not those of this small"):
        ov_copying(small, folded=FoldedWeights(bundled))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_numbers_of_a_few_heads_are_those_of_all_and_the_others_are_nan(family):
    model = HookedModel(random_network(family))
    previous, chosen = torch.rand(model.n_layers, model.n_heads), ["L1H1", "L1H0"]
    for name, measured in {
        "ov": lambda **heads: ov_eigenvalues(model, **heads),
        "qk": lambda **heads: qk_eigenvalues(model, previous, offset=2, **heads),
        "matching": lambda **heads: qk_matching(model, previous, offset=2, **heads),
    }.items():
        few, every = measured(heads=chosen), measured()
        assert torch.equal(few[1, :2], every[1, :2]), name
        assert few[0].isnan().all() and few[1, 2:].isnan().all(), name
    with pytest.raises(ValueError, match="L9H0 is not there"):
        ov_copying(model, heads="L9H0")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_composition_of_a_few_pairs_is_that_of_all(family, kind):
    model = HookedModel(random_network(family))
    pairs = [(Head(0, 1), Head(1, 0)), (Head(0, 0), Head(1, 3))]
    scores = composition_scores(model, kind)
    expected = torch.stack([scores[*earlier, *later] for earlier, later in pairs])
    torch.testing.assert_close(pair_composition(FoldedWeights(model), kind, pairs), expected, atol=1e-5, rtol=1e-4)
