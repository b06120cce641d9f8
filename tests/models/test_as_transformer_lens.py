"""What ARENA's exercises on induction heads call, on models of ours; the numbers against equations written out."""

import pytest
import torch
from transformer_lens import ActivationCache, FactoredMatrix

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, repeated_tokens


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=1e-4)


@pytest.fixture
def network(bundled):
    return bundled.network


@pytest.fixture
def tokens(bundled):
    return repeated_tokens(bundled, n_prompts=2, period=9).tokens


def test_losses_are_those_of_the_logits(network, tokens):
    logits = network(tokens).detach()
    slow = [[-logits[row, t].log_softmax(-1)[tokens[row, t + 1]] for t in range(18)] for row in range(2)]
    slow = torch.tensor([[float(each) for each in row] for row in slow])
    close(network(tokens, return_type="loss", loss_per_token=True), slow)
    close(network(tokens, return_type="loss"), slow.mean())
    both, loss = network(tokens, return_type="both")
    close(both, logits, atol=0)
    close(loss, slow.mean())
    assert network(tokens, return_type=None) is None
    close(network(tokens[0]), logits[:1])
    (gradient,) = torch.autograd.grad(network(tokens, return_type="loss"), network.W_U)
    assert gradient.abs().max() > 0


@pytest.mark.usefixtures("unchecked")
def test_another_kind_of_return_is_refused(network, tokens):
    with pytest.raises(ValueError, match="`return_type` must be logits, loss"):
        network(tokens, return_type="losses")


def test_a_run_gives_transformer_lens_own_cache(network, tokens):
    logits, cache = network.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert isinstance(cache, ActivationCache) and not cache.has_batch_dim
    q, k = (cache[name, 1].transpose(0, 1) for name in ("rot_q", "rot_k"))
    scores = (q @ k.mT * network.cfg.d_head**-0.5).masked_fill(torch.ones(19, 19).triu(1).bool(), -torch.inf)
    close(cache["pattern", 1], scores.softmax(-1))
    close(cache["result", 1], torch.einsum("pnh,nhd->pnd", cache["z", 1], network.W_O[1]))
    parts, labels = cache.decompose_resid(layer=-1, return_labels=True)
    close(parts.sum(0), cache["resid_post", 1])
    assert labels == ["embed", "0_attn_out", "1_attn_out"]
    heads = cache.stack_head_results(layer=-1)
    close(heads.sum(0), cache["attn_out", 0] + cache["attn_out", 1])
    lens = cache.apply_ln_to_stack(parts, layer=-1)
    close(lens.sum(0) * network.ln_final.w + network.ln_final.b, cache["ln_final.hook_normalized"], atol=1e-4)
    plain = network.run_with_cache(tokens, names_filter="hook_embed", return_cache_object=False)[1]
    assert type(plain) is dict and list(plain) == ["hook_embed"]
    close(logits, network(tokens[:1]), atol=1e-4)


def test_direct_logit_attribution_adds_up(network, tokens):
    logits, cache = network.run_with_cache(tokens[:1], remove_batch_dim=True)
    parts = cache.decompose_resid(layer=-1)
    scale = cache["ln_final.hook_scale"]
    centred = (parts - parts.mean(-1, keepdim=True)) / scale * network.ln_final.w
    direction = network.tokens_to_residual_directions(tokens[0, 1:])
    found = (centred[:, :-1] * direction).sum(-1).sum(0) + direction @ network.ln_final.b
    close(found, logits[0, :-1].gather(1, tokens[0, 1:, None])[:, 0], atol=1e-4)


def test_hooks_read_and_change_patterns(network, tokens):
    stripes = torch.zeros(2, 4)

    def read(pattern, hook):
        stripes[hook.layer()] = pattern.diagonal(1 - 9, -2, -1).mean((0, -1))

    network.run_with_hooks(
        tokens, return_type=None, fwd_hooks=[(lambda name: name.endswith("hook_pattern"), read)]
    )  # fmt: skip
    assert stripes[1].max() > 0.8 > 0.3 > stripes[0].max()

    def cut(z, hook):
        z[:, :, 0] = 0
        return z

    ablated = network.run_with_hooks(tokens, return_type="loss", fwd_hooks=[("blocks.1.attn.hook_z", cut)])
    assert ablated != network(tokens, return_type="loss")
    assert not network.blocks[1].attn.hook_z.fwd_hooks


def test_circuits_are_products_of_the_weights(network):
    close(network.OV[1, 2].AB, network.W_V[1, 2] @ network.W_O[1, 2])
    close(network.QK[0, 1].AB, network.W_Q[0, 1] @ network.W_K[0, 1].T)
    full = network.W_E @ FactoredMatrix(network.W_V[1, 3], network.W_O[1, 3]) @ network.W_U
    assert (full.AB.argmax(1) == torch.arange(256)).float().mean() > 0.5  # it copies


def test_position_vectors_have_a_row_for_every_prompt():
    made = AttentionOnlyTransformer(AttentionOnlyConfig(positions="shortformer", layer_norm=False), seed=1)
    tokens = torch.randint(1, 64, (3, 7))
    logits, cache = made.run_with_cache(tokens)
    assert cache["pos_embed"].shape == (3, 7, 64) and torch.equal(cache["pos_embed"][2], made.W_pos[:7])
    close(logits, made(tokens))
    assert made.run_with_cache(tokens[:1], remove_batch_dim=True)[1]["pos_embed"].shape == (7, 64)
    assert made.cfg.positional_embedding_type == "shortformer"


@pytest.mark.parametrize(("positions", "name"), [("learned", "standard"), ("rotary", "rotary"), ("none", "none")])
def test_the_configuration_answers_to_transformer_lens_names(positions, name):
    cfg = AttentionOnlyConfig(positions=positions)
    assert cfg.positional_embedding_type == name and cfg.n_heads == 4 and cfg.d_vocab_out == cfg.d_vocab
    assert cfg.default_prepend_bos and cfg.attn_only and not cfg.final_rms


def test_texts_are_tokens_where_there_is_a_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    cfg = AttentionOnlyConfig(d_vocab=smollm2.d_vocab, n_layers=1, d_model=8, d_head=4, bos_token_id=0)
    made = AttentionOnlyTransformer(cfg)
    made.tokenizer = tokenizer
    ids = tokenizer(" one two", add_special_tokens=False)["input_ids"]
    assert made.to_tokens(" one two").tolist() == [[0, *ids]]
    assert made.to_tokens([" one two", " one"], prepend_bos=False).tolist() == [ids, [ids[0], 0]]
    assert made.to_str_tokens(" one two")[1:] == [" one", " two"] == made.to_str_tokens(torch.tensor([ids]))
    assert made.to_string(torch.tensor(ids)) == " one two" and made.to_single_token(" one") == ids[0]
    close(made(" one two"), made(torch.tensor([[0, *ids]])))
    with pytest.raises(ValueError, match="is 2 tokens"):
        made.to_single_token(" one two")


def test_without_a_tokenizer_tokens_are_numbers_and_texts_are_refused(network):
    assert network.to_str_tokens(torch.tensor([[0, 195]])) == ["0", "195"]
    for ask in (network, network.to_tokens, network.to_str_tokens, network.to_single_token):
        with pytest.raises(ValueError, match="no tokenizer"):
            ask("one two")
    with pytest.raises(ValueError, match="positions|Positions"):
        _ = network.W_pos
