"""Of large vocabularies weights are read some tokens at a time, or on a sample: the numbers are those of all."""

import pytest
import torch
from families import random_network

from induction_lab import HookedModel, ov_copying, ov_eigenvalues, ov_self_copying, positional_preference, qk_diagonal
from induction_lab.weights import head_statistics, probes_over_training, queries_keys
from induction_lab.weights.head_statistics import qk_matching
from induction_lab.weights.probes_over_training import weight_probes


@pytest.fixture(params=["llama", "gemma3", "granite"])
def model(request):
    return HookedModel(random_network(request.param), name=request.param)


def test_shares_and_eigenvalues_do_not_depend_on_how_many_tokens_there_are_at_a_time(model, monkeypatch):
    previous = torch.rand(model.n_layers, model.n_heads, generator=torch.Generator().manual_seed(0))

    def everything() -> list[torch.Tensor]:
        shares = [ov_self_copying(model, k=40), qk_diagonal(model, previous, k=40, offset=3), qk_diagonal(model, k=9)]
        return [*shares, ov_copying(model), qk_matching(model, previous, offset=3), ov_eigenvalues(model).abs().sum(-1)]

    at_once = everything()
    assert all(0 < float(share[1:].mean()) < 1 for share in at_once[:3])  # tokens that win and tokens that lose
    monkeypatch.setattr(head_statistics, "_TOKENS_A_TIME", 7)
    monkeypatch.setattr(head_statistics, "_NUMBERS_A_TIME", 1000)
    for whole, by_parts in zip(at_once, everything(), strict=True):
        torch.testing.assert_close(by_parts, whole, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_ties_with_a_token_far_away_in_the_vocabulary_lose(llama, monkeypatch):
    rows = torch.eye(300, llama.d_model)
    rows[299] = rows[2]
    monkeypatch.setattr(head_statistics, "_TOKENS_A_TIME", 16)
    tokens = torch.tensor([1, 2])
    assert head_statistics.among_first(rows[tokens], rows, tokens, 1) == 0.5
    assert head_statistics.among_first(rows[tokens], rows, tokens, 2) == 1


def test_the_preference_over_many_tokens_is_that_of_a_sample_unless_all_are_given(llama, monkeypatch):
    rows = llama.hooked.W_E.detach()
    whole = positional_preference(llama, range(9))
    assert weight_probes(llama, ["preferred_offset"]).errors["preferred_offset"].eq(0).all()
    monkeypatch.setattr(queries_keys, "MOST_ROWS", 128)
    drawn = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:128]
    found = positional_preference(llama, range(9))
    torch.testing.assert_close(found, positional_preference(llama, range(9), source=rows[drawn]))
    assert not torch.allclose(found, whole)
    torch.testing.assert_close(positional_preference(llama, range(9), source=rows), whole)  # 128 at a time


def test_the_error_of_a_sampled_offset_is_that_of_its_eighths(llama, monkeypatch):
    monkeypatch.setattr(queries_keys, "MOST_ROWS", 128)
    probed = weight_probes(llama, ["preferred_offset"])
    drawn = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:128]
    rows = llama.hooked.W_E.detach()[drawn]
    offsets = range(probes_over_training._OFFSETS)
    each = [positional_preference(llama, offsets, source=part).argmax(0).float() for part in rows.chunk(8)]
    torch.testing.assert_close(probed.errors["preferred_offset"], torch.stack(each).std(0) / 8**0.5)
    whole = positional_preference(llama, offsets, source=rows).argmax(0).float()
    assert torch.equal(probed.values["preferred_offset"], whole)
