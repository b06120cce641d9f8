"""What the anatomy says of each family, against what is seen when the network runs."""

import pytest
import torch
import transformers as hf
from by_hand import EVERY, OWN, model_of, own_model, tokens_of
from families import D_VOCAB, FAMILIES, INTERFACE, LLAMA_LIKE, random_network

from induction_lab import HookedModel, capture, repeated_tokens
from induction_lab.models.head_weights import head_weights
from induction_lab.weights.rotary import relative_rotations


@pytest.fixture
def model(name):
    return model_of(name)


def inputs_of(model, modules):
    """What enters each module when the network runs, and the tokens that it ran on."""
    seen, tokens = {}, tokens_of(model)

    def keep(module, args, kwargs):
        seen[module] = args[0] if args else kwargs.get("hidden_states", kwargs.get("input_ids"))

    handles = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in modules]
    try:
        model.hidden(tokens)
    finally:
        for handle in handles:
            handle.remove()
    return [seen[module] for module in modules], tokens


@pytest.mark.parametrize("name", EVERY)
def test_blocks_norms_and_the_embedding_read_what_hooks_show(name, model):
    anatomy, layers = model.anatomy, range(model.n_layers)
    norms = [norm for layer in layers if type(norm := anatomy.norm_before(layer)) is not torch.nn.Identity]
    assert len(anatomy.blocks) == model.n_layers and len(norms) in (0, model.n_layers)
    assert (norms == []) == (name in ("olmo2", "circuit"))
    (tokens_in, final, *streams), tokens = inputs_of(
        model, [anatomy.embedding, anatomy.final_norm, *anatomy.blocks, *norms]
    )
    acts = capture(model, tokens, ["resid_pre", "resid_post"])
    assert torch.equal(tokens_in, tokens)
    torch.testing.assert_close(final, acts["resid_post", model.n_layers - 1], atol=1e-4, rtol=1e-4)
    for seen, layer in zip(streams, [*layers, *layers][: len(streams)], strict=True):
        torch.testing.assert_close(seen, acts["resid_pre", layer], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_outputs_are_written_unchanged_where_adding_them_up_makes_the_stream(name, model):
    tokens = tokens_of(model)
    names = ["resid_pre", "z", "resid_post", *["mlp_out"] * model.anatomy.has_mlps]
    acts = capture(model, tokens, names, layers=0)
    written = torch.einsum("bpnh,nhd->bpd", acts["z"], head_weights(model, 0).W_O)
    b_O = getattr(model.hooked.blocks[0].attn, "b_O", None)
    whole = acts["resid_pre"] + written + (0 if b_O is None else b_O)
    whole = whole + acts["mlp_out"] if model.anatomy.has_mlps else whole
    assert model.anatomy.writes_unchanged == torch.allclose(whole, acts["resid_post"], atol=1e-3, rtol=1e-3)
    assert model.anatomy.writes_unchanged == (name not in ("gemma2", "gemma3", "olmo2", "granite"))
    assert (model.anatomy.norm_after(0) is not None) == (name in ("gemma2", "gemma3", "olmo2"))
    assert model.anatomy.output_factor == (0.5 if name == "granite" else 1)


@pytest.mark.parametrize("name", EVERY)
def test_kinds_are_what_the_network_s_own_modules_say(name, model):
    anatomy, modules = model.anatomy, [module for module, _ in model.network.named_modules()]
    assert anatomy.goes_through_interface == (name in INTERFACE or name in OWN)
    assert anatomy.calls_engine == (name in OWN) == (model.hooked is model.network) == (model.bridge is None)
    assert anatomy.is_rotary == (
        any("rotary" in module for module in modules) if name not in (*OWN, "gptj") else name != "circuit"
    )
    assert anatomy.has_mlps == (name not in OWN)
    for component in ("q", "k", "v"):
        norms = [module for module in modules if module.endswith(f"{component}_norm")]
        found = [anatomy.head_norm(layer, component) for layer in range(model.n_layers)]
        assert [norm for norm in found if norm is not None] == [model.network.get_submodule(norm) for norm in norms]
    assert not anatomy.projects_stream and anatomy.keys_read_stream_only
    with torch.inference_mode():
        hidden = anatomy.hidden(tokens_of(model))
        torch.testing.assert_close(anatomy.unembed(hidden), anatomy.logits(tokens_of(model)))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_output_projection_reads_heads_side_by_side(name, model):
    projections = [model.anatomy.output_projection(layer) for layer in range(model.n_layers)]
    inputs, tokens = inputs_of(model, projections)
    z = capture(model, tokens, "z")
    for layer, seen in enumerate(inputs):
        torch.testing.assert_close(seen, z["z", layer].flatten(2), atol=1e-4, rtol=1e-4)


def test_a_stream_that_is_projected_before_the_unembedding_is_told():
    torch.manual_seed(0)
    config = INTERFACE["opt"]()
    config.word_embed_proj_dim = 24
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config).eval())
    assert model.anatomy.projects_stream and model.unembedding.shape == (D_VOCAB, 24)


def test_smeared_and_shortformer_keys_are_made_of_more_than_the_stream():
    for choices, smeared, beside in (
        ({"smeared_keys": True}, True, False),
        ({"positions": "shortformer"}, False, True),
        ({"positions": "learned"}, False, False),
    ):
        anatomy = own_model(**choices).anatomy
        assert (anatomy.smeared_keys, anatomy.positions_beside_stream) == (smeared, beside)
        assert anatomy.keys_read_stream_only == (not smeared and not beside)


def test_own_networks_have_mlps_where_they_are_given_some_and_no_module_that_reads_heads_side_by_side():
    assert own_model(d_mlp=16).anatomy.has_mlps and not own_model().anatomy.has_mlps
    assert not own_model(d_mlp=16, n_layers=0).anatomy.has_mlps
    with pytest.raises(ValueError, match="projects each head's output by itself"):
        own_model().anatomy.output_projection(0)


def test_a_nested_text_configuration_gets_the_same_answers_as_a_flat_one():
    """The language model of a model that also sees: its configuration lies inside another one."""
    torch.manual_seed(0)
    text = dict(LLAMA_LIKE, head_dim=12, residual_multiplier=0.5)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=8)
    config = hf.LlavaConfig(
        text_config=hf.GraniteConfig(**text),
        vision_config=hf.CLIPVisionConfig(**vision, patch_size=4),
        image_token_index=D_VOCAB - 1,
    )
    model = HookedModel(hf.LlavaForConditionalGeneration(config).eval())
    flat = HookedModel(random_network("granite"))
    assert not hasattr(config, "rope_parameters") and not hasattr(config, "residual_multiplier")
    for fact in ("is_rotary", "output_factor", "goes_through_interface"):
        assert getattr(model.anatomy, fact) == getattr(flat.anatomy, fact) in (True, 0.5), fact
    acts = capture(model, repeated_tokens(model, n_prompts=2, period=5), ["q", "rot_q"], layers=1)
    R = relative_rotations(model, range(11))[1]
    turned = torch.einsum("bpnd,pde->bpne", acts["q"], R)
    torch.testing.assert_close(acts["rot_q"], turned, atol=1e-4, rtol=1e-4)
