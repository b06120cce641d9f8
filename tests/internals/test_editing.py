from dataclasses import replace

import pytest
import torch
from by_hand import EVERY, hooks_of, model_of, own_model, tokens_of, with_z
from families import INTERFACE, random_network

from induction_lab import HookedModel
from induction_lab.attention.exact import Attention, HeadOutputs
from induction_lab.internals.batches import chunks
from induction_lab.internals.editing import edit_attention, unhooked
from induction_lab.internals.residual_stream import residual_streams


def as_it_is(attention):
    return attention


def silence(layer, head):
    def edit(attention):
        if attention.layer != layer:
            return attention
        z = attention.z.clone()
        z[:, head] = 0.0
        return replace(attention, z=z)

    return edit


@pytest.mark.parametrize("name", EVERY)
def test_a_run_that_goes_on_from_any_layer_ends_as_the_clean_run_to_the_last_bit(name):
    model = model_of(name)
    tokens = tokens_of(model)
    streams = residual_streams(model, tokens)
    torch.testing.assert_close(streams.normalised, model.hidden(tokens), atol=1e-4, rtol=1e-4)
    for layer in range(model.n_layers + 1):
        assert torch.equal(streams.run(layer), streams.normalised), layer
        assert torch.equal(streams.run(layer, as_it_is), streams.normalised), layer
    with torch.inference_mode():
        assert torch.equal(streams.run(model.n_layers), model.final_norm(streams.before[-1]))
    moved = streams.run(1, stream=streams.before[1] + 0.1 * torch.randn_like(streams.before[1]))
    assert not torch.allclose(moved, streams.normalised, atol=1e-4)  # the control: what enters does matter


@pytest.mark.parametrize("name", EVERY)
def test_an_edit_does_what_a_transformerlens_hook_does_also_when_the_layers_below_are_left_out(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean, before = model.logits(tokens), hooks_of(model)
    streams = residual_streams(model, tokens)
    with edit_attention(model, silence(1, 1)):
        edited, end = model.logits(tokens), model.hidden(tokens)
    if name != "circuit":  # whose L1H1 writes nothing
        assert not torch.allclose(edited, clean, atol=1e-4)
    torch.testing.assert_close(edited, with_z(model, tokens, {(1, 1): 0.0}), atol=1e-4, rtol=1e-4)
    assert torch.equal(streams.run(1, silence(1, 1)), end)
    assert torch.equal(model.logits(tokens), clean)
    assert hooks_of(model) == before


@pytest.mark.parametrize("name", EVERY)
def test_an_edit_sees_every_layer_once_with_what_its_heads_put_out(name):
    model, seen = model_of(name), []
    with edit_attention(model, lambda attention: seen.append(attention) or attention):
        model.hidden(tokens_of(model))
    assert [attention.layer for attention in seen] == list(range(model.n_layers))
    kind = Attention if name in INTERFACE or name in ("bundled", "circuit", "small") else HeadOutputs
    assert all(type(attention) is kind for attention in seen)
    assert all(attention.z.shape == (3, model.n_heads, 19, attention.z.shape[-1]) for attention in seen)


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_rows_are_the_prompts_that_were_asked_for(name):
    model = model_of(name)
    streams = residual_streams(model, tokens_of(model))
    rows = torch.tensor([2, 0, 2, 2])
    torch.testing.assert_close(streams.run(1, prompts=rows), streams.normalised[rows], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streams.run(model.n_layers, prompts=rows), streams.normalised[rows])


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_an_exception_in_an_edit_leaves_blocks_hooks_and_outputs_as_they_were(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean, before, streams = model.logits(tokens), hooks_of(model), residual_streams(model, tokens)

    def broken(attention):
        raise RuntimeError("edit broke")

    with pytest.raises(RuntimeError, match="edit broke"):
        streams.run(1, broken)
    with pytest.raises(RuntimeError, match="edit broke"), edit_attention(model, broken):
        model.hidden(tokens)
    assert all("forward" not in block.__dict__ for block in model.anatomy.blocks)
    assert hooks_of(model) == before
    assert torch.equal(model.logits(tokens), clean)


def test_a_forward_that_somebody_else_has_set_on_a_block_is_put_back():
    model = own_model()
    streams, block = residual_streams(model, tokens_of(model)), model.network.blocks[0]
    mine = block.forward = lambda *args: (_ for _ in ()).throw(RuntimeError("must be left out"))
    streams.run(1)
    assert block.forward is mine


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_implementation_is_what_it_was(attention):
    model = HookedModel(random_network("llama", attention=attention))
    with edit_attention(model, as_it_is):
        assert model.network.config._attn_implementation == "induction_lab"
    assert model.network.config._attn_implementation == attention
    residual_streams(model, tokens_of(model)).run(1)
    assert model.network.config._attn_implementation == attention


def test_of_several_edits_of_a_head_the_innermost_has_its_way_and_other_heads_keep_both():
    model = model_of("llama")
    tokens = tokens_of(model)

    def one(attention):
        z = attention.z.clone()
        z[:, 0] = 1.0
        return replace(attention, z=z) if attention.layer == 1 else attention

    with edit_attention(model, one), edit_attention(model, silence(1, 0)), edit_attention(model, silence(0, 2)):
        both = model.logits(tokens)
    torch.testing.assert_close(both, with_z(model, tokens, {(1, 0): 0.0, (0, 2): 0.0}), atol=1e-4, rtol=1e-4)
    with edit_attention(model, silence(1, 0)), edit_attention(model, one):
        other = model.logits(tokens)
    torch.testing.assert_close(other, with_z(model, tokens, {(1, 0): 1.0}), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "bloom", "bundled"])
def test_the_unhooked_twin_shares_parameters_and_nothing_that_was_done_to_the_model(name):
    model = model_of(name)
    tokens = tokens_of(model)
    clean = model.logits(tokens)

    class Recorder:  # holds a tensor that cannot be copied
        def __call__(self, module, args, output):
            self.kept = (torch.ones(1, requires_grad=True) * 2,)

    handles = [module.register_forward_hook(Recorder()) for module in model.anatomy.blocks]
    try:
        model.logits(tokens)
        with edit_attention(model, silence(0, 0)):
            twin = unhooked(model)
            torch.testing.assert_close(twin.logits(tokens), clean, atol=1e-4, rtol=1e-4)
            assert not torch.allclose(model.logits(tokens), clean, atol=1e-5)
    finally:
        for handle in handles:
            handle.remove()
    assert next(twin.network.parameters()) is next(model.network.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.network.modules() if m._parameters)


@pytest.mark.parametrize(("prompts", "each", "most"), [(1, 5, 4), (7, 5, 10), (6, 3, 9), (3, 100, 4096)])
def test_chunks_hold_every_prompt_once_and_as_many_tokens_as_fit(prompts, each, most):
    slices = chunks(prompts, each, most=most)
    assert [i for some in slices for i in range(prompts)[some]] == list(range(prompts))
    assert all((s.stop - s.start) * each <= most or s.stop - s.start == 1 for s in slices)
    assert all((s.stop - s.start + 1) * each > most for s in slices[:-1])
