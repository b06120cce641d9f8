"""One head at one position changed: the ends of prompts alone give what whole prompts give, or are not run alone."""

import pytest
import torch
import transformers as hf
from by_hand import EVERY, model_of, tokens_of
from families import INTERFACE, LLAMA_LIKE

from induction_lab import HookedModel
from induction_lab.internals import one_head_changed
from induction_lab.internals.one_head_changed import _Ends, with_each_head_changed
from induction_lab.internals.residual_stream import residual_streams


def changed(model, tokens, at, ahead):
    streams = residual_streams(model, tokens)
    other = residual_streams(model, tokens.flip(0))
    instead = {layer: seen.z[torch.arange(len(at)), :, at] for layer, seen in other.attention.items()}

    def read(end, prompt):
        assert end.shape == (len(prompt), model.d_model)
        return end[:, :7].sum(-1)

    ends = _Ends(streams, at, ahead + 1)
    return with_each_head_changed(streams, instead, at, read, ahead=ahead, tick=lambda *_: None), ends.alone


@pytest.mark.parametrize("family", EVERY)
def test_the_ends_of_prompts_alone_give_what_whole_prompts_give(family, monkeypatch):
    model, at = model_of(family), torch.tensor([12, 9, 15])
    tokens = tokens_of(model)
    found, alone = changed(model, tokens, at, ahead=2)
    assert alone == (family in INTERFACE)
    monkeypatch.setattr(_Ends, "_can", lambda self: False)
    whole, alone = changed(model, tokens, at, ahead=2)
    assert not alone and (family not in INTERFACE or whole.abs().max() > 1e-4)
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-4)


def test_what_does_not_give_the_same_is_run_whole(monkeypatch):
    model, at = model_of("llama"), torch.tensor([12, 9, 15])
    right, _ = changed(model, tokens_of(model), at, ahead=1)
    monkeypatch.setattr(one_head_changed._Ends, "_with_all_keys", lambda self, attention, prompt, places: attention)
    found, alone = changed(model, tokens_of(model), at, ahead=1)
    assert not alone
    torch.testing.assert_close(found, right, atol=1e-5, rtol=1e-4)


def test_layers_that_do_not_attend_are_not_a_number():
    torch.manual_seed(0)
    config = hf.Lfm2Config(**LLAMA_LIKE, layer_types=["conv", "full_attention"])
    model = HookedModel(hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())
    found, alone = changed(model, tokens_of(model), torch.tensor([12, 9, 15]), ahead=1)
    assert not alone and found[:, 0].isnan().all() and not found[:, 1].isnan().any()
