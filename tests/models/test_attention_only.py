import json
import math

import pytest
import torch

from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.layers import rotate
from induction_lab.models.attention_only.network import AttentionOnlyTransformer

POSITIONS = ["learned", "rotary", "shortformer", "none"]


def slow_logits(model: AttentionOnlyTransformer, tokens: list[int]) -> torch.Tensor:
    """The paper's equations, one head and one query at a time."""
    cfg, weights = model.cfg, model.state_dict()

    def norm(x, name):
        if not cfg.layer_norm:
            return x
        x = x - x.mean()
        return x / (x.square().mean() + 1e-5).sqrt() * weights[f"{name}.w"] + weights[f"{name}.b"]

    def turned(x, position):
        if cfg.positions != "rotary":
            return x
        out, half = x.clone(), cfg.d_head // 2
        for i in range(half):
            angle = position * 10_000 ** (-i / half)
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i + half] * math.cos(angle) + x[i] * math.sin(angle)
        return out

    stream = [weights["embed.W_E"][token] for token in tokens]
    if cfg.positions == "learned":
        stream = [x + weights["pos_embed.W_pos"][i] for i, x in enumerate(stream)]
    shift = [weights["pos_embed.W_pos"][i] if cfg.positions == "shortformer" else 0.0 for i in range(len(tokens))]
    for layer in range(cfg.n_layers):
        block = f"blocks.{layer}"
        read = [norm(x + p, f"{block}.ln1") for x, p in zip(stream, shift, strict=True)]
        valued = [norm(x, f"{block}.ln1") for x in stream]
        added = [torch.zeros(cfg.d_model) for _ in tokens]
        for head in range(cfg.n_heads):
            W_Q, W_K, W_V, W_O = (weights[f"{block}.attn.{name}"][head] for name in ("W_Q", "W_K", "W_V", "W_O"))
            keys = [x @ W_K for x in read]
            if cfg.smeared_keys:
                own = torch.sigmoid(weights[f"{block}.attn.smear"][head])
                keys = keys[:1] + [own * keys[i] + (1 - own) * keys[i - 1] for i in range(1, len(keys))]
            for t in range(len(tokens)):
                q = turned(read[t] @ W_Q, t)
                scores = torch.stack([q @ turned(keys[s], s) for s in range(t + 1)]) / cfg.d_head**0.5
                probabilities = scores.softmax(0)
                added[t] = added[t] + sum(p * valued[s] @ W_V @ W_O for s, p in enumerate(probabilities))
        stream = [x + y for x, y in zip(stream, added, strict=True)]
        if cfg.d_mlp is not None:
            mlp = {name: weights[f"{block}.mlp.{name}"] for name in ("W_in", "b_in", "W_out", "b_out")}
            hidden = [torch.nn.functional.gelu(norm(x, f"{block}.ln2") @ mlp["W_in"] + mlp["b_in"]) for x in stream]
            stream = [x + h @ mlp["W_out"] + mlp["b_out"] for x, h in zip(stream, hidden, strict=True)]
    return torch.stack([norm(x, "ln_final") @ weights["unembed.W_U"] for x in stream])


def tiny(**changes) -> AttentionOnlyTransformer:
    shape = dict(n_layers=2, n_heads=2, d_model=12, d_head=6, d_vocab=20, n_ctx=10)
    model = AttentionOnlyTransformer(AttentionOnlyConfig(**{**shape, **changes}), seed=1)
    with torch.no_grad():  # norms, smears and biases start at values that would hide mistakes
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("extras", [{}, dict(layer_norm=False), dict(smeared_keys=True), dict(d_mlp=24)])
@torch.no_grad()
def test_logits_are_those_of_the_papers_equations(positions, extras):
    model = tiny(positions=positions, **extras)
    tokens = [0, 7, 3, 7, 19, 3, 1]
    torch.testing.assert_close(model(torch.tensor([tokens]))[0], slow_logits(model, tokens), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS)
@torch.no_grad()
def test_hooking_patterns_and_results_changes_nothing(positions):
    model = tiny(positions=positions, smeared_keys=True, d_mlp=8)
    tokens = torch.randint(20, (3, 9))
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(logits, model(tokens), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(cache["blocks.0.attn.hook_pattern"].sum(-1), torch.ones(3, 2, 9))
    results = cache["blocks.1.attn.hook_result"].sum(2)
    torch.testing.assert_close(results, cache["blocks.1.hook_attn_out"], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_stream_is_the_embedding_and_all_that_was_added():
    model = tiny(d_mlp=8)
    _, cache = model.run_with_cache(torch.randint(20, (2, 9)))
    total = cache["hook_embed"]
    for layer in range(2):
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_pre"], total)
        total = total + cache[f"blocks.{layer}.hook_attn_out"] + cache[f"blocks.{layer}.hook_mlp_out"]
        torch.testing.assert_close(cache[f"blocks.{layer}.hook_resid_post"], total)


@torch.no_grad()
def test_a_hook_on_the_pattern_acts():
    model = tiny()
    tokens = torch.randint(20, (2, 9))
    hooks = [(f"blocks.{layer}.attn.hook_pattern", lambda pattern, hook: pattern * 0) for layer in range(2)]
    without = model.run_with_hooks(tokens, fwd_hooks=hooks)
    direct = model.unembed(model.ln_final(model.embed(tokens)))
    torch.testing.assert_close(without, direct, atol=1e-6, rtol=1e-5)


def test_rotation_makes_products_depend_on_the_offset_alone():
    q, k = torch.randn(2, 8)
    turned_q, turned_k = (rotate(x.expand(1, 12, 1, 8))[0, :, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    for offset in range(12):
        diagonal = products.diagonal(-offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-5)


def test_weights_have_transformerlens_names_and_shapes():
    model = tiny()
    assert model.W_Q.shape == model.W_K.shape == model.W_V.shape == (2, 2, 12, 6)
    assert model.W_O.shape == (2, 2, 6, 12)
    assert model.W_E.shape == (20, 12) and model.W_U.shape == (12, 20)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_saved_model_comes_back_the_same(tmp_path, positions):
    model = tiny(positions=positions, smeared_keys=True, d_mlp=8)
    model.save(tmp_path / "new" / "folder")
    again = AttentionOnlyTransformer.load(tmp_path / "new" / "folder")
    assert again.cfg == model.cfg
    tokens = torch.randint(20, (2, 9))
    torch.testing.assert_close(again(tokens), model(tokens), atol=0, rtol=0)
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (tiny_weights(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again) and not torch.equal(first, other)


def tiny_weights(seed: int) -> torch.Tensor:
    return AttentionOnlyTransformer(AttentionOnlyConfig(), seed=seed).W_Q


def test_damaged_or_foreign_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no readable AttentionOnlyTransformer"):
        AttentionOnlyTransformer.load(tmp_path)
    model = tiny()
    model.save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="model.save"):
        AttentionOnlyTransformer.load(tmp_path)
    weights.write_bytes(whole)
    facts = json.loads(config.read_text())
    for wrong, message in [
        ({"d_model": 16}, "size mismatch"),
        ({"colour": "red"}, "unknown entries"),
        ({"model_type": "gpt2"}, "not of model_type"),
    ]:
        config.write_text(json.dumps(facts | wrong))
        with pytest.raises(ValueError, match=message):
            AttentionOnlyTransformer.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(n_layers=-1), "`n_layers` must be"),
        (dict(d_head=5), "even `d_head`"),
        (dict(bos_token_id=64), "`bos_token_id` must lie"),
    ],
)
def test_impossible_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AttentionOnlyConfig(**changes)


def test_prompts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="11 tokens, the model's context only 10"):
        tiny()(torch.zeros(1, 11, dtype=torch.long))
    with pytest.raises(ValueError, match=r"must lie in \[0, 20\)"):
        tiny()(torch.tensor([[0, 20]]))


def test_shapes_of_mlps_that_are_no_whole_numbers_are_refused():
    for wrong in (0, -3):
        with pytest.raises(ValueError, match="`d_mlp` must be a whole number"):
            AttentionOnlyConfig(d_mlp=wrong)


def test_the_gradient_of_a_rotation_is_that_of_its_formula():
    x = torch.randn(2, 9, 3, 8, requires_grad=True)
    weight = torch.randn(2, 9, 3, 8)
    (rotate(x) * weight).sum().backward()
    plain = x.detach().clone().requires_grad_()
    angle = torch.arange(9.0)[:, None, None] * 10_000.0 ** (-torch.arange(4.0) / 4)
    a, b = plain[..., :4], plain[..., 4:]
    turned = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)
    (turned * weight).sum().backward()
    torch.testing.assert_close(rotate(x), turned, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad, plain.grad, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(x.grad, weight)


def test_a_rotation_can_be_stacked():
    x = torch.randn(3, 2, 7, 2, 4)
    stacked = torch.func.vmap(torch.func.grad(lambda y: rotate(y).square().sum()))(x)
    torch.testing.assert_close(stacked, 2 * x, atol=1e-5, rtol=1e-5)  # a rotation keeps lengths
    torch.testing.assert_close(rotate(x[0]), torch.func.vmap(rotate)(x)[0])


def test_a_norm_is_the_same_to_whoever_hooks_it_and_its_hooks_fire():
    model, tokens, seen = tiny(), torch.randint(20, (2, 9)), []
    plain = model(tokens)
    for name in ("hook_scale", "hook_normalized"):
        hooks = [(f"blocks.0.ln1.{name}", lambda x, hook: seen.append((hook.name, x.shape)))]
        torch.testing.assert_close(model.run_with_hooks(tokens, fwd_hooks=hooks), plain, atol=1e-6, rtol=1e-5)
    assert [shape for _, shape in seen] == [(2, 9, 1), (2, 9, 12)]
    halved = model.run_with_hooks(tokens, fwd_hooks=[("ln_final.hook_normalized", lambda x, hook: x / 2)])
    torch.testing.assert_close(halved, plain / 2, atol=1e-6, rtol=1e-5)


def test_only_who_has_looked_at_tokens_passes_them_unseen():
    model = tiny()
    model.trusts_tokens = True
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.tensor([[0, 20]]))
    assert not tiny().trusts_tokens  # of one network, not of all
