"""Context matching: prompts, an obvious computation, a head by hand that knows places, and what chance is."""

import pytest
import torch

from induction_lab import HookedModel, capture, load_model, score_heads
from induction_lab.models.attention_only.by_hand import SHARP
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionLayer, AttentionOnlyTransformer
from induction_lab.scores.kinds.context_matching import ContextMatching

D_VOCAB, N_CTX = 30, 321


def chunks_of(prompts):
    return [[tuple(row[1 + 8 * i : 9 + 8 * i]) for i in range(40)] for row in prompts.tokens.tolist()]


def random_model(**shape) -> HookedModel:
    network = AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=D_VOCAB, n_ctx=N_CTX, **shape), seed=1).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "attn.W_" in name:
                parameter.mul_(6.0)
    return HookedModel(network, name="random")


def test_prompts_are_eight_tokens_in_four_orders_ten_times_each():
    prompts = ContextMatching().own_prompts(random_model(), seed=3)
    assert prompts.tokens.shape == (16, 321) and prompts.has_bos
    for chunks in chunks_of(prompts):
        orders = set(chunks)
        assert len(orders) == 4 and all(chunks.count(order) == 10 for order in orders)
        assert len({frozenset(order) for order in orders}) == 1 and len(chunks[0]) == len(set(chunks[0])) == 8
        assert all(len({order[place] for order in orders}) == 4 for place in range(8))
    again = ContextMatching().own_prompts(random_model(), seed=3).tokens
    assert torch.equal(again, prompts.tokens) and len(set(map(str, prompts.tokens.tolist()))) == 16


def test_the_share_is_that_of_whole_patterns():
    model = random_model()
    found = score_heads(model, scores="context_matching", loss=False)["context_matching"]
    prompts = ContextMatching().own_prompts(model, seed=0)
    expected = torch.zeros(model.n_layers, model.n_heads)
    for p, chunks in enumerate(chunks_of(prompts)[:3]):
        kept = capture(model, prompts.tokens[p : p + 1], "pattern")
        for layer in range(model.n_layers):
            for head in range(model.n_heads):
                rows, right = kept["pattern", layer][0, head], []
                for t in range(1, 321):
                    own = (t - 1) // 8
                    if chunks[own] in chunks[:own]:
                        looked = [float(rows[t, 1 + 8 * i : 9 + 8 * i].sum()) for i in range(own)]
                        right.append(chunks[looked.index(max(looked))] == chunks[own])
                expected[layer, head] += sum(right) / len(right) / 3
    three = ContextMatching()
    three.own_prompts = lambda model, *, seed: prompts[:3]
    three.name = "three"
    torch.testing.assert_close(
        score_heads(model, scores=three, loss=False)["three"], expected, atol=2e-3, rtol=0
    )  # near ties may fall either way
    assert (found - 0.25).abs().max() < 0.1


def by_hand(*, knows_places: bool) -> HookedModel:
    """Looks for its own token, at its own place in a chunk or at any."""
    size = D_VOCAB + 8
    shape = {"n_layers": 1, "n_heads": 1, "d_model": size, "d_head": size, "d_vocab": D_VOCAB, "n_ctx": N_CTX}
    network = AttentionOnlyTransformer(AttentionOnlyConfig(**shape, positions="learned", layer_norm=False))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.embed.W_E[:, :D_VOCAB] = torch.eye(D_VOCAB)
        network.pos_embed.W_pos[1:, D_VOCAB:] = torch.eye(8).repeat(40, 1)
        layer = next(module for module in network.modules() if isinstance(module, AttentionLayer))
        layer.W_Q[0] = torch.eye(size) * SHARP * size**0.5
        layer.W_K[0] = torch.eye(size)
        layer.W_K[0, D_VOCAB:] *= knows_places
    return HookedModel(network.eval(), name="by hand")


def test_a_head_that_knows_places_scores_one_and_one_that_does_not_chance():
    found = score_heads(by_hand(knows_places=True), scores="context_matching", loss=False)
    assert found["context_matching"].item() > 0.999 and found.uniform["context_matching"] == 0.25
    found = score_heads(by_hand(knows_places=False), scores="context_matching", loss=False)
    error = found.standard_errors["context_matching"].item()
    assert found["context_matching"].item() == pytest.approx(0.25, abs=4 * error)


def test_taking_any_earlier_chunk_is_right_one_time_in_four():
    """The latest chunk, the first and a random one, over many draws of prompts."""
    generator, hits = torch.Generator().manual_seed(0), {"latest": [], "first": [], "random": []}
    for seed in range(40):
        for chunks in chunks_of(ContextMatching().own_prompts(random_model(), seed=seed)):
            for i in range(1, 40):
                if chunks[i] in chunks[:i]:
                    any_ = int(torch.randint(i, (1,), generator=generator))
                    for kind, at in (("latest", i - 1), ("first", 0), ("random", any_)):
                        hits[kind].append(chunks[at] == chunks[i])
    for found in hits.values():
        assert sum(found) / len(found) == pytest.approx(0.25, abs=0.012)


def test_models_without_room_are_refused():
    with pytest.raises(ValueError, match="context_matching: Its definition makes prompts of 321 tokens"):
        score_heads(load_model(), scores="context_matching")
