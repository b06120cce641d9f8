import pytest
import torch
import transformers as hf
from families import FAMILIES, random_network
from transformers.models.opt.modeling_opt import OPTForCausalLM

from induction_lab import AttentionOnlyConfig, AttentionOnlyTransformer, HookedModel, stream_rows


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_embedding_is_what_the_architecture_puts_into_the_stream(family):
    model = HookedModel(random_network(family))
    expected = model.network.get_input_embeddings().weight
    if family.startswith("gemma"):
        expected = expected * model.d_model**0.5
    if family == "bloom":
        expected = model.network.transformer.word_embeddings_layernorm(expected)
    torch.testing.assert_close(stream_rows(model), expected, atol=1e-5, rtol=1e-5)


def first_mlp(model, family, x):
    """The first layer's MLP on `x` by the module's own names, attention left out."""
    net = model.network
    if family in ("gpt2", "gptj", "gpt_neo"):
        block = net.transformer.h[0]
        return block.mlp(getattr(block, "ln_2", block.ln_1)(x))
    if family in ("bloom", "mpt"):
        block = (net.transformer.h if family == "bloom" else net.transformer.blocks)[0]
        if family == "bloom":
            return block.mlp(block.post_attention_layernorm(x), torch.zeros_like(x))
        return block.ffn(block.norm_2(x), torch.zeros_like(x))
    if family == "gpt_neox":
        block = net.gpt_neox.layers[0]
        return block.mlp(block.post_attention_layernorm(x))
    if isinstance(net, OPTForCausalLM):
        block = net.model.decoder.layers[0]
        return block.fc2(torch.relu(block.fc1(block.final_layer_norm(x))))
    block = net.model.layers[0]
    if family in ("phi", "cohere"):  # parallel: attention and MLP read the same norm
        return block.mlp(block.input_layernorm(x))
    if family in ("gemma2", "gemma3"):
        return block.post_feedforward_layernorm(block.mlp(block.pre_feedforward_layernorm(x)))
    if family == "olmo2":
        return block.post_feedforward_layernorm(block.mlp(x))
    out = block.mlp(block.post_attention_layernorm(x[None]))
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(x.shape) * getattr(net.config, "residual_multiplier", 1.0)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_effective_embedding_adds_the_first_mlp_with_the_layers_own_norms(family):
    model = HookedModel(random_network(family))
    embedding = stream_rows(model)
    expected = embedding + first_mlp(model, family, embedding)
    scale = float(expected.abs().max())
    torch.testing.assert_close(stream_rows(model, "effective"), expected, atol=1e-4 * scale, rtol=1e-4)


@pytest.mark.parametrize("positions", ["learned", "shortformer"])
def test_positions_are_the_learned_vectors(positions):
    network = AttentionOnlyTransformer(AttentionOnlyConfig(positions=positions))
    torch.testing.assert_close(stream_rows(HookedModel(network), "positions"), network.pos_embed.W_pos.detach())


def test_positions_of_gpt2_and_opt_are_those_of_the_first_to_the_last_place():
    gpt2, opt = HookedModel(random_network("gpt2")), HookedModel(random_network("opt"))
    torch.testing.assert_close(stream_rows(gpt2, "positions"), gpt2.network.transformer.wpe.weight.detach())
    rows = opt.network.model.decoder.embed_positions.weight.detach()[2:]  # OPT counts from two
    torch.testing.assert_close(stream_rows(opt, "positions"), rows)


_SIZES = dict(vocab_size=300, num_hidden_layers=2, num_attention_heads=4, hidden_size=48, is_decoder=True)
_BART = dict(vocab_size=300, d_model=48, decoder_layers=2, decoder_attention_heads=4, is_encoder_decoder=False)
NORMALISED = {  # configuration, where the embeddings' parts are, and the row of the first position
    "bert": (hf.BertConfig(**_SIZES), "bert.embeddings", "position_embeddings", "LayerNorm", 0),
    "electra": (
        hf.ElectraConfig(**_SIZES, embedding_size=24), "electra.embeddings", "position_embeddings", "LayerNorm", 0,
    ),
    "roberta": (hf.RobertaConfig(**_SIZES), "roberta.embeddings", "position_embeddings", "LayerNorm", 2),
    "mbart": (hf.MBartConfig(**_BART), "model.decoder", "embed_positions", "layernorm_embedding", 2),
}  # fmt: skip


@pytest.mark.parametrize("family", NORMALISED)
@torch.no_grad()
def test_positions_enter_the_stream_through_the_norm_that_embeddings_share_with_them(family):
    config, where, positions, norm, first = NORMALISED[family]
    torch.manual_seed(0)
    network = hf.AutoModelForCausalLM.from_config(config).eval()
    part = network.get_submodule(where)
    part.get_submodule(norm).weight.add_(torch.randn_like(part.get_submodule(norm).weight))
    rows = part.get_submodule(positions).weight[first:]
    expected = (rows - rows.mean(-1, keepdim=True)) * part.get_submodule(norm).weight
    if family == "electra":
        expected = expected @ network.electra.embeddings_project.weight.T
    torch.testing.assert_close(stream_rows(HookedModel(network), "positions"), expected, atol=1e-5, rtol=1e-4)
    part.get_submodule(positions).weight.zero_()
    entered = []
    block = HookedModel(network).anatomy.blocks[0]
    block.register_forward_pre_hook(
        lambda _, args, kwargs: entered.append([*args, *kwargs.values()][0]), with_kwargs=True
    )
    network(torch.arange(3, 9)[:, None])
    torch.testing.assert_close(stream_rows(HookedModel(network))[3:9], entered[0][:, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_a_model_without_position_vectors_says_so(family):
    with pytest.raises(ValueError, match="no position vectors"):
        stream_rows(HookedModel(random_network(family)), "positions")


def test_a_model_without_an_mlp_has_no_effective_embedding(small):
    with pytest.raises(ValueError, match="no MLP in its first layer"):
        stream_rows(small, "effective")


def test_the_small_model_with_an_mlp_has_one():
    network = AttentionOnlyTransformer(AttentionOnlyConfig(d_mlp=32, positions="learned"))
    block = network.blocks[0]
    expected = network.W_E + block.mlp(block.ln2(network.W_E)[None])[0]
    torch.testing.assert_close(stream_rows(HookedModel(network), "effective"), expected.detach())
