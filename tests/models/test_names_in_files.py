"""Files whose weights are not those of the network that stands beside them."""

import json

import pytest
import torch
from families import FAMILIES, random_network
from safetensors.torch import load_file, save_file

from induction_lab import load_model
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.names_in_files import misfits, plain_name

TOKENS = torch.arange(3, 20)[None]


def rewritten(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    return folder


def own_folder(folder):
    AttentionOnlyTransformer(AttentionOnlyConfig()).save(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_saves_is_loaded_tied_weights_and_all(tmp_path, family):
    network = random_network(family)
    network.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path).network.state_dict(), network.state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom"])  # tied and not, through the interface and outside
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, family, prefix):
    network = random_network(family)
    network.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: {prefix + name: tensor for name, tensor in weights.items()})
    torch.testing.assert_close(load_model(tmp_path).network.state_dict(), network.state_dict(), atol=0, rtol=0)


def test_blocks_that_were_compiled_each_by_itself_are_loaded(tmp_path):
    network = random_network("llama")
    network.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda weights: {k.replace("layers.0.", "layers.0._orig_mod."): w for k, w in weights.items()})
    torch.testing.assert_close(load_model(tmp_path).network.state_dict(), network.state_dict(), atol=0, rtol=0)


CHANGES = {
    "a layer is missing": (
        lambda weights: {name: tensor for name, tensor in weights.items() if ".1." not in name},
        r"are missing \(.*\.1\.",
    ),
    "the unembedding is missing": (
        lambda weights: {n: t for n, t in weights.items() if "lm_head" not in n and "W_U" not in n},
        r"1 are missing \((lm_head.weight|unembed.W_U)\)",
    ),
    "a layer too many": (
        lambda weights: {**weights, **{n.replace(".1.", ".2."): t.clone() for n, t in weights.items() if ".1." in n}},
        r"are foreign to it \(.*\.2\.",
    ),
    "an adapter's weights among them": (
        lambda weights: {**weights, "blocks.0.attn.lora_A": torch.zeros(2)},
        r"1 are foreign to it \(blocks\.0\.attn\.lora_A\)",
    ),
    "names of another kind of model": (
        lambda weights: {f"encoder.{name}": tensor for name, tensor in weights.items()},
        r"are missing \(.*, …\) and \d+ are foreign to it \(encoder\.",
    ),
}


@pytest.mark.parametrize("kind", ["llama", "our own"])
@pytest.mark.parametrize("case", CHANGES)
def test_weights_that_do_not_fit_are_refused_by_name(tmp_path, case, kind):
    own_folder(tmp_path) if kind == "our own" else random_network(kind).save_pretrained(tmp_path)
    change, message = CHANGES[case]
    with pytest.raises(ValueError, match=message):
        load_model(rewritten(tmp_path, change))


def test_a_configuration_of_fewer_layers_than_the_weights_have_is_refused(tmp_path):
    random_network("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    with pytest.raises(ValueError, match=r"cannot be loaded: its weights do not fit .* foreign to it \(model.layers.1"):
        load_model(tmp_path)


def test_our_own_folders_are_freed_of_wrappers_too(tmp_path):
    rewritten(own_folder(tmp_path), lambda weights: {f"_orig_mod.{name}": t for name, t in weights.items()})
    assert torch.equal(
        load_model(tmp_path).logits(TOKENS), AttentionOnlyTransformer(AttentionOnlyConfig())(TOKENS).detach()
    )


def test_masks_of_old_versions_are_no_weights(tmp_path):
    random_network("gpt2").save_pretrained(tmp_path)
    before = load_model(tmp_path).logits(TOKENS)
    old = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    rewritten(tmp_path, lambda weights: {**weights, **old})
    assert torch.equal(load_model(tmp_path).logits(TOKENS), before)
    assert misfits([], ["model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.patch.weight"]) == ""
    assert "c_attn.bias" in misfits([], ["transformer.h.0.attn.c_attn.bias"])  # a bias of weights is no mask


def test_names_that_only_look_wrapped_are_left_alone():
    for name in ("model.submodule.weight", "blocks.0.attn.W_Q", "my_module.weight"):
        assert plain_name(name) == name
