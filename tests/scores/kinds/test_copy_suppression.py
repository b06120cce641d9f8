"""Copy suppression, from weights and in what heads do: against whole matrices, and heads by hand."""

import math

import pytest
import torch
import transformers as hf
from by_hand import model_of, own_model
from families import LLAMA_LIKE, random_network

from induction_lab import (
    FoldedWeights,
    HookedModel,
    Prompts,
    capture,
    load_model,
    repeated_tokens,
    score_heads,
    stream_rows,
)
from induction_lab.models.attention_only.by_hand import REST, SHARP, SUPPRESSOR
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionLayer, AttentionOnlyTransformer

N = 24  # tokens


def ranks_by_sorting(model):
    """Share of all tokens whose own logit is among the lowest 5 % of its row, from whole circuits."""
    folded = FoldedWeights(model)
    found = torch.full((model.n_layers, model.n_heads), torch.nan)
    for layer in model.anatomy.attending:
        source = "effective" if layer and model.anatomy.has_mlps else "embedding"
        _, _, W_V, W_O = folded.layer(layer)
        for head in range(model.n_heads):
            rows = stream_rows(model, source) @ W_V[head * model.n_kv_heads // model.n_heads] @ W_O[head]
            order = (rows @ folded.readers.mT).sort(-1).indices
            place = (order == torch.arange(model.d_vocab)[:, None]).int().argmax(-1)
            found[layer, head] = (place < int(0.05 * model.d_vocab)).float().mean()
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3", "gptj", "granite", "cohere", "small"])
def test_the_share_of_tokens_is_that_of_sorted_rows(name):
    model = model_of(name)
    found = score_heads(model, scores="copy_suppression", loss=False)
    torch.testing.assert_close(found["copy_suppression"], ranks_by_sorting(model), atol=2e-3, rtol=0)
    assert found.uniform["copy_suppression"] == 0.05


def shares_by_loops(model, prompts):
    kept, folded = capture(model, prompts.tokens, ["pattern", "v", "resid_pre"]), FoldedWeights(model)
    found = torch.zeros(len(prompts), model.n_layers, model.n_heads)
    with torch.no_grad():
        readers = folded.readers - folded.readers.mean(0)
        for layer in range(model.n_layers):
            lens = model.unembed(model.final_norm(kept["resid_pre", layer]))
            W_O, v = folded.layer(layer).W_O, kept["v", layer]
            for p, row in enumerate(prompts.tokens.tolist()):
                for head in range(model.n_heads):
                    lowered = total = 0.0
                    for t in range(2, int(prompts.real_lengths[p])):
                        for s in range(1, t):
                            value = v[p, s, head * v.shape[2] // model.n_heads]
                            adds = kept["pattern", layer][p, head, t, s] * (value @ W_O[head] @ readers[row[s]])
                            total += abs(float(adds))
                            others = sum(bool(lens[p, t, x] >= lens[p, t, row[s]]) for x in row[1:t] if x != row[s])
                            lowered += max(0.0, -float(adds)) * (others < math.ceil(0.05 * (t - 1)))
                    found[p, layer, head] = lowered / total
    return found


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "bloom", "phi", "small"])
def test_what_lowers_expected_tokens_is_that_of_whole_patterns(name):
    model = model_of(name)
    prompts = repeated_tokens(model, n_prompts=2, period=11, n_repeats=2)
    ragged = Prompts(prompts.tokens, torch.tensor([23, 15]))
    for given in (prompts, ragged):
        found = score_heads(model, given, scores="copy_suppression_share", loss=False, batch_size=1)
        expected = shares_by_loops(model, given)
        torch.testing.assert_close(found["copy_suppression_share"], expected.mean(0), atol=2e-4, rtol=1e-3)


def suppressor(*, raises: float = -1.0, looks_for: str = "expected") -> HookedModel:
    """Token x says x + 1. The head looks for x + 1, or for x, among earlier tokens and writes it with this sign."""
    config = AttentionOnlyConfig(
        n_layers=1, n_heads=1, d_model=2 * N, d_head=N + 1, d_vocab=N, n_ctx=64, positions="none", layer_norm=False
    )
    network = AttentionOnlyTransformer(config)
    following = torch.eye(N).roll(1, 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.embed.W_E.copy_(torch.cat([torch.eye(N), following / 4], 1))
        network.unembed.W_U[N:] = 20 * torch.eye(N)
        layer = next(module for module in network.modules() if isinstance(module, AttentionLayer))
        wanted = following if looks_for == "expected" else torch.eye(N)
        layer.W_Q[0, :N, :N] = wanted * SHARP * config.d_head**0.5
        layer.W_K[0, :N, :N] = torch.eye(N)
        layer.W_Q[0, :N, -1], layer.W_K[0, 0, -1] = REST * config.d_head**0.5, 1.0  # on BOS, which is token 0
        layer.W_V[0, :N, :N] = torch.eye(N)
        layer.W_O[0, :N, N:] = raises * torch.eye(N)
    return HookedModel(network.eval(), name="by hand")


def score(model, **how):
    both = ["copy_suppression", "copy_suppression_share"]
    found = score_heads(model, repeated_tokens(model, period=N - 1), scores=both, loss=False, **how)
    return [float(found[name][0, 0]) for name in both]


def test_a_head_that_lowers_what_is_expected_scores_one_and_one_that_raises_it_nothing():
    assert min(score(suppressor())) > 0.999
    assert max(score(suppressor(raises=1.0))) < 1e-6


def test_a_head_that_lowers_what_nobody_expects_suppresses_copies_by_its_weights_only():
    model = suppressor(looks_for="own")
    weights, behaviour = score(model)
    assert weights > 0.999 and behaviour < 0.01


def test_the_suppressor_of_the_gallery_is_found(gallery):
    found = score_heads(gallery, scores="copy_suppression", loss=False)
    values = found["copy_suppression"]
    assert values[SUPPRESSOR] > 0.99 and values.flatten().sort().values[-2] < 0.1
    assert found.top("copy_suppression", 1)[0][0] == SUPPRESSOR
    lowest = found.top("copy_suppression", 2, lowest=True)
    assert [value for _, value in lowest] == sorted(values.flatten().tolist())[:2]


def test_a_head_that_writes_nothing_scores_nothing():
    model = own_model()
    with torch.no_grad():
        next(module for module in model.network.modules() if isinstance(module, AttentionLayer)).W_O.zero_()
    found = score_heads(model, scores=["copy_suppression", "copy_suppression_share"], loss=False)
    assert not found["copy_suppression"][0].any() and not found["copy_suppression_share"][0].any()


def test_hybrids_are_scored_where_they_attend_and_refused_without_an_effective_embedding():
    for kinds in (["full_attention", "conv", "full_attention"], ["conv", "full_attention", "conv"]):
        config = hf.Lfm2Config(**{**LLAMA_LIKE, "num_hidden_layers": 3}, layer_types=kinds)
        model = HookedModel(hf.AutoModelForCausalLM.from_config(config).eval())
        share = score_heads(model, scores="copy_suppression_share", loss=False)
        assert share.layers == model.anatomy.attending
        if kinds[0] == "conv":
            with pytest.raises(ValueError, match="copy_suppression: .*ayer 0"):
                score_heads(model, scores="copy_suppression")
        else:
            found = score_heads(model, scores="copy_suppression", loss=False)
            assert found.layers == [0, 2] and found["copy_suppression"][1].isnan().all()


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_models_on_disk_score_as_in_memory(tmp_path, family):
    random_network(family).save_pretrained(tmp_path)
    usual, kept = load_model(tmp_path), load_model(tmp_path, offload=True)
    prompts = repeated_tokens(usual, n_prompts=5, period=9)
    names = ["copy_suppression", "copy_suppression_share"]
    found, expected = (score_heads(model, prompts, scores=names, loss=False, batch_size=2) for model in (kept, usual))
    for name in names:
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
