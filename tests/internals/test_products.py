"""Architectures that attend by themselves and that TransformerLens does not hook: read off the products they make."""

import pytest
import torch
import transformers as hf

from induction_lab import HookedModel, ablate, capture, score_heads
from induction_lab.data.prompts import Prompts
from induction_lab.internals.reading import read_attention

SIZES = dict(vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96)
DECODER = dict(vocab_size=300, d_model=48, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=96)
CONFIGS = {
    "megatron_bert": lambda: hf.MegatronBertConfig(**SIZES, is_decoder=True),
    "roformer": lambda: hf.RoFormerConfig(**SIZES, is_decoder=True),
    "rembert": lambda: hf.RemBertConfig(
        **SIZES, is_decoder=True, input_embedding_size=48, output_embedding_size=96, max_position_embeddings=64
    ),
    "gpt_neox_japanese": lambda: hf.GPTNeoXJapaneseConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_multiple_size=2
    ),
    "trocr": lambda: hf.TrOCRConfig(**DECODER),
    "mvp": lambda: hf.MvpConfig(
        **DECODER, encoder_layers=2, encoder_attention_heads=4, is_decoder=True, is_encoder_decoder=False
    ),
}


@pytest.fixture(params=CONFIGS)
def network(request):
    torch.manual_seed(0)
    made = hf.AutoModelForCausalLM.from_config(CONFIGS[request.param](), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                parameter.normal_(0.0, 0.2)
    return made


@pytest.fixture
def prompts():
    block = torch.randint(5, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    return Prompts(torch.cat([torch.ones(2, 1, dtype=torch.long), block, block], 1), period=9, n_repeats=2)


def test_patterns_and_scores_are_those_of_the_network(network, prompts):
    model, patterns = HookedModel(network), {}
    with torch.no_grad():
        own = network(prompts.tokens, output_attentions=True, use_cache=False).attentions
    read_attention(model, prompts.tokens, lambda seen: patterns.update({seen.layer: seen.pattern()}))
    for layer, pattern in enumerate(own):
        torch.testing.assert_close(patterns[layer], pattern, atol=1e-6, rtol=0)
    found = score_heads(model, prompts, scores=["previous_token"])["previous_token"]
    expected = torch.stack([each.diagonal(-1, -2, -1)[..., 1:].mean((0, 2)) for each in own])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_what_is_captured_and_ablated_is_what_the_output_projection_reads(network, prompts):
    model, tokens = HookedModel(network), prompts.tokens
    projection = model.anatomy.output_projection(1)
    read: list[torch.Tensor] = []
    handle = projection.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model.hidden(tokens)
    handle.remove()
    found = capture(model, tokens, ["z", "pattern", "resid_pre"], layers=1)
    torch.testing.assert_close(found["z", 1].flatten(2), read[0], atol=1e-6, rtol=0)
    with ablate(model, ["L1H2"], method="zero"):
        without = model.hidden(tokens)
    with torch.no_grad():
        projection.weight[:, 2 * model.d_head : 3 * model.d_head] = 0  # type: ignore[index]
    torch.testing.assert_close(without, model.hidden(tokens), atol=1e-5, rtol=0)


def test_a_dense_layer_between_stream_and_unembedding_is_refused_by_name(prompts):
    model = HookedModel(hf.AutoModelForCausalLM.from_config(CONFIGS["rembert"]()).eval())
    with pytest.raises(ValueError, match="logit_attribution"):
        score_heads(model, prompts, scores=["logit_attribution"])
    assert score_heads(model, prompts).loss
