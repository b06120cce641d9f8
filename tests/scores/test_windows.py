"""Chance where heads cannot see everything: windows and chunks against masks written the slow way."""

import pytest
import torch
import transformers as hf
from families import LLAMA_LIKE, random_network

from induction_lab import HeadScores, HookedModel, attention_spread, repeated_tokens, score_heads
from induction_lab.attention.exact import Attention
from induction_lab.scores.attention_scores import attention_targets
from induction_lab.scores.chance import EvenAttention

WINDOW = 16


def of(config) -> HookedModel:
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(0.0, 0.25)
    return HookedModel(network, name="windowed")


def gemma3(window: int = WINDOW) -> HookedModel:
    shape = dict(LLAMA_LIKE, head_dim=12, num_hidden_layers=6, sliding_window=window, query_pre_attn_scalar=12)
    return of(hf.Gemma3TextConfig(**shape))


MODELS = {
    "mistral": lambda: of(hf.MistralConfig(**LLAMA_LIKE, head_dim=12, sliding_window=WINDOW)),
    "gemma3": gemma3,
    "gpt_neo": lambda: HookedModel(random_network("gpt_neo"), name="gpt_neo"),
}


def visible(model: HookedModel, tokens: torch.Tensor) -> torch.Tensor:
    """`[layer, query, key]`, from the zeros of the matrices that transformers makes."""
    pattern = model.network(tokens, output_attentions=True).attentions
    return torch.stack([(A > 0).any(1).any(0) for A in pattern])


@pytest.mark.parametrize("period", [5, 15, 17, 50])
@pytest.mark.parametrize("kind", MODELS)
def test_chance_is_that_of_the_keys_that_can_be_seen(kind, period):
    model = MODELS[kind]()
    prompts = repeated_tokens(model, n_prompts=2, period=period)
    scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token"])
    seen = visible(model, prompts.tokens)
    queries, table = range(period + 1, 2 * period + 1), scores.to_dataframe()
    for layer, mask in enumerate(seen):
        slow = sum(float(mask[t, t - period + 1]) / float(mask[t].sum()) for t in queries) / period
        rows = table[(table["layer"] == layer) & (table["score"] == "prefix_matching")]
        assert rows["uniform"].tolist() == pytest.approx([slow] * model.n_heads, abs=1e-6)
    reached = [float(torch.stack([mask[t, t - period + 1] for t in queries]).float().mean()) for mask in seen]
    said = scores.provenance["out_of_reach"].get("prefix_matching", "")
    assert bool(said) == any(share < 1 for share in reached)
    if kind == "mistral":
        assert (reached == [0.0, 0.0]) == (period >= 17)
        assert ("in every layer: their attention windows hold no key of it" in said) == (period >= 17)
    assert "previous_token" not in scores.provenance["out_of_reach"]


def test_gemma_3_says_which_layers_cannot_see_the_copy(tmp_path):
    model = gemma3()
    scores = score_heads(model, repeated_tokens(model, n_prompts=4, period=30), chance_test=True)
    assert scores.provenance["out_of_reach"]["prefix_matching"].startswith("out of reach in layers 0, 1, 2, 3, 4: ")
    assert scores.uniform_by_layer["prefix_matching"][:5].tolist() == [0] * 5
    assert {head.layer for head in scores.significant("prefix_matching", rate=1.0)} <= {5}
    again = HeadScores.load(scores.save(tmp_path / "scores.csv"))
    assert again.uniform == pytest.approx(scores.uniform, nan_ok=True)
    assert torch.equal(again.uniform_by_layer["prefix_matching"], scores.uniform_by_layer["prefix_matching"])


def test_heads_that_look_evenly_through_their_window_are_not_above_chance():
    model = MODELS["mistral"]()
    with torch.no_grad():
        for layer in model.network.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    scores = score_heads(model, repeated_tokens(model, n_prompts=4, period=10), scores=["prefix_matching"])
    torch.testing.assert_close(scores["prefix_matching"], torch.full((2, 4), scores.uniform["prefix_matching"]))
    slow = sum(1 / min(t + 1, WINDOW) for t in range(11, 21)) / 10
    assert scores.uniform["prefix_matching"] == pytest.approx(slow, abs=1e-6) and scores.uniform_by_layer


@pytest.mark.parametrize("additive", [False, True])
def test_chunks_hide_what_lies_before_them(additive):
    prompts = repeated_tokens(gemma3(), n_prompts=3, period=6)
    n, place = 13, torch.arange(13)
    chunk = (place[:, None] // 4 == place // 4) & (place <= place[:, None])
    q, lse = torch.zeros(3, 2, n, 4), torch.zeros(3, 2, n)
    mask = torch.zeros(n, n).masked_fill(~chunk, torch.finfo(torch.float32).min) if additive else chunk
    even = EvenAttention(attention_targets(prompts, ["prefix_matching", "previous_token"]), n_layers=2)
    even.see(Attention(1, q, q, q, q, lse, 0.5, mask[None, None]))
    slow = {
        "prefix_matching": [(t, t - 5) for t in range(7, 13)],
        "previous_token": [(t, t - 1) for t in range(2, 13)],
    }
    for name, pairs in slow.items():
        uniform = sum(float(chunk[t, s]) / float(chunk[t].sum()) for t, s in pairs) / len(pairs)
        assert even.uniform[name][:, 1].tolist() == pytest.approx([uniform] * 3, abs=1e-6)
        share = sum(float(chunk[t, s]) for t, s in pairs) / len(pairs)
        assert even.in_reach[name][:, 1].tolist() == pytest.approx([share] * 3)
        full = sum(1 / (t + 1) for t, _ in pairs) / len(pairs)
        assert even.uniform[name][:, 0].tolist() == pytest.approx([full] * 3, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "bloom", "gptj"])
def test_where_everything_is_seen_nothing_is_said(family):
    model = HookedModel(random_network(family), name=family)
    scores = score_heads(model, repeated_tokens(model, n_prompts=2, period=20))
    assert not scores.uniform_by_layer and not scores.provenance["out_of_reach"]


def test_even_attention_is_as_spread_as_is_said_of_it_under_windows():
    model = gemma3()
    with torch.no_grad():
        for layer in model.network.model.layers:
            layer.self_attn.q_proj.weight.zero_()
    prompts = repeated_tokens(model, n_prompts=2, period=20)
    spread = attention_spread(model, prompts)
    assert spread["value"].tolist() == pytest.approx(spread["uniform"].tolist(), rel=1e-4)
    addresses = spread[spread["quantity"] == "addresses"].groupby("layer")["uniform"].first()
    slow = [sum(min(t + 1, window) for t in range(1, 41)) / 40 for window in (WINDOW, 41)]
    assert addresses.tolist() == pytest.approx([slow[0]] * 5 + [slow[1]], rel=1e-5)
