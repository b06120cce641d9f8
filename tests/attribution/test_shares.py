import pytest
import torch
from by_hand import changes_at_held_norms, model_of, own_model, passed, tokens_of, z_of
from families import WINDOW, random_network, shake_norms

from induction_lab import Head, HookedModel, ablate, input_shares, patch_paths, score_shares
from induction_lab.internals.residual_stream import residual_streams
from induction_lab.interventions.senders import find_senders, written_by

NORMALISED = ("gemma2", "gemma3", "olmo2")  # what a layer's heads write together


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("name", ["plain", "mlp", "llama", "gpt2", "phi", "cohere", *NORMALISED, "granite"])
def test_shares_add_up_to_one(name, component):
    shape = {"plain": dict(layer_norm=False), "mlp": dict(layer_norm=True, d_mlp=32)}
    model = own_model(n_layers=3, **shape[name]) if name in shape else model_of(name)
    tokens = tokens_of(model)
    shares = input_shares(model, tokens, (model.n_layers - 1, 1), component, method="mean")
    assert shares["share"].sum() == pytest.approx(1.0, abs=1e-4)
    assert shares["share"].is_monotonic_decreasing and shares["share"].abs().max() < 50
    assert len(shares) == 1 + (model.n_layers - 1) * (model.n_heads + has_mlps(model))


def has_mlps(model):
    return not getattr(model.hooked.cfg, "attn_only", False)


@pytest.mark.parametrize("component", ["q", "k", "v"])
def test_shares_are_inner_products_with_the_whole_change_of_the_input(component):
    """Without LayerNorm the input is linear in the stream: its change is that of the whole stream, sender by sender."""
    model = own_model(layer_norm=False, positions="none", n_layers=2)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    z, other = z_of(model, tokens), z_of(model, others)
    network = model.network
    W = getattr(network.blocks[1].attn, f"W_{component.upper()}")[2].detach()
    found = {}

    def keep(x, hook):
        found.setdefault(hook.name, []).append(x[:, :, 2])

    with torch.no_grad():
        for prompts in (tokens, others):
            network.run_with_hooks(prompts, fwd_hooks=[(f"blocks.1.attn.hook_{component}", keep)])
    before, after = found[f"blocks.1.attn.hook_{component}"]
    whole = after - before
    with torch.no_grad():
        parts = {"embed": (network.W_E[others] - network.W_E[tokens]) @ W}
        for head in range(3):
            parts[f"L0H{head}"] = (other[0] - z[0])[:, :, head] @ network.blocks[0].attn.W_O[head] @ W
    torch.testing.assert_close(sum(parts.values()), whole, atol=1e-4, rtol=1e-4)
    shares = input_shares(model, tokens, "L1H2", component, method="resample", reference=others).set_index("sender")
    for sender, part in parts.items():
        per_prompt = (part * whole).sum((1, 2)) / whole.square().sum((1, 2))
        assert shares.loc[sender, "share"] == pytest.approx(float(per_prompt.mean()), abs=1e-4)
        assert shares.loc[sender, "standard_error"] == pytest.approx(float(per_prompt.std()) / 3**0.5, abs=1e-4)
    assert "MLP0" not in shares.index  # there is none


@pytest.mark.parametrize("component", ["q", "k", "v"])
@pytest.mark.parametrize("family", NORMALISED)
def test_shares_of_heads_whose_sum_is_normalised_are_those_at_the_norm_held_as_it_is(family, component):
    model = HookedModel(shake_norms(random_network(family)), name=family)
    tokens, others = tokens_of(model), tokens_of(model, seed=1)
    block = model.network.model.layers[1]
    head = 1 if component == "q" else 0
    W = getattr(block.self_attn, f"{component}_proj").weight.detach().unflatten(0, (-1, 12))[head]
    norm = getattr(block.self_attn, f"{component}_norm", None)
    if norm is not None:
        gain = norm.weight.detach().unflatten(0, (-1, 12))[0 if family == "gemma3" else head]
        W = W * (gain + 1 if family == "gemma3" else gain)[:, None]
    stream, scale = passed(model.network, tokens)["model.layers.1"][0], 1.0
    if family != "olmo2":  # which has no norm before its heads
        W = W * (1 + block.input_layernorm.weight.detach())
        scale = stream.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    parts = {name: change / scale @ W.T for name, change in changes_at_held_norms(model, tokens, others).items()}
    whole = sum(parts.values())
    shares = input_shares(model, tokens, "L1H1", component, method="resample", reference=others).set_index("sender")
    assert set(shares.index) == set(parts)
    for sender, part in parts.items():
        share = ((part * whole).sum((1, 2)) / whole.square().sum((1, 2))).mean()
        assert shares.loc[sender, "share"] == pytest.approx(float(share), abs=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "granite", "bundled", *NORMALISED])
def test_what_all_senders_wrote_is_the_stream(name):
    model = model_of(name)
    streams = residual_streams(model, tokens_of(model))
    written = dict(written_by(streams, find_senders(model, None, [])))
    written = {str(sender): part for sender, part in written.items()}
    torch.testing.assert_close(sum(written.values()), streams.before[-1], atol=1e-5, rtol=1e-5)
    assert len(written) == 1 + model.n_layers * (model.n_heads + has_mlps(model))
    if name in NORMALISED:  # no biases: an MLP's part is its own, as it comes from its norm
        mlp = passed(model.network, tokens_of(model))["model.layers.1.post_feedforward_layernorm"][1]
        torch.testing.assert_close(written["MLP1"], mlp, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "granite", "qwen3", "gpt_oss", *NORMALISED])
def test_without_biases_the_senders_make_the_whole_score_norms_of_keys_at_their_scale(family):
    model = HookedModel(shake_norms(random_network(family)), name=family)
    shares = score_shares(model, tokens_of(model), (model.n_layers - 1, 1)).set_index("sender")["share"]
    assert abs(shares["bias"]) < 1e-5 and shares.abs().max() > 0.1


@pytest.mark.parametrize("name", ["llama", "bundled"])
def test_scores_have_a_row_for_each_sender_and_one_for_the_biases(name):
    model = model_of(name)
    shares = score_shares(model, tokens_of(model), "L1H2")
    expected = {"embed", "bias", *(f"L0H{head}" for head in range(model.n_heads)), *(["MLP0"] * has_mlps(model))}
    assert set(shares["sender"]) == expected and len(shares) == len(expected)
    assert shares["share"].sum() == pytest.approx(1.0, abs=1e-6) and shares["share"].is_monotonic_decreasing


def test_a_target_stands_above_those_of_the_other_keys_that_are_in_the_window():
    """Pair by pair, the keys of each part projected and rotated by the network's own modules."""
    model = model_of("mistral")
    tokens, layer, head = tokens_of(model, n_prompts=1, period=5), 1, 1
    streams = residual_streams(model, tokens)
    attention, n_pos = streams.attention[layer], tokens.shape[1]
    block, rotary = model.network.model.layers[layer], model.network.model.rotary_emb
    cos, sin = rotary(streams.before[layer], torch.arange(n_pos)[None])
    rms = streams.before[layer].square().mean(-1, keepdim=True).add(1e-6).sqrt()
    slow = {}
    for sender, part in written_by(streams, find_senders(model, None, [Head(layer, head)])):
        with torch.inference_mode():
            k = block.self_attn.k_proj(part / rms * block.input_layernorm.weight)[:, :, :12]  # heads 0 and 1 share it
            k = k * cos + torch.cat([-k[..., 6:], k[..., :6]], -1) * sin
            scores = (attention.q[0, head] @ k[0].T).tolist()
        slow[str(sender)] = 0.0
        for query in range(6, n_pos):
            target, first = query - 4, max(1, query - WINDOW + 1)
            others = [scores[query][key] for key in range(first, query + 1) if key != target]
            slow[str(sender)] += scores[query][target] - sum(others) / len(others)
    shares = score_shares(model, tokens, Head(layer, head)).set_index("sender")["share"]
    for sender, above in slow.items():
        assert shares[sender] == pytest.approx(above / sum(slow.values()), abs=1e-5)
    with pytest.raises(ValueError, match="No induction target lies in the window that L1H1 sees"):
        score_shares(model, tokens_of(model, period=9), Head(layer, head))


def test_score_shares_refuse_what_they_cannot_split(llama):
    with pytest.raises(ValueError, match="no induction target"):
        score_shares(llama, torch.arange(1, 12)[None], "L1H0")
    with pytest.raises(ValueError, match="attends out of sight"):
        score_shares(model_of("bloom"), tokens_of(model_of("bloom")), "L1H0")


@pytest.mark.parametrize("shape", [dict(smeared_keys=True), dict(positions="shortformer")])
def test_shares_are_refused_where_heads_read_more_than_the_stream(shape):
    model = own_model(**shape)
    for function in (input_shares, score_shares):
        with pytest.raises(ValueError, match="so what its heads read is not the stream: use patch_paths"):
            function(model, tokens_of(model), "L1H0")
    assert len(patch_paths(model, tokens_of(model), "L1H0").table)


@pytest.mark.parametrize("component", ["q", "k"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_oss", "mistral", "bundled", "gemma3"])
def test_parts_of_one_score_add_up_to_how_far_it_stands_above_the_other_keys(name, component):
    check_parts(model_of(name), component)


@pytest.mark.parametrize("name", ["llama", "mistral", "bundled"])
def test_parts_of_a_score_of_an_ablated_model_are_those_of_that_model(name):
    model = model_of(name)
    with ablate(model, "L0H0", method="mean", reference=tokens_of(model, n_prompts=3, period=5, seed=1)):
        inside = check_parts(model, "k")
    assert (check_parts(model, "k") - inside).abs().max() > 1e-3


def check_parts(model, component):
    tokens, layer, head = tokens_of(model, n_prompts=1, period=5), model.n_layers - 1, 1
    query, key = 8, 4
    attention = residual_streams(model, tokens).attention[layer]
    scores = attention.scores(heads=torch.tensor([head]), queries=torch.tensor([query]))[0, 0, 0]
    seen = (scores > -1e30).nonzero()[:, 0].tolist()
    others = [s for s in seen if s not in (0, key)]
    above = scores[key] - scores[others].mean()
    parts = score_shares(model, tokens, (layer, head), component, pairs=[(query, key)])
    assert parts["score"].sum() == pytest.approx(float(above), abs=1e-4)
    assert parts["share"].to_numpy() * float(above) == pytest.approx(parts["score"].to_numpy(), abs=1e-4)
    return parts.set_index("sender")["score"].sort_index()


def test_what_a_query_is_made_of_is_found_by_taking_each_writer_out():
    """Without a norm the score is linear in what a sender wrote where the query stands, and only there."""
    model = own_model(layer_norm=False, positions="none", n_layers=2)
    tokens, query, key = tokens_of(model, n_prompts=1), 7, 3
    network, streams = model.network, residual_streams(model, tokens)
    attn = network.blocks[1].attn
    with torch.no_grad():
        k = streams.before[1][0] @ attn.W_K[2]
        others = [s for s in range(1, query + 1) if s != key]
        direction = attn.W_Q[2] @ (k[key] - k[others].mean(0)) * network.cfg.d_head**-0.5
        written = {str(s): part[0, query] for s, part in written_by(streams, find_senders(model, None, [Head(1, 2)]))}
    found = score_shares(model, tokens, "L1H2", "q", pairs=[(query, key)]).set_index("sender")["score"]
    for sender, part in written.items():
        assert found[sender] == pytest.approx(float(part @ direction), abs=1e-5)


@pytest.mark.parametrize("component", ["q", "k"])
@pytest.mark.parametrize("name, head", [("circuit", "L0H1"), ("circuit", "L1H1")])
def test_scores_of_a_head_whose_queries_or_keys_are_nothing_are_nothing(name, head, component):
    """L0H1 of the hand-built circuit has no queries and keys; L1H1 none but on the first token, which is left out."""
    model = model_of(name)
    found = score_shares(model, tokens_of(model), head, component, pairs=[(7, 3)])
    assert found["score"].tolist() == [0.0] * len(found)


@pytest.mark.parametrize("pairs", [[], [(3, 0)], [(2, 3)], [(99, 1)]])
def test_refuses_pairs_that_are_none(pairs):
    model = own_model(n_layers=2)
    with pytest.raises(ValueError, match="pair|Pairs"):
        score_shares(model, tokens_of(model), "L1H0", pairs=pairs)


def test_only_queries_and_keys_make_a_score():
    model = own_model(n_layers=2)
    with pytest.raises(ValueError, match="must be q or k"):
        score_shares(model, tokens_of(model), "L1H0", "v")
