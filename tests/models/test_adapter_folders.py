"""Adapters of peft: a folder of one, a model that bears one, and where peft is not installed."""

import builtins

import pytest
import torch
from families import random_network

from induction_lab import HookedModel, load_model

TOKENS = torch.arange(3, 20)[None]


@pytest.fixture
def adapted(tmp_path):
    """A base model in a folder, and a PeftModel of it, saved beside it."""
    peft = pytest.importorskip("peft")
    base = random_network("llama")
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = base.config._name_or_path = str(tmp_path / "base")
    plan = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False, task_type="CAUSAL_LM")
    network = peft.get_peft_model(base, plan).eval()
    network.save_pretrained(tmp_path / "adapter")
    return tmp_path, network


def test_a_folder_and_a_model_in_memory_are_base_and_adapter(adapted):
    folder, network = adapted
    with torch.no_grad():
        expected = network(TOKENS).logits
    plain = load_model(folder / "base").logits(TOKENS)
    for model in (HookedModel(network), load_model(folder / "adapter")):
        torch.testing.assert_close(model.logits(TOKENS), expected, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(model.logits(TOKENS), plain, atol=1e-3)


@pytest.mark.parametrize("with_base", [True, False])
def test_without_peft_an_adapter_is_not_left_out_silently(tmp_path, monkeypatch, with_base):
    if with_base:
        random_network("llama").save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    real = builtins.__import__

    def without(name, *rest):
        if name.split(".")[0] == "peft":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(ValueError, match="adapters"):
        load_model(tmp_path)
