import pytest
import torch
import transformers as hf
from families import FAMILIES, random_network
from ggufs import write_gguf
from tokenizers import Tokenizer, models, pre_tokenizers

from induction_lab import HookedModel, load_model, repeated_tokens, score_heads
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


@pytest.fixture
def saved_llama(tmp_path):
    """A folder as `save_pretrained` writes it, tokenizer and all."""
    network = random_network("llama")
    network.save_pretrained(tmp_path / "llama")
    words = {f"w{i}": i for i in range(300)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="w1").save_pretrained(tmp_path / "llama")
    return tmp_path / "llama", network


@pytest.mark.parametrize("family", FAMILIES)
def test_the_handle_knows_the_shape_of_every_family(family):
    model = HookedModel(random_network(family), name=family)
    assert (model.n_heads, model.d_model, model.d_head, model.d_vocab) == (4, 48, 12, 300)
    assert model.n_layers == (6 if family == "gemma3" else 2)
    assert model.n_ctx == (None if family == "bloom" else 256)
    assert 0 <= model.bos_token_id < 300
    assert model.unembeds_by_parts
    assert family in repr(model)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom"])
def test_both_faces_share_parameters_and_agree(family):
    network = random_network(family)
    tokens = torch.randint(3, 300, (2, 15))
    with torch.no_grad():
        before = network(tokens).logits
    model = HookedModel(network)
    torch.testing.assert_close(model.hooked(tokens), before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(network(tokens).logits, before, atol=0, rtol=0)  # the bridge left it alone
    pointers = {parameter.data_ptr() for parameter in network.parameters()}
    assert pointers <= {parameter.data_ptr() for parameter in model.hooked.parameters()}
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    torch.testing.assert_close(model.hooked(tokens), network(tokens).logits, atol=1e-4, rtol=1e-4)


def test_a_folder_is_loaded_with_its_tokenizer(saved_llama):
    folder, network = saved_llama
    model = load_model(folder)
    tokens = torch.randint(3, 300, (2, 15))
    torch.testing.assert_close(model.logits(tokens), network(tokens).logits, atol=1e-5, rtol=1e-4)
    assert model.name == "llama" and model.tokenizer is not None and model.bos_token_id == 1
    assert score_heads(model, "w5 w6 w7 w5 w6", scores=["prefix_matching"]).provenance["tokenizer_sha256"]


def test_a_folder_of_our_own_is_loaded(tmp_path):
    network = AttentionOnlyTransformer(AttentionOnlyConfig(positions="learned"))
    network.save(tmp_path / "mine")
    model = load_model(str(tmp_path / "mine"), dtype="float64")
    assert model.name == "mine" and model.dtype == torch.float64 and model.n_ctx == 64


def test_a_gguf_file_is_loaded_without_a_word(tmp_path, capfd):
    network, path = random_network("llama"), tmp_path / "tiny.gguf"
    write_gguf(network, path)
    model = load_model(path)
    assert capfd.readouterr().err == ""
    tokens = torch.randint(3, 300, (2, 15))
    torch.testing.assert_close(model.logits(tokens), network(tokens).logits, atol=1e-3, rtol=1e-3)
    assert model.name == "tiny.gguf"


def test_the_real_model_loads_and_talks(smollm2):
    assert (smollm2.n_layers, smollm2.n_heads, smollm2.n_kv_heads, smollm2.d_model) == (30, 9, 3, 576)
    assert smollm2.bos_token_id == 1 and smollm2.n_ctx == 8192
    tokens = torch.tensor([[1, *smollm2.tokenizer("The capital of France is", add_special_tokens=False)["input_ids"]]])
    assert smollm2.tokenizer.decode(smollm2.logits(tokens)[0, -1].argmax()) == " Paris"


def test_dropout_is_off_while_measuring_and_back_afterwards():
    network = random_network("gpt2").train()
    model = HookedModel(network)
    tokens = torch.randint(3, 300, (1, 15))
    torch.testing.assert_close(model.logits(tokens), model.logits(tokens), atol=0, rtol=0)
    assert network.training


def test_a_bidirectional_model_is_refused():
    config = hf.BertConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96
    )
    with pytest.raises(ValueError, match="is not causal"):
        HookedModel(hf.BertLMHeadModel(config).eval())


def test_an_encoder_decoder_is_refused():
    config = hf.T5Config(vocab_size=300, d_model=48, d_kv=12, d_ff=96, num_layers=2, num_heads=4)
    with pytest.raises(ValueError, match="encoder-decoder"):
        HookedModel(hf.T5ForConditionalGeneration(config).eval())


def test_what_is_no_language_model_is_refused():
    with pytest.raises(ValueError, match="got Linear"):
        HookedModel(torch.nn.Linear(3, 3))


def test_what_transformerlens_cannot_hook_says_so():
    config = hf.FalconConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4,
        alibi=False, new_decoder_architecture=True, num_kv_heads=2,
    )  # fmt: skip
    model = HookedModel(hf.FalconForCausalLM(config).eval())
    with pytest.raises(ValueError, match="TransformerLens cannot hook FalconForCausalLM"):
        score_heads(model, repeated_tokens(model, n_prompts=1, period=5))


@pytest.mark.parametrize(
    ("name", "extras", "message"),
    [
        ("no/such-model", {}, "neither in the local cache nor could it be fetched"),
        ("EleutherAI/pythia-70m", dict(revision="step1000"), "at revision step1000 could not be loaded"),
        ("./nowhere", {}, "There is no file or folder"),
        ("/nowhere/model", {}, "There is no file or folder"),
        ("missing.gguf", {}, "There is no file or folder"),
        ("induction-2l", dict(device="tpu9"), "There is no device 'tpu9' here; there is cpu"),
        ("induction-2l", dict(dtype="int8"), "`dtype` must be one of float32"),
        ("induction-2l", dict(revision="step1"), "one version only"),
    ],
)
def test_what_cannot_be_loaded_says_why_and_what_to_do(name, extras, message):
    with pytest.raises(ValueError, match=message):
        load_model(name, **extras)


def test_a_folder_without_a_model_or_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no config.json"):
        load_model(tmp_path)
    (tmp_path / "model.bin").write_text("x")
    with pytest.raises(ValueError, match="no .gguf"):
        load_model(tmp_path / "model.bin")


@pytest.mark.parametrize("damage", ["truncated", "config", "foreign", "empty"])
def test_damaged_weights_are_one_clear_error(saved_llama, damage):
    folder, _ = saved_llama
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "config":
        config.write_text("{not json")
    elif damage == "foreign":
        config.write_text('{"model_type": "resnet"}')
    else:
        weights.unlink()
    with pytest.raises(ValueError, match="holds no readable causal language model"):
        load_model(folder)


def test_a_truncated_gguf_file_is_one_clear_error(tmp_path):
    (tmp_path / "half.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\x01" * 40)
    with pytest.raises(ValueError, match="holds no readable causal language model"):
        load_model(tmp_path / "half.gguf")


def test_a_model_that_diverged_can_be_wrapped(small):
    with torch.no_grad():
        small.network.W_E.fill_(torch.nan)
    assert HookedModel(small.network).logits(torch.tensor([[0, 1, 2]])).isnan().all()


def test_a_model_spread_by_accelerate_gives_the_same_scores(tmp_path):
    random_network("llama").save_pretrained(tmp_path)
    plain, spread = (load_model(tmp_path, device=device) for device in ("cpu", "auto"))
    one, other = (score_heads(model, repeated_tokens(model, period=8, n_prompts=2)) for model in (plain, spread))
    for name in one.scores:
        torch.testing.assert_close(one[name], other[name].to(one[name].device))
    assert load_model("induction-2l", device="auto").n_layers == 2


@pytest.mark.parametrize("settings", [{}, {"add_bos_token": False}, {"name_or_path": ""}])
def test_a_tokenizer_built_in_memory_has_the_hooks_as_well(settings):
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(300)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w1", **settings)
    before = dict(tokenizer.init_kwargs)
    model, tokens = HookedModel(random_network("llama"), tokenizer), torch.randint(3, 300, (2, 15))
    torch.testing.assert_close(model.hooked(tokens), model.logits(tokens), atol=1e-4, rtol=1e-4)
    assert model.hooked.to_tokens("w5 w6").flatten().tolist()[-2:] == [5, 6]
    assert tokenizer.init_kwargs == before
